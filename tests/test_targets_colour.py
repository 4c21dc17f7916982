"""Figures 7, 9 and 10 say what their runs measured, gaps too; the plots of an evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import Project
from finished import finish, probe_result
from PIL import Image
from scipy import stats

from care_core.files import write_json
from carectl import targets
from carectl.errors import CommandError
from carectl.plan import Planner
from carectl.reports import plots
from carectl.reports.document import DataTable, Document, plain
from carectl.runs import Run
from carectl.targets.context import Answer, Context

Measure = Callable[[Answer], dict[str, Any] | None]
NAMES = ("fig7", "fig9", "fig10")


def colour(agreement: float = 0.4) -> dict[str, float]:
    """What a probe says of colours, each number another."""
    measures = (
        "agreement", "hue_r2", "hue_shift_r2", "hue_shift_r2_products", "jitter_r2",
        "jitter_r2_products", "crop_r2", "crop_r2_products", "hue_gap_moved",
    )  # fmt: skip
    found = {
        f"{key}_{layer}": number / 20 + shift
        for number, key in enumerate(measures)
        for layer, shift in (("projection", 0.01), ("backbone", 0.02))
    }
    return {**found, "agreement_projection": agreement, "hue_gap_chance": 0.25}


def geometry(mean_cosine: float) -> dict[str, float]:
    return {
        "cosine": 0.8, "mean_cosine": mean_cosine, "effective_rank": 7.5, "gamma": 1.0,
        "wahba": 0.4, "collapsed": float(mean_cosine > 0.9),
    }  # fmt: skip


def keep_geometry(folder: Path, mean_cosine: float = 0.1) -> None:
    """artifacts/geometry.json: 3 of 4 cosines in the last bin, 1 in the first."""
    write_json(
        folder / "geometry.json",
        {
            "augmentations": [{"wahba": 0.3, "wahba_identity": 0.6}] * 2,
            "parameters": [{"crop": [0, 0, 8, 9], "gray": True}, {"jitter": {"hue": -0.2}}],
            "cosines": {"edges": [n / 50 - 1 for n in range(101)], "counts": [1, *[0] * 98, 3]},
            "embedding": {"mean_cosine": mean_cosine, "images": 4},
            "components": [[0, 0], [1, 0], [0, 1], [1, 1]], "labels": [0, 1, 2, 0],
            "hues": [0.1, 0.5, 0.9, 0.3], "path_images": [0, 2],
            "moved": [[[0.1, 0], [0.2, 1]], [[0.4, 0], [0.3, 1]]],
        },
    )  # fmt: skip


def keep_colour(folder: Path) -> None:
    """Two queries of two neighbours each; of the second query one neighbour stays."""

    def query(position: int, still: list[int], moved: list[int], share: float) -> dict[str, Any]:
        sides = {"still": {"positions": still}, "moved": {"positions": moved}, "agreement": share}
        return {"position": position, "label": 1, "hue": 0.2, "backbone": sides,
                "projection": sides}  # fmt: skip

    queries = [query(3, [1, 2], [5, 6], 0.0), query(7, [1, 4], [4, 8], 0.5)]
    write_json(folder / "colour.json", {"hue_shift": 0.2, "queries": queries})
    pictures = {name: np.full((2, 4, 4, 3), 90, np.uint8) for name in ("query", "moved")}
    for name in ("backbone_still", "backbone_moved", "projection_still", "projection_moved"):
        pictures[name] = np.full((2, 2, 4, 4, 3), 180, np.uint8)
    np.savez_compressed(folder / "colour.npz", **pictures)


def done(tmp_path: Path, name: str, measure: Measure, **asked: Any) -> Context:
    """A target whose cells are done where `measure` gives a probe's result."""
    asked = {"profile": "digits", **asked}
    context = Context(name, planner=Planner(tmp_path / "runs", tmp_path / "data"), **asked)
    targets.load(name).plan(context)
    for answer in context.answers:
        found = measure(answer)
        if found is None:
            continue
        finish(answer.trained, tmp_path / "runs", {"kind": "pretrain"})
        finish(context.planner.final(answer.probed), tmp_path / "runs", found)
        folder = context.run(answer.probed).path / "artifacts"
        folder.mkdir()
        if "geometry" in found:
            keep_geometry(folder, found["geometry"].get("mean_cosine", 0.1))
        if "colour" in found:
            keep_colour(folder)
    return context


