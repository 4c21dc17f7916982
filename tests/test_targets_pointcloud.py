"""Point clouds: planned without files, and made of finished runs, of some of them and of none."""

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

from care_core.files import write_json
from carectl import targets
from carectl.errors import CommandError
from carectl.plan import Planner
from carectl.reports.document import DataTable, Document, plain
from carectl.targets.context import Answer, Context

ROWS = ["SimCLR", "CARE-SimCLR", "equivariance + uniformity"]
Measure = Callable[[Answer], dict[str, Any] | None]


def measured(
    off: float = 30.0, held: float = 0.25, still: float = 0.27, moved: float = 0.2, **geometry: Any
) -> dict[str, Any]:
    """What a probe of clouds leaves: the axis `off` degrees off in the projection."""

    def read(projection: float, backbone: float, r2: float) -> dict[str, Any]:
        angle = {"backbone": backbone, "projection": projection}
        below = {"backbone": 0.8, "projection": r2}
        return {"angle": angle, "median": {k: v - 1 for k, v in angle.items()}, "r2": below}

    return {
        "kind": "probe", "measured_on": "test", "images": 1024, "seconds": 3.0,
        "linear": {"backbone": [90.0, 92.0], "projection": [85.0]},
        "knn": {"backbone": 88.0, "projection": 80.0},
        "axis": {**read(off, 8.0, 0.4), "untrained": read(16.0, 9.0, 0.6), "path_radius": 0.3,
                 "path_length": 2.5, "path_plane": 0.9},
        "geometry": {"wahba": 0.2, "wahba_held_out": held, "wahba_identity": still,
                     "wahba_shuffled": 1.2, "displacement": moved, "effective_rank": 5.0,
                     "collapsed": 0.0, **geometry},
    }  # fmt: skip


def usual(answer: Answer) -> dict[str, Any]:
    """As was measured: CARE nearly invariant, the structure where nothing asks for invariance."""
    return {
        "SimCLR": measured(50.0, 0.22, 0.21),
        "CARE-SimCLR": measured(),
        "equivariance + uniformity": measured(5.0, 0.2, 1.4, 1.4),
    }[answer.cell.row]


def circles(count: int = 4, radius: float = 0.5) -> dict[str, Any]:
    """Clouds whose projections go around, a turn of eight steps about each axis."""
    angles = [2 * math.pi * step / 8 for step in range(8)]
    plane = [[radius * math.cos(angle), radius * math.sin(angle)] for angle in angles]
    path = {"plane": plane, "own": plane, "share": 1.0, "radius": radius, "length": 3.0}
    return {"angles": angles, "share": 0.75, "labels": [0] * count,
            "clouds": [dict.fromkeys("xyz", path)] * count}  # fmt: skip


def done(
    tmp_path: Path, measure: Measure = usual, profile: str = "digits", **asked: Any
) -> Context:
    """The target whose runs are done where `measure` gives numbers, as nobody computed them."""
    runs_dir = tmp_path / "runs"
    context = Context("pointcloud", profile, Planner(runs_dir, tmp_path / "data"), **asked)
    for answer in context.answers:
        result = measure(answer)
        if result is not None:
            finish(answer.trained, runs_dir, {"kind": "pretrain"})
            finish(context.planner.final(answer.probed), runs_dir, result)
            file = context.run(answer.probed).path / "artifacts" / "trajectories.json"
            write_json(file, circles())
    return context


def document(context: Context) -> Document:
    return targets.load("pointcloud").document(context)


def column(found: Document, key: str, title: str) -> dict[str, Any]:
    """A column's numbers in full precision, by row."""
    table: DataTable = next(one for one in found.tables if one.key == key)
    place = [head.title for head in table.columns].index(title)
    return {row[0].text: row[place].value for row in table.rows}


def told(found: Document, start: str) -> str:
    return " ".join(text for text in found.findings if text.startswith(start))


def test_chains_need_no_files_and_three_encoders(tmp_path: Path) -> None:
    context = Context("pointcloud", "digits", Planner(tmp_path / "runs", tmp_path / "data"))
    answers = targets.load("pointcloud").plan(context)
    assert [answer.cell.row for answer in answers] == ROWS
    assert {answer.spec.data.name for answer in answers} == {"chains"}
    assert {answer.cell.probes for answer in answers} == {("axis", "geometry", "knn", "linear")}
    assert not any(answer.changes for answer in answers)  # the recipes as they are


def test_structures_of_ones_own_are_asked_for_and_then_used(tmp_path: Path) -> None:
    planner = Planner(tmp_path / "runs", tmp_path / "data")
    with pytest.raises(CommandError) as caught:
        _ = Context("pointcloud", "paper", planner).answers
    assert str(tmp_path / "data" / "proteins") in str(caught.value)
    assert "--profile digits needs no files" in str(caught.value)

    (tmp_path / "mine").mkdir()
    for number in range(40):
        (tmp_path / "mine" / f"{number}.pdb").write_text("END\n")
    mine = (f"data.path={tmp_path / 'mine'}",)
    answers = Context("pointcloud", "paper", planner, settings=mine).answers
    assert [answer.cell.row for answer in answers] == ROWS
    assert {answer.cell.probes for answer in answers} == {("axis", "geometry")}
    assert all(answer.spec.data.path == str(tmp_path / "mine") for answer in answers)
    assert not any(answer.changes for answer in answers)  # where files lie changes no result


