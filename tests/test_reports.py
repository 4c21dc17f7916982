"""A summary's numbers are right, its gaps are visible, and its words claim no more than it has."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from conftest import tiny
from PIL import Image
from scipy import stats

from carectl.reports import bars, curves, marks, words
from carectl.reports.summary import Entry, Line, Table, summarise
from carectl.runs import Run


@dataclass(frozen=True)
class Published:
    mean: float
    sd: float | None = None
    uncertain: bool = False
    cited: bool = False


def nothing(row: str, dataset: str) -> None:
    return None


def result(backbone: list[float], **other: Any) -> dict[str, Any]:
    return {"measured_on": "test", "images": 360, "linear": {"backbone": backbone}, **other}


@pytest.fixture
def entry(tmp_path: Path) -> Callable[..., Entry]:
    def make(
        row: str, seed: int, found: dict[str, Any] | None = None, dataset: str = "digits",
        error: str = "", specs: tuple[dict[str, Any], dict[str, Any]] = ({}, {}), **asked: Any,
    ) -> Entry:  # fmt: skip
        folders = []
        for number, kind in enumerate(("pretrain", "probe")):
            path = tmp_path / f"{kind}-{len(list(tmp_path.iterdir())):011x}{number}"
            path.mkdir()
            (path / "spec.json").write_text(json.dumps({"kind": kind, "spec": specs[number]}))
            folders.append(Run(path))
        pretrain, probe = folders
        if error:
            (pretrain.path / "attempts/1").mkdir(parents=True)
            note = json.dumps({"message": error})
            (pretrain.path / "attempts/1/error.json").write_text(note)
        if found is not None:
            (probe.path / "result.json").write_text(json.dumps(found))
        return Entry(row, dataset, seed, pretrain, probe, **asked)

    return make


def line(
    table: Table, row: str, measure: str = "linear, backbone", dataset: str = "digits"
) -> Line:
    found = table.line(row, dataset, measure)
    assert found is not None
    return found


def test_three_seeds_give_mean_sd_and_t_interval_over_pretraining_seeds(entry) -> None:
    scores = [[88.0, 90.0], [90.0, 92.0], [94.0, 94.0]]  # means 89, 91, 94
    table = summarise([entry("SimCLR", s, result(x)) for s, x in enumerate(scores)], nothing)
    got = line(table, "SimCLR")
    assert got.values == (89, 91, 94) and got.seeds == (0, 1, 2) and got.n == 3
    assert got.mean == pytest.approx(274 / 3)
    assert got.sd == pytest.approx((38 / 3 / 2) ** 0.5)
    assert got.sd_classifier == pytest.approx((2**0.5 + 2**0.5 + 0) / 3)
    expected = stats.t.interval(0.95, 2, loc=274 / 3, scale=stats.sem([89, 91, 94]))
    assert (got.low, got.high) == pytest.approx(expected)
    assert got.interval is not None and "t interval over pretraining seeds" in got.interval
    assert words.headline(got) == "91.33 ± 2.52"


@pytest.mark.parametrize(("hits", "images"), [(324, 360), (0, 50), (50, 50), (9012, 10000)])
def test_one_seed_gives_the_wilson_interval_over_images_and_no_sd(entry, hits, images) -> None:
    found = result([100 * hits / images]) | {"images": images}
    got = line(summarise([entry("SimCLR", 0, found)], nothing), "SimCLR")
    expected = stats.binomtest(hits, images).proportion_ci(0.95, method="wilson")
    assert got.low == pytest.approx(100 * expected.low, abs=1e-9)
    assert got.high == pytest.approx(100 * expected.high, abs=1e-9)
    assert got.interval is not None and "Wilson" in got.interval and "images" in got.interval
    assert got.sd is None and got.sd_classifier is None


def test_one_seed_of_a_measure_that_is_no_share_has_no_interval(entry) -> None:
    found = result([90.0], hue_r2={"backbone": 0.5, "projection": -0.2})
    table = summarise([entry("SimCLR", 0, found)], nothing)
    for measure, value in (("hue R², backbone", 0.5), ("hue R², projection", -0.2)):
        got = line(table, "SimCLR", measure)
        assert (got.mean, got.low, got.high, got.interval) == (value, None, None, None)


def test_differences_are_paired_by_seed_and_use_only_the_seeds_of_both(entry) -> None:
    base = {0: 80.0, 1: 90.0, 2: 85.0, 3: 10.0}
    care = {2: 86.5, 1: 92.0, 0: 81.0, 7: 99.0}
    entries = [entry("Barlow Twins", s, result([x])) for s, x in base.items()]
    entries += [entry("CARE-Barlow", s, result([x])) for s, x in care.items()]
    (gap,) = summarise(entries, nothing).differences
    gaps = [1.5, 2.0, 1.0]
    assert (gap.base, sorted(gap.seeds)) == ("Barlow Twins", [0, 1, 2])
    assert gap.mean == pytest.approx(1.5) and gap.sd == pytest.approx(0.5)
    expected = stats.t.interval(0.95, 2, loc=1.5, scale=stats.sem(gaps))
    assert (gap.low, gap.high) == pytest.approx(expected)


def test_a_difference_of_one_seed_says_that_it_is_not_evidence(entry) -> None:
    entries = [entry("SimCLR", 0, result([90.0])), entry("CARE-SimCLR", 0, result([87.8]))]
    table = summarise(entries, nothing)
    assert table.differences[0].note == "one seed: not evidence"
    assert words.sentences(table) == [
        "CARE-SimCLR − SimCLR, linear probe on the backbone: −2.2 points "
        "(n = 1: one seed is not evidence)"
    ]


@pytest.mark.parametrize(("gains", "shown"), [((5.0, 5.1, 4.9), True), ((5.0, -4.0, 1.0), False)])
def test_a_difference_whose_interval_holds_zero_is_called_no_difference(
    entry, gains, shown
) -> None:
    entries = [entry("SimCLR", s, result([80.0])) for s in range(3)]
    entries += [entry("CARE-SimCLR", s, result([80.0 + g])) for s, g in enumerate(gains)]
    (sentence,) = words.sentences(summarise(entries, nothing))
    assert ("no difference shown" in sentence) is not shown
    assert "n = 3 paired seeds" in sentence


def test_the_same_row_on_another_dataset_is_not_its_pair(entry) -> None:
    entries = [entry("SimCLR", 0, result([80.0]), "cifar10")]
    entries += [entry("CARE-SimCLR", 0, result([90.0]), "stl10")]
    assert summarise(entries, nothing).differences == ()


def test_missing_and_failed_cells_stay_in_the_table_with_their_state(entry) -> None:
    entries = [entry("A", 0, result([90.0])), entry("A", 1), entry("B", 0)]
    entries += [entry("C", 0, error="the loss is nan"), entry("D", 0, {"kind": "probe"})]
    table = summarise(entries, nothing)
    states = [(c.row, c.seed, c.state) for c in table.cells]
    assert states == [
        ("A", 0, "measured"), ("A", 1, "not run"), ("B", 0, "not run"), ("C", 0, "failed"),
        ("D", 0, "failed"),
    ]  # fmt: skip
    assert "the loss is nan" in table.cells[3].reason
    assert line(table, "A").n == 1 and line(table, "A").seeds == (0,)
    assert line(table, "B").mean is None and line(table, "B").probes == ()
    assert words.sentences(table)[-2:] == [
        "2 of 5 cells and seeds: failed.",
        "2 of 5 cells and seeds: not run.",
    ]
    assert [words.state_of(table, row, "digits") for row in "BC"] == ["not run", "failed"]


@pytest.mark.parametrize("bad", [None, float("nan"), "ninety", [], [90.0, None], {"a": 1}])
def test_a_value_that_is_no_number_is_a_gap_and_not_a_number(entry, bad) -> None:
    found = result([90.0], knn={"backbone": bad}, geometry="torn")
    table = summarise([entry("SimCLR", 0, found)], nothing)
    assert table.line("SimCLR", "digits", "kNN, backbone") is None
    assert line(table, "SimCLR").mean == 90.0


def test_a_repeated_entry_counts_once(entry) -> None:
    one = entry("SimCLR", 0, result([90.0]))
    assert line(summarise([one, one], nothing), "SimCLR").n == 1


def test_the_papers_figure_stands_beside_the_headline_alone(entry) -> None:
    def reference(row: str, dataset: str) -> Published | None:
        return Published(90.98, 0.1, uncertain=True) if row != "Other" else None

    found = result([90.0, 91.0], knn={"backbone": 85.0})
    entries = [entry(row, 0, found, "cifar10") for row in ("SimCLR", "Other")]
    table = summarise(entries, reference, [("Quoted", "cifar10")])
    got = line(table, "SimCLR", dataset="cifar10")
    assert (got.paper, got.paper_sd, got.paper_note) == (90.98, 0.1, "uncertain")
    assert got.delta == pytest.approx(-0.48)
    assert words.paper(got) == "90.98 ± 0.10†"
    assert line(table, "SimCLR", "kNN, backbone", "cifar10").paper is None
    assert line(table, "Other", dataset="cifar10").delta is None
    assert line(table, "Quoted", dataset="cifar10").paper == 90.98
    assert words.state_of(table, "Quoted", "cifar10") == "cited"
    assert [row for _, row in table.rows] == ["SimCLR", "Other", "Quoted"]


def drawn(table: Table, folder: Path) -> str:
    """The words in the picture of a table, on one line."""
    bars.draw(table, folder / "bars.png", folder / "bars.svg")
    with Image.open(folder / "bars.png") as image:
        assert image.width == 1600 and image.height > 300
    return " ".join("".join(ElementTree.parse(folder / "bars.svg").getroot().itertext()).split())


def test_a_truncated_axis_and_the_interval_are_named_in_the_picture(entry, tmp_path) -> None:
    table = summarise([entry("SimCLR", 0, result([90.0]))], lambda *_: Published(91.0))
    told = drawn(table, tmp_path)
    assert "not 0)" in told and "Wilson" in told
    assert "360 test images" in told and "preset: paper" in told and "n = 1" in told


def test_a_grid_of_which_nothing_ran_is_drawn(entry, tmp_path) -> None:
    assert "not run" in drawn(summarise([entry("SimCLR", 0)], nothing), tmp_path)


def ran(preset: str, **probe: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a pretraining under a preset and its probe record as their specs."""
    linear = {"linear": probe} if probe else {}
    trained = tiny(fidelity=preset, probe=linear).model_dump(mode="json")
    return trained, {"probe": trained["probe"]}