def usual(answer: Answer) -> dict[str, Any]:
    alone = answer.cell.row == "equivariance"
    found = probe_result([30.0 if alone else 95.0], geometry=geometry(0.98 if alone else 0.2))
    return found | ({"colour": colour()} if "colour" in answer.cell.probes else {})


def document(context: Context) -> Document:
    return targets.load(context.target).document(context)


def row_of(found: Document, key: str, name: str) -> dict[str, Any]:
    """A row's numbers in full precision, by column."""
    table: DataTable = next(one for one in found.tables if one.key == key)
    heads = [column.title for column in table.columns]
    row = next(row for row in table.rows if row[0].text == name)
    return dict(zip(heads, (cell.value for cell in row), strict=True))


def text_of(found: Document, key: str, folder: Path) -> str:
    """The words in a figure."""
    figure = next(one for one in found.figures if one.key == key)
    figure.draw(folder / "x.png", folder / "x.svg")
    return "".join(ElementTree.parse(folder / "x.svg").getroot().itertext())


@pytest.mark.parametrize("profile", ["digits", "smoke"])
def test_what_table_1_trains_is_not_trained_again(tmp_path: Path, profile: str) -> None:
    def trained(name: str, profile: str) -> dict[str, str]:
        context = Context(name, profile, Planner(tmp_path / "runs", tmp_path / "data"))
        return {answer.cell.row: answer.trained.identity.sha256 for answer in context.answers}

    table1 = trained("table1", "digits-all" if profile == "digits" else "smoke")
    sweep, terms = trained("fig7", profile), trained("fig10", profile)
    both = [table1["SimCLR"], table1["CARE-SimCLR"]]
    assert [sweep["λ = 0"], sweep["λ = 0.1"]] == both
    assert [terms["alignment + uniformity"], terms["all three"]] == both
    assert len({*sweep.values(), *terms.values(), *both}) == len(sweep) + len(terms) - 2
    for row, run in trained("fig9", profile).items():
        assert run == table1.get(row, run)


def test_the_probes_of_one_encoder_for_all_targets_are_one_run(tmp_path: Path) -> None:
    planner = Planner(tmp_path / "runs", tmp_path / "data")
    contexts = [Context(name, "digits", planner) for name in ("table1", *NAMES)]
    care = {"CARE-SimCLR", "λ = 0.1", "all three"}
    asked = [a for c in contexts for a in c.answers if a.cell.row in care]
    assert len(asked) == 4
    assert len({planner.final(answer.probed).identity.sha256 for answer in asked}) == 1


def test_the_ablations_leave_out_what_they_say(tmp_path: Path) -> None:
    context = Context("fig10", "digits-all", Planner(tmp_path / "runs", tmp_path / "data"))
    assert len({a.trained.identity.sha256 for a in context.answers}) == 7
    for answer in context.answers:
        loss, row = answer.spec.loss, answer.cell.row
        whole = loss.method > 0  # InfoNCE is alignment and uniformity
        assert (whole or loss.alignment > 0) == ("alignment" in row or row == "all three")
        assert (whole or loss.uniformity > 0) == ("uniformity" in row or row == "all three")
        equi = answer.spec.equivariance.weight > 0
        assert equi == ("equivariance" in row or row == "all three")


