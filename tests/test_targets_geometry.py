"""Figures 5, 6 and 8 and composition: planned with Table 1's runs, and made of finished ones."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from conftest import Project
from finished import finish
from PIL import Image
from scipy import stats

from care_core.files import write_json
from carectl import runs, targets
from carectl.plan import Planned, Planner
from carectl.reports.document import DataTable, Document, plain
from carectl.targets import circles, fig6, fig8
from carectl.targets.context import Answer, Context
from carectl.targets.fig6 import Turn

NAMES = ("fig5", "fig6", "fig8", "composition")
Measure = Callable[[Answer, int | None], dict[str, float] | None]


def geometry(**changes: float) -> dict[str, float]:
    """What a probe says of an embedding: a section of result.json."""
    return {
        "wahba": 0.4, "wahba_raw": 4.0, "wahba_held_out": 0.5, "wahba_identity": 0.8,
        "wahba_shuffled": 1.2, "gamma": 2.0, "gamma_median": 0.5, "gamma_shuffled": 3.0,
        "gamma_excluded": 0.0, "displacement": 0.7, "invariance": 0.9, "cosine": 0.75,
        "mean_cosine": 0.1, **changes,
    }  # fmt: skip


def geometry_file(means: dict[str, float]) -> dict[str, Any]:
    """Two augmentations around the means, and two images on paths that turn them alike."""
    path = {
        "unit": "turns", "strength": [0, 0.5, 1], "value": [0, 0.5, 1],
        "displacement": [0, 0.5, 0.25], "angles": [[0.0, 0.5, 0.2], [3.0, 3.5, 3.2]],
    }  # fmt: skip
    counts = [0] * 95 + [1, 0, 0, 0, 3]
    return {
        "augmentations": [{k: v * s for k, v in means.items()} for s in (0.9, 1.1)],
        "cosines": {
            "edges": [n / 50 - 1 for n in range(101)], "counts": [2 * n for n in counts],
            "each": [counts, counts],
        },
        "embedding": {"images": 100, "dimensions": 2},
        "paths": {"hue": path, "crop": path, "brightness": path},
    }  # fmt: skip


def composition(**changes: float) -> dict[str, float]:
    own = {"error": 0.8, "error_median": 0.75, "shuffled": 1.5, "displacement": 0.6, "rank": 12.0,
           "held": 0.999}  # fmt: skip
    fresh = {f"untrained_{key}": value for key, value in own.items()}
    return {**own, "error_identity": 1.0, **fresh, **changes}


def composition_file(means: dict[str, float]) -> dict[str, Any]:
    rows = [{k: means[k] * s for k in ("error", "shuffled", "displacement")} for s in (0.9, 1.1)]
    return {"trained": rows, "untrained": rows}


def done(
    tmp_path: Path, name: str, measure: Measure, profile: str = "digits", **asked: Any
) -> Context:
    """A target whose runs are done where `measure` gives numbers, as nobody computed them."""
    context = Context(name, profile, Planner(tmp_path / "runs", tmp_path / "data"), **asked)
    targets.load(name).plan(context)
    kind = "composition" if name == "composition" else "geometry"
    for answer in context.answers:
        for epoch, planned in answer.probes.items():
            means = measure(answer, epoch)
            if means is not None:
                finish(answer.trained, tmp_path / "runs", {"kind": "pretrain"})
                keep_measured(context, planned, kind, means)
    return context


def keep_measured(context: Context, planned: Planned, kind: str, means: dict[str, float]) -> None:
    final = context.planner.final(planned)
    finish(final, context.planner.runs_dir, {"kind": "probe", kind: means})
    file = (composition_file if kind == "composition" else geometry_file)(means)
    write_json(context.run(planned).path / "artifacts" / f"{kind}.json", file)


def usual(answer: Answer, epoch: int | None) -> dict[str, float]:
    return composition() if "composition" in answer.cell.probes else geometry()


def document(context: Context) -> Document:
    return targets.load(context.target).document(context)


def table(found: Document, key: str) -> DataTable:
    return next(one for one in found.tables if one.key == key)


def values(found: DataTable, row: int) -> dict[str, Any]:
    """A row's numbers in full precision, by column."""
    heads = [column.title for column in found.columns]
    return dict(zip(heads, (cell.value for cell in found.rows[row]), strict=True))


@pytest.mark.parametrize("profile", ["digits", "smoke"])
def test_what_two_targets_train_is_trained_once(tmp_path: Path, profile: str) -> None:
    def trained(name: str) -> set[str]:
        context = Context(name, profile, Planner(tmp_path / "runs", tmp_path / "data"))
        return {answer.trained.identity.sha256 for answer in context.answers}

    shared = trained("table1")
    assert trained("composition") <= shared | trained("fig10")
    assert len(trained("fig5") - shared) == 1  # EquiMod is not in the table's profile
    assert profile == "smoke" or trained("fig8") <= shared
    assert not trained("fig6") & shared  # to the circle