LEAKY = (
    "official preset: test images in the kNN check (4), probed in train mode (5), "
    "selected on the test set (11): not comparable"
)


def test_a_table_made_with_leaks_says_so_in_its_picture_and_beside_its_numbers(
    entry, tmp_path
) -> None:
    paper = summarise([entry("SimCLR", 0, result([90.0]), specs=ran("paper"))], nothing)
    assert (paper.fidelity, paper.warning) == ("paper", "")
    table = summarise([entry("SimCLR", 0, result([90.0]), specs=ran("official"))], nothing)
    assert (table.fidelity, table.warning) == ("official", LEAKY)
    assert words.headline(line(table, "SimCLR")).endswith("]§")
    assert len(line(table, "SimCLR").marks) == 3
    told = drawn(table, tmp_path)
    assert LEAKY in told and "Fidelity preset: official" in told


def test_marks_come_from_what_was_run_and_not_from_what_was_asked(entry) -> None:
    probed = ran("official", backbone="eval", augmentation="none", report="last")[1]
    trained = ran("official")[0] | {"checkpoint": {"select": "last"}}
    kept = entry("SimCLR", 0, result([90.0]), specs=(trained, probed), fidelity="paper")
    assert summarise([kept], nothing).marks == ("test images in the kNN check (4)",)
    best = entry("SimCLR", 0, result([90.0], linear_report="best"), specs=ran("paper"))
    assert summarise([best], nothing).marks == ("selected on the test set (11)",)