@pytest.mark.parametrize("name", NAMES)
def test_a_document_is_made_of_nothing_of_a_part_and_of_everything(
    tmp_path: Path, name: str
) -> None:
    parts: dict[str, Measure] = {
        "none": lambda answer: None,
        "part": lambda answer: usual(answer) if answer.cell.row in ("SimCLR", "λ = 0.3",
                                                                    "equivariance") else None,
        "all": usual,
    }  # fmt: skip
    for part, measure in parts.items():
        found = document(done(tmp_path / part, name, measure))
        json.dumps(plain(found), allow_nan=False)
        assert found.complete == (part == "all")
        assert any("not there yet" in t or "not run" in t for t in found.findings) == (
            part != "all"
        )
        for figure in found.figures:
            png, svg = (tmp_path / part / f"{figure.key}.{kind}" for kind in ("png", "svg"))
            figure.draw(png, svg)
            with Image.open(png) as picture:
                assert picture.width == 1600
            assert ElementTree.parse(svg).getroot().tag.endswith("svg")
            assert figure.caption.endswith(".") and "digits" in figure.alt


def test_fig7_pairs_each_weight_with_zero_by_seed(tmp_path: Path) -> None:
    accuracy = {0.0: (90.0, 92.0, 91.0), 0.03: (93.0, 95.5, 94.2), 1.0: (89.0, 93.0, 90.5)}

    def measure(answer: Answer) -> dict[str, Any] | None:
        several = accuracy.get(answer.spec.equivariance.weight)
        return several and probe_result([several[answer.cell.seed]])

    found = document(done(tmp_path, "fig7", measure, seeds=(0, 1, 2)))
    row = row_of(found, "weights-digits", "0.03")
    gaps = [3.0, 3.5, 3.2]
    assert row["λ"] == 0.03 and row["n"] == 3
    assert row["Linear probe"] == pytest.approx(np.mean(accuracy[0.03]))
    assert row["projection"] == pytest.approx(np.mean(accuracy[0.03]) - 3)
    assert row["− (λ = 0)"] == pytest.approx(np.mean(gaps))
    table = found.tables[0]
    cell = next(r for r in table.rows if r[0].value == 0.03)[3]
    low, high = stats.t.interval(0.95, 2, loc=np.mean(gaps), scale=stats.sem(gaps))
    assert (cell.low, cell.high) == (pytest.approx(low), pytest.approx(high))
    assert cell.strong and not next(r for r in table.rows if r[0].value == 1.0)[3].strong
    told = " ".join(found.findings)
    assert "leaves zero out at λ = 0.03 (+3.2)" in told and "λ = 1 (" not in told
    assert "within the range that the paper calls best" in told
    assert "the paper's best" in text_of(found, "accuracy-over-weight-digits", tmp_path)


def test_fig7_calls_one_seed_no_evidence_of_a_best_weight(tmp_path: Path) -> None:
    found = document(done(tmp_path, "fig7", usual))
    assert "At one seed that is no evidence of a best λ." in found.findings[0]
    assert not any(cell.strong for row in found.tables[0].rows for cell in row)


def test_fig9_shows_what_was_measured_and_whose_neighbours_stayed(tmp_path: Path) -> None:
    shares = {"SimCLR": 0.6, "CARE-SimCLR": 0.25, "EquiMod-SimCLR": 0.4}
    context = done(
        tmp_path, "fig9",
        lambda a: {"kind": "probe", "colour": colour(shares[a.cell.row])},
    )  # fmt: skip
    found = document(context)
    care = row_of(found, "colour-projection-digits", "CARE-SimCLR")
    given = colour(0.25)
    assert care["neighbours that stay, share"] == 0.25
    assert care["own hue, R²"] == given["hue_r2_projection"]
    assert care["hue shift, R²"] == given["hue_shift_r2_products_projection"]
    assert care["crop, linear, R²"] == given["crop_r2_projection"]
    deep = row_of(found, "colour-backbone-digits", "SimCLR")
    assert deep["jitter, R²"] == given["jitter_r2_products_backbone"]
    gap = row_of(found, "colour-differences-digits", "CARE-SimCLR − SimCLR, projection")
    assert gap["neighbours that stay, share"] == pytest.approx(-0.35)
    assert any("25 % of the projection's neighbours stay" in text for text in found.findings)
    assert all("n = 1" in text for text in found.findings)
    words = text_of(found, "neighbours-projection-digits", tmp_path)
    assert words.count("0 of 2") == 3 and words.count("1 of 2") == 3
    assert "CARE-SimCLR, seed 0" in words