def test_the_same_measurement_of_two_figures_is_one_run(tmp_path: Path) -> None:
    planner = Planner(tmp_path / "runs", tmp_path / "data")
    contexts = [Context(name, "digits", planner) for name in ("table1", "fig5", "fig8")]
    last = [{c.run(a.probed).id for a in c.answers if a.cell.row == "SimCLR"} for c in contexts]
    assert last[0] == last[1] == last[2] and len(last[0]) == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_document_is_made_of_nothing_of_a_part_and_of_everything(
    tmp_path: Path, name: str
) -> None:
    for part, rows in (("none", 0), ("care", 1), ("all", 3)):
        context = done(
            tmp_path / part, name,
            lambda a, epoch, part=part: usual(a, epoch)
            if part == "all" or (part == "care" and "CARE" in a.cell.row) else None,
        )  # fmt: skip
        found = document(context)
        json.dumps(plain(found), allow_nan=False)
        told = " ".join(found.findings)
        assert ("measurements are not there yet" in told) == (part != "all")
        assert found.complete == (part == "all")
        for figure in found.figures:
            png, svg = (tmp_path / part / f"{figure.key}.{kind}" for kind in ("png", "svg"))
            figure.draw(png, svg)
            with Image.open(png) as picture:
                assert picture.width == 1600
            text = "".join(ElementTree.parse(svg).getroot().itertext())
            assert ("nothing is measured yet" in text) == (part == "none")
            assert ("CARE-SimCLR" in text) == (rows > 0)
            assert figure.caption.endswith(".") and "digits" in figure.alt
            if rows:
                assert "CARE-SimCLR" in figure.alt


@pytest.mark.parametrize("name", NAMES)
def test_one_seed_is_said_to_be_no_evidence(tmp_path: Path, name: str) -> None:
    found = document(done(tmp_path, name, usual))
    gaps = [text for text in found.findings if text.startswith("CARE-SimCLR − SimCLR")]
    assert gaps and all("n = 1: one seed is not evidence" in text for text in gaps)
    assert any("n = 1" in note for note in found.tables[0].notes)


def test_fig5_shows_the_errors_that_were_measured_and_their_runs(tmp_path: Path) -> None:
    context = done(
        tmp_path, "fig5", lambda a, _: geometry(wahba_held_out=0.2 if "CARE" in a.cell.row else 0.9)
    )
    found = document(context)
    care = values(table(found, "wahba-digits"), 2)
    assert care["Method"] == "CARE-SimCLR"
    assert (care["Wahba error"], care["Wahba error, raw"]) == (0.4, 4.0)
    assert (care["held out"], care["R = I"], care["shuffled"]) == (0.2, 0.8, 1.2)
    assert care["held out / (R = I)"] == 0.25
    assert care["sd over augmentations"] == pytest.approx(0.04 * 2**0.5)
    probe = next(a.probed for a in context.answers if a.cell.row == "CARE-SimCLR")
    assert table(found, "wahba-digits").rows[2][1].runs == (context.run(probe).id,)
    care_told, base_told = (
        next(t for t in found.findings if t.startswith(f"{row} on digits"))
        for row in ("CARE-SimCLR", "SimCLR")
    )
    assert "takes 75 % off what doing nothing leaves" in care_told
    assert "no rotation does better there than doing nothing" in base_told


def test_a_rotation_that_any_pairing_shows_is_not_called_one(tmp_path: Path) -> None:
    found = document(done(tmp_path, "fig5", lambda a, _: geometry(wahba_shuffled=0.45)))
    assert all(
        "any pairing of them shows" in t for t in found.findings if t.startswith("SimCLR on")
    )


def test_seeds_are_paired_and_their_interval_is_students(tmp_path: Path) -> None:
    errors = {"SimCLR": (0.8, 0.7, 0.6), "CARE-SimCLR": (0.5, 0.45, 0.25)}

    def measure(answer: Answer, _: int | None) -> dict[str, float]:
        several = errors.get(answer.cell.row, (1.0, 1.0, 1.0))
        return composition(error_median=several[answer.cell.seed])

    found = document(done(tmp_path, "composition", measure, seeds=(0, 1, 2)))
    cell = table(found, "composition-digits").rows[1][2]
    assert (cell.text, cell.n) == ("0.400 ± 0.132", 3)
    gaps = [-0.3, -0.25, -0.35]
    low, high = stats.t.interval(0.95, 2, loc=-0.3, scale=stats.sem(gaps))
    told = next(text for text in found.findings if text.startswith("CARE-SimCLR − SimCLR"))
    assert f"n = 3 paired seeds, 95% t interval −{-low:.2f} to −{-high:.2f})" in told


def test_an_interval_that_holds_zero_shows_no_difference(tmp_path: Path) -> None:
    def measure(answer: Answer, _: int | None) -> dict[str, float]:
        care = "CARE" in answer.cell.row
        return composition(error_median=0.5 + (0.2 * (answer.cell.seed - 1) if care else 0))

    found = document(done(tmp_path, "composition", measure, seeds=(0, 1, 2)))
    told = next(text for text in found.findings if text.startswith("CARE-SimCLR − SimCLR"))
    assert told.endswith(": no difference shown).")


