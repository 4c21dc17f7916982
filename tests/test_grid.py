"""A target's grid: what makes a cell, what is measured of it and when."""

from __future__ import annotations

from pathlib import Path

import pytest

from care_core.spec import USUAL_KINDS
from carectl import specs
from carectl.grid import Grid
from carectl.plan import Planner
from carectl.targets.context import Context

SWEEP = """
title: A sweep
question: Which weight?
source: s
probes: [linear]
epochs: [2, 4, 6]
columns: [digits]
profiles:
  digits: {datasets: [digits], seeds: [0, 1], overrides: [training.epochs=6]}
  smoke:
    datasets: [digits]
    rows: [small]
    seeds: [0]
    overrides: [training.epochs=1]
    probes: [knn, geometry]
    epochs: []
rows:
  small: {digits: {recipe: digits/care-simclr, overrides: [equivariance.weight=0.1]}}
  large:
    digits: {recipe: digits/care-simclr, overrides: [equivariance.weight=1, training.epochs=9]}
  theirs: {digits: {mean: 91.5, cited: true}}
"""


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Grid:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep").write_text(SWEEP)
    return specs.load_grid(tmp_path / "sweep")


def context(profile: str, **asked: object) -> Context:
    return Context("sweep", profile, Planner(Path("runs"), Path("data")), **asked)  # type: ignore[arg-type]


def test_a_cells_own_settings_lie_under_its_profiles(sweep: Grid) -> None:
    cells = sweep.cells("digits")
    assert [(cell.row, cell.seed) for cell in cells] == [
        ("small", 0), ("small", 1), ("large", 0), ("large", 1)
    ]  # fmt: skip
    assert cells[2].overrides[-1] == "training.epochs=6"
    assert cells[2].own == ("equivariance.weight=1", "training.epochs=9")
    assert (cells[0].probes, cells[0].epochs) == (("linear",), (2, 4, 6))
    (smoke,) = sweep.cells("smoke")
    assert (smoke.probes, smoke.epochs) == (("knn", "geometry"), ())


def test_a_grid_that_says_nothing_measures_the_usual_at_the_last_epoch() -> None:
    cell = specs.load_grid(specs.find("table1")).cells("digits")[0]
    assert (cell.probes, cell.epochs, cell.own) == (USUAL_KINDS, (), ())


def test_a_number_without_a_recipe_is_quoted_where_it_is_asked_for(sweep: Grid) -> None:
    assert sweep.quoted("digits") == [("theirs", "digits")]
    assert sweep.quoted("digits", ["digits"]) == [("theirs", "digits")]
    assert sweep.quoted("digits", ["small"]) == [] == sweep.quoted("smoke")


def test_a_number_at_the_end_of_a_text_means_that_number() -> None:
    grid = specs.load_grid(specs.find("fig7"))
    assert {cell.row for cell in grid.cells("digits", ["λ = 0"])} == {"λ = 0"}
    assert {cell.row for cell in grid.cells("digits", ["λ = 0."])} > {"λ = 0.003", "λ = 0.3"}
    table = specs.load_grid(specs.find("table1"))
    assert {cell.row for cell in table.cells("digits", ["simclr"])} == {"SimCLR", "CARE-SimCLR"}
    assert {cell.row for cell in table.cells("digits", ["MoCo-v2"])} == {"MoCo-v2", "CARE-MoCo-v2"}


def test_a_measurement_that_there_is_not_is_refused_with_the_near_one(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(SWEEP.replace("probes: [linear]", "probes: [linaer]"))
    told = r"'linaer' is not one of .*did you mean 'linear'"
    with pytest.raises(specs.SpecFileError, match=told):
        specs.load_grid(path)


def test_each_epoch_is_probed_and_the_pretraining_keeps_its_checkpoint(sweep: Grid) -> None:
    first = context("digits", only=("small",), seeds=(0,)).answers[0]
    assert list(first.probes) == [2, 4, 6]
    assert [probe.spec.epoch for probe in first.probes.values()] == [2, 4, None]  # type: ignore[union-attr]
    assert first.spec.checkpoint.keep == 2
    assert first.probed is first.probes[6]
    assert first.spec.equivariance.weight == 0.1


def test_what_makes_a_cell_is_not_told_as_a_changed_setting(sweep: Grid) -> None:
    large = context("digits", only=("large",), seeds=(0,)).answers[0]
    assert large.changes == ("training.epochs 6 (recipe 9)",) and large.overridden == ()
    asked = context("digits", only=("large",), seeds=(0,), settings=("optimizer.lr=0.5",))
    assert "optimizer.lr 0.5 (recipe 0.001)" in asked.answers[0].overridden
    assert asked.name.startswith("sweep-digits-changed-") and asked.name.endswith("-seeds-0")


def test_an_override_of_a_profile_that_is_no_setting_is_told(sweep: Grid) -> None:
    with pytest.raises(specs.SpecFileError, match="weigth"):
        _ = context("smoke", settings=("equivariance.weigth=1",)).answers