def test_fig10_names_what_collapses_and_only_that(tmp_path: Path) -> None:
    found = document(done(tmp_path, "fig10", usual))
    assert "On digits equivariance alone collapses: the mean cosine" in found.findings[0]
    assert sum("collapses" in text for text in found.findings) == 1
    alone = row_of(found, "terms-digits", "equivariance")
    assert (alone["Linear probe"], alone["cos, different images"]) == (30.0, 0.98)
    rows = {row[0].text: row[1].text for row in found.tables[0].rows}
    assert rows.pop("equivariance") == "collapsed" and set(rows.values()) == {"no"}
    figure = next(one for one in found.figures if one.key == "cosines-digits")
    shares = figure.data["all three"]
    assert (shares["per cent"][0], shares["per cent"][-1]) == (25, 75)
    assert sum(shares["per cent"]) == 100 and len(shares["edges"]) == 51
    assert text_of(found, "cosines-digits", tmp_path).count("collapsed") == 1
    spread = document(done(tmp_path / "other", "fig10", lambda a: probe_result(
        [95.0], geometry=geometry(0.2))))  # fmt: skip
    assert not any("collapses" in text for text in spread.findings)
    assert any("equivariance alone did not collapse here" in text for text in spread.findings)


def test_plots_draw_what_was_measured_and_no_more(tmp_path: Path) -> None:
    probe = Run(tmp_path / "probe-x")
    folder = probe.path / "artifacts"
    folder.mkdir(parents=True)
    with pytest.raises(CommandError, match="nothing to draw"):
        plots.draw(probe, None)

    def drawn() -> set[str]:
        for path in (found := plots.draw(probe, None)):
            assert path.parent == folder and path.stat().st_size > 3000
        return {path.name for path in found if path.suffix == ".png"}

    keep_geometry(folder)
    assert drawn() == {"geometry.png", "embedding.png"}
    words = "".join(ElementTree.parse(folder / "embedding.svg").getroot().itertext())
    assert "by augmentation" in words and "crop 8×9, grey" in words and "hue −0.20" in words
    keep_colour(folder)
    assert drawn() == {
        "geometry.png", "embedding.png", "neighbours-projection.png", "neighbours-backbone.png",
    }  # fmt: skip


@pytest.mark.long
def test_fig9_is_reproduced_from_nothing_and_its_run_is_plotted(project: Project) -> None:
    found = project.json("reproduce", "fig9", "--profile", "smoke", "--only", "CARE-SimCLR")
    folder = project.path / "reports" / "fig9-smoke-only-CARE-SimCLR"
    for name in ("index.html", "neighbours-projection-digits.png", "colour-numbers-digits.svg"):
        assert (folder / name).stat().st_size > 3000
    (table,) = (t for t in found["documents"]["fig9"]["tables"]
                if t["key"] == "colour-projection-digits")  # fmt: skip
    probe = next(run["run"] for run in found["plan"] if run["kind"] == "probe")
    result = json.loads((project.runs / probe / "result.json").read_text())
    assert table["rows"][0][1]["value"] == result["colour"]["hue_r2_projection"]

    trained = next(run["run"] for run in found["plan"] if run["kind"] == "pretrain")
    plotted = project.json("eval", trained, "--plots", "--probe", "knn")
    assert {Path(path).name for path in plotted["plots"]} == {
        f"{name}.{kind}"
        for name in ("curves", "geometry", "embedding", "neighbours-projection",
                     "neighbours-backbone")
        for kind in ("png", "svg")
    }  # fmt: skip
    assert all((project.path / path).exists() for path in plotted["plots"])