def test_composition_stands_beside_its_controls(tmp_path: Path) -> None:
    context = done(
        tmp_path, "composition",
        lambda a, _: composition(error=1.9, untrained_error=math.nan, displacement=0.02),
    )  # fmt: skip
    found = document(context)
    rows = table(found, "composition-digits")
    names = [row[0].text for row in rows.rows]
    assert names == ["SimCLR", "CARE-SimCLR", "uniformity + equivariance", "without training",
                     "R = I"]  # fmt: skip
    assert values(rows, 0)["error"] == 1.9 and values(rows, 0)["rank"] == 12
    assert rows.rows[3][1].text == "–"  # nothing moved there, so that there is no error
    assert values(rows, 4)["error"] == 1.0
    assert "there is little to compose" in found.findings[0]


def test_images_that_turn_alike_agree_and_others_do_not() -> None:
    def path(turns: list[float]) -> dict[str, Any]:
        angles = [[start, start + turn, start] for start, turn in enumerate(turns)]
        return {"angles": angles, "displacement": [0, 1, 0]}

    alike, opposite = fig6.turn(path([0.5] * 4)), fig6.turn(path([0.5, -0.5] * 2))
    half = math.degrees(0.5)
    assert alike == pytest.approx(Turn(half, half, 1.0))
    assert opposite == pytest.approx(Turn(0.0, half, math.cos(0.5)))
    around = fig6.turn(path([0, math.pi / 2, math.pi, 3 * math.pi / 2]))
    assert around is not None and around.agreement == pytest.approx(0, abs=1e-9)
    assert fig6.turn({"angles": None, "displacement": [0, 1]}) is None


def test_a_path_over_the_end_of_the_circle_goes_the_shorter_way() -> None:
    found = circles.unwrapped([3.0, -3.0, -2.5])
    assert found == pytest.approx([3.0, 2 * math.pi - 3.0, 2 * math.pi - 2.5])


def test_fig6_counts_cosines_and_tells_turns(tmp_path: Path) -> None:
    found = document(done(tmp_path, "fig6", usual))
    row = values(table(found, "cosines-digits"), 1)
    assert (row["cosine of f(x), f(a(x))"], row["at least 0.9"]) == (0.75, 100.0)
    turns = values(table(found, "turns-digits"), 0)
    assert turns["path"] == "hue"
    assert (turns["mean turn"], turns["agreement"]) == pytest.approx((math.degrees(0.5), 1.0))


def test_fig8_has_a_row_an_epoch_with_what_was_measured_then(tmp_path: Path) -> None:
    context = done(tmp_path, "fig8", lambda a, epoch: geometry(gamma=float(epoch or 0)))
    found = document(context)
    rows = [values(table(found, "curves-digits"), n) for n in range(12)]
    assert [(r["epoch"], r["γ, mean"]) for r in rows] == [(e, e) for e in range(5, 31, 5)] * 2
    assert all(r["displacement"] == 0.7 and r["γ, median"] == 0.5 for r in rows)
    assert any("γ alone proves nothing" in text for text in found.findings)
    assert any("mean γ of 30, and of 3 where images are paired" in text for text in found.findings)


def test_recipes_of_fig8_keep_the_epochs_that_it_asks_for(tmp_path: Path) -> None:
    planner = Planner(tmp_path / "runs", tmp_path / "data")
    for answer in Context("table1", "digits", planner).answers:
        if answer.cell.row in ("SimCLR", "CARE-SimCLR"):
            assert answer.spec.checkpoint.keep == 5  # also where the figure is not asked for
    assert not fig8.lost(Context("fig8", "digits", planner))


def test_a_checkpoint_that_was_not_kept_is_told_with_the_way_to_get_it(tmp_path: Path) -> None:
    context = done(tmp_path, "fig8", lambda a, epoch: geometry() if epoch == 30 else None)
    care = next(a for a in context.answers if a.cell.row == "CARE-SimCLR")
    folder = context.run(care.trained).path / "checkpoints"
    folder.mkdir()
    (folder / "e0025-s00000275-0000000000000000.pt").touch()
    assert runs.epochs(context.run(care.trained)) == [25]
    told = next(text for text in document(context).warnings if "CARE-SimCLR" in text)
    assert "kept no checkpoint of epochs 5, 10, 15, 20. Move its folder away" in told
    assert context.run(care.trained).id in told and "checkpoint.keep: 5" in told
    blocked = [run for run in context.planner.refresh() if run.action == "blocked"]
    assert len(blocked) == 4 + 5  # SimCLR's kept none at all


@pytest.mark.long
def test_a_figure_comes_of_real_runs(project: Project) -> None:
    only = ("--profile", "smoke", "--only", "care")
    found = project.json("reproduce", "fig8", *only)
    rows = next(t for t in found["documents"]["fig8"]["tables"] if t["key"] == "curves-digits")
    epochs = [row[1]["value"] for row in rows["rows"]]
    assert epochs == [1, 2]
    assert all(0 < cell["value"] < math.inf for row in rows["rows"] for cell in row[2:4])
    assert (project.path / found["report"]["training-digits.png"]).exists()
    assert {run["state"] for run in found["documents"]["fig8"]["runs"]} == {"done"}