@pytest.mark.parametrize("part", ["none", "care", "all"])
def test_a_document_is_made_of_nothing_of_a_part_and_of_everything(
    tmp_path: Path, part: str
) -> None:
    context = done(
        tmp_path,
        lambda a: usual(a) if part == "all" or (part == "care" and "CARE" in a.cell.row) else None,
    )
    found = document(context)
    json.dumps(plain(found), allow_nan=False)
    assert ("measurements are not there yet" in " ".join(found.findings)) == (part != "all")
    assert found.complete == (part == "all")
    assert [figure.key for figure in found.figures] == ["axis-errors-chains", "trajectories-chains"]
    for figure in found.figures:
        png, svg = (tmp_path / f"{figure.key}.{kind}" for kind in ("png", "svg"))
        figure.draw(png, svg)
        with Image.open(png) as picture:
            assert picture.width == 1600
        text = "".join(ElementTree.parse(svg).getroot().itertext())
        gaps = part == "none" or (part == "care" and "trajectories" in figure.key)
        assert ("nothing is measured yet" in text) == gaps
        assert "CARE-SimCLR" in text and figure.caption.endswith(".")
        assert "chains" in figure.alt and ("CARE-SimCLR" in figure.alt) == (part != "none")


def test_the_axis_error_stands_between_the_untrained_network_and_a_guess(tmp_path: Path) -> None:
    found = document(done(tmp_path))
    errors = column(found, "axis-chains", "Axis error, projection")
    assert errors == {
        "SimCLR": 50.0, "CARE-SimCLR": 30.0, "equivariance + uniformity": 5.0,
        "not trained": 16.0, "a guess": pytest.approx(57.3, abs=0.01),
    }  # fmt: skip
    assert column(found, "axis-chains", "Axis error, backbone")["not trained"] == 9.0
    assert column(found, "axis-chains", "R²")["a guess"] == 0.0
    share = column(found, "axis-chains", "held out / (R = I)")
    assert share["equivariance + uniformity"] == pytest.approx(0.2 / 1.4)
    assert share["not trained"] is None
    beside = column(found, "beside-chains", "median, projection")
    assert (beside["CARE-SimCLR"], beside["not trained"]) == (29.0, 15.0)
    assert column(found, "beside-chains", "Linear probe")["SimCLR"] == pytest.approx(91.0)


def test_findings_say_who_forgets_and_that_one_seed_is_no_evidence(tmp_path: Path) -> None:
    found = document(done(tmp_path))
    assert "82 % of the way from there to a guess" in told(found, "SimCLR on chains")
    assert "no rotation does better there than doing nothing" in told(found, "SimCLR on chains")
    assert "nearer to it than random features" in told(found, "equivariance + uniformity on")
    assert "takes 86 % off" in told(found, "equivariance + uniformity on")
    assert "so that it is nearly invariant" in told(found, "CARE-SimCLR on")
    contrast = told(found, "On chains the structure appears where invariance is not asked for")
    assert "(n = 1)" in contrast and "CARE-SimCLR, whose InfoNCE" in contrast
    for row, gap in (("CARE-SimCLR", "−20.0"), ("equivariance + uniformity", "−45.0")):
        assert f"degrees: {gap} (n = 1: one seed is not evidence)" in told(found, f"{row} − SimCLR")
    assert "n = 1 pretraining seed" in found.tables[0].notes[0]
    assert all("n = 1" in f.caption or "seed 0" in f.caption for f in found.figures)


def test_no_structure_is_claimed_where_there_is_none(tmp_path: Path) -> None:
    found = document(done(tmp_path, lambda a: measured(56.0, 0.3, 0.29, collapsed=1.0)))
    assert "appears where" not in " ".join(found.findings)
    assert told(found, "On chains equivariance + uniformity did not make the structure here")
    assert "all clouds lie in one place" in told(found, "CARE-SimCLR on")
    guessed = document(done(tmp_path / "other", lambda a: measured(58.0)))
    assert "the projection tells no more than a guess" in told(guessed, "CARE-SimCLR on")


def test_seeds_have_a_spread_and_one_untrained_network_each(tmp_path: Path) -> None:
    found = document(done(tmp_path, lambda a: measured(30.0 + a.cell.seed, 0.2), seeds=(0, 1, 2)))
    table = found.tables[0]
    care, fresh = table.rows[1], table.rows[3]
    assert (care[1].text, care[1].n) == ("31.0 ± 1.0", 3)
    assert (fresh[0].text, fresh[1].n, fresh[-1].value) == ("not trained", 3, 3)
    assert "3 paired seeds" in told(found, "CARE-SimCLR − SimCLR")
    assert "single seeds" in found.figures[0].caption


def test_paths_that_stay_in_one_place_can_be_drawn(tmp_path: Path) -> None:
    context = done(tmp_path)
    for answer in context.answers:
        still = {**circles(count=6, radius=0.0), "share": math.nan}  # nothing varies
        write_json(context.run(answer.probed).path / "artifacts" / "trajectories.json", still)
    found = document(context)
    json.dumps(plain(found), allow_nan=False)
    picture = found.figures[1]
    picture.draw(tmp_path / "a.png", tmp_path / "a.svg")
    assert "4 clouds" in picture.caption and "8 rotations" in picture.caption
    assert "% of the variance" not in (tmp_path / "a.svg").read_text()


@pytest.mark.long
def test_a_document_comes_of_real_runs(project: Project) -> None:
    found = project.json("reproduce", "pointcloud", "--profile", "smoke", "--only", "equivariance")
    made = found["documents"]["pointcloud"]
    rows = {row[0]["text"]: row for row in made["tables"][0]["rows"]}
    for name in ("equivariance + uniformity", "not trained"):
        assert 0 < rows[name][1]["value"] < 90 and rows[name][1]["n"] == 1
    assert rows["equivariance + uniformity"][4]["value"] > 0  # Wahba, held out
    assert (project.path / found["report"]["trajectories-chains.png"]).exists()
    assert {run["state"] for run in made["runs"]} == {"done"}