def test_a_table_of_both_presets_marks_the_leaky_rows_alone(entry) -> None:
    entries = [entry("A", 0, result([90.0]), specs=ran("paper"))]
    entries += [entry("B", 0, result([91.0]), specs=ran("official"))]
    table = summarise(entries, nothing)
    assert table.fidelity == "paper and official"
    assert line(table, "A").marks == () and len(line(table, "B").marks) == 3
    assert ["§" in words.headline(line(table, row)) for row in "AB"] == [False, True]


def test_what_was_not_run_is_of_the_preset_asked_for_and_has_no_marks(entry) -> None:
    table = summarise([entry("A", 0, fidelity="official")], nothing)
    assert (table.fidelity, table.marks) == ("official", ())


def test_settings_that_are_not_the_recipes_are_told(entry) -> None:
    asked = marks.changes(
        tiny(training={"epochs": 9, "batch_size": 128}, log={"every_steps": 7}), tiny()
    )
    assert asked == ("training.epochs 9 (recipe 2)",)
    probed = marks.changes(tiny(probe={"folds": 5}), tiny(probe={}))
    assert probed == ("probe.folds 5 (recipe 0)",)
    table = summarise([entry("A", 0, result([90.0]), changes=asked)], nothing)
    assert words.caveats(table)[-1] == "Not the recipes' settings: training.epochs 9 (recipe 2)."
    many = tuple(f"k{n} 1 (recipe 2)" for n in range(8))
    assert marks.changed(many).endswith("k5 1 (recipe 2) and 2 more.")


def metrics_file(folder: Path, rows: list[tuple[str, float, int]]) -> None:
    folder.mkdir()
    text = "".join(
        json.dumps({"key": k, "value": v, "step": s, "timestamp": 0}) + "\n" for k, v, s in rows
    )
    (folder / "metrics.jsonl").write_text(text)


def test_curves_are_drawn_over_epochs_with_a_panel_for_each_kind_of_measure(tmp_path) -> None:
    rows = [(key, 1.0 / step, step) for step in range(1, 41) for key in ("loss", "info_nce", "lr")]
    rows += [("equivariance", 0.2, 10), ("knn", 50.0, 20), ("epoch", 1.0, 20), ("epoch", 2.0, 40)]
    metrics_file(tmp_path / "run", rows)
    panels, along = curves._panels(tmp_path / "run")
    assert along == "epoch"
    keys = [list(panel.curves) for panel in panels]
    assert keys == [["loss", "info_nce"], ["equivariance"], ["knn"], ["lr"]]
    assert panels[0].curves["loss"][-1] == (2.0, 1 / 40) and panels[2].curves["knn"][0][0] == 1.0
    path = curves.draw(tmp_path / "run")
    assert path == tmp_path / "run/artifacts/curves.png"
    with Image.open(path) as image:
        assert image.size == (1400, 896)


def test_curves_of_a_run_with_little_or_nothing_recorded_are_still_drawn(tmp_path) -> None:
    metrics_file(tmp_path / "some", [("loss", 2.0, 5)])
    assert curves._panels(tmp_path / "some")[1] == "step"
    (tmp_path / "none").mkdir()
    for name in ("some", "none"):
        with Image.open(curves.draw(tmp_path / name)) as image:
            assert image.size == (1400, 490)


def test_importing_the_reports_loads_neither_torch_nor_matplotlib() -> None:
    code = (
        "import sys, carectl.targets.table1, carectl.reports.writing, carectl.reports.terminal\n"
        "import carectl.reports.drawing\n"
        "print([m for m in ('torch', 'matplotlib', 'scipy', 'mlflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
