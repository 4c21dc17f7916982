"""The shipped recipes and the grid of Table 1."""

from __future__ import annotations

import re

import pytest

from carectl import specs
from carectl.errors import CommandError
from carectl.grid import Grid, Reference

RECIPES = [name for name in specs.names() if "/" in name]


@pytest.fixture(scope="module")
def grid() -> Grid:
    return specs.load_grid(specs.find("table1"))


def test_a_baseline_and_a_care_recipe_is_shipped_for_each_dataset() -> None:
    datasets = ("digits", "cifar10", "cifar100", "stl10")
    expected = {
        f"{dataset}/{method}" for dataset in datasets for method in ("simclr", "care-simclr")
    }
    assert expected <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_loads_under_its_own_name_and_dataset(name: str) -> None:
    spec = specs.load(specs.find(name))
    assert spec.name == name
    assert spec.data.name == name.split("/")[0]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_opens_with_paper_accuracy_time_and_command(name: str) -> None:
    text = specs.find(name).read_text(encoding="utf-8")
    comment = "".join(re.findall(r"\A(?:#.*\n)+", text))
    for part in (
        "arXiv 2306.13924",
        "Table 1",
        "Expected accuracy:",
        "Expected time and hardware:",
    ):
        assert part in comment
    assert f"carectl pretrain {name}, then carectl eval RUN" in comment


@pytest.mark.parametrize("name", [name for name in RECIPES if name.endswith("/simclr")])
def test_a_baseline_differs_from_care_in_the_equivariance_term_alone(name: str) -> None:
    base = specs.load(specs.find(name))
    care = specs.load(specs.find(name.replace("/simclr", "/care-simclr")))
    left, right = base.determining(), care.determining()
    assert [key for key in left if left[key] != right[key]] == ["equivariance"]
    assert base.equivariance.weight == 0 < care.equivariance.weight
    assert base.probe == care.probe


@pytest.mark.parametrize(
    ("name", "weight", "splits", "optimizer", "lr", "decay", "schedule"),
    [
        ("cifar10", 0.01, 16, "adam", 1e-3, 1e-6, "constant"),
        ("cifar100", 0.001, 4, "adam", 1e-3, 1e-6, "constant"),
        ("stl10", 0.01, 8, "sgd", 0.06, 5e-4, "cosine"),
    ],
)
def test_a_care_recipe_is_the_papers(
    name: str, weight: float, splits: int, optimizer: str, lr: float, decay: float, schedule: str
) -> None:
    spec = specs.load(specs.find(f"{name}/care-simclr"))
    assert (spec.equivariance.weight, spec.equivariance.splits) == (weight, splits)
    assert spec.equivariance_batch == 256
    mine = spec.optimizer
    assert (mine.name, mine.lr, mine.weight_decay) == (optimizer, lr, decay)
    assert (spec.schedule.name, spec.training.epochs, spec.training.batch_size) == (
        schedule,
        400,
        256,
    )
    assert (spec.model.backbone, spec.model.hidden, spec.model.embedding) == ("resnet50", 512, 128)
    assert (spec.method.temperature, spec.image_size) == (0.5, 32)


@pytest.mark.parametrize("profile", ["digits", "smoke", "paper"])
def test_every_cell_has_a_recipe_that_loads_with_its_overrides(grid: Grid, profile: str) -> None:
    cells = grid.cells(profile)
    assert {cell.row for cell in cells} == {"SimCLR", "CARE-SimCLR"}
    assert {cell.dataset for cell in cells} == set(grid.profiles[profile].datasets)
    for cell in cells:
        assert specs.load(specs.find(cell.recipe), cell.overrides).data.name == cell.dataset


def test_the_smoke_profile_trains_one_epoch(grid: Grid) -> None:
    cell = grid.cells("smoke")[0]
    assert specs.load(specs.find(cell.recipe), cell.overrides).training.epochs == 1


def test_cells_are_rows_by_seeds_with_each_dataset_kept_together(grid: Grid) -> None:
    cells = grid.cells("paper", seeds=[0, 2])
    assert len(cells) == 2 * 3 * 2
    assert [cell.dataset for cell in cells] == [
        d for d in ("cifar10", "cifar100", "stl10") for _ in "1234"
    ]
    assert [cell.seed for cell in cells[:4]] == [0, 2, 0, 2]


@pytest.mark.parametrize(
    ("only", "rows", "datasets"),
    [
        (["care"], {"CARE-SimCLR"}, {"cifar10", "cifar100", "stl10"}),
        (["SIMCLR"], {"SimCLR", "CARE-SimCLR"}, {"cifar10", "cifar100", "stl10"}),
        (["cifar10"], {"SimCLR", "CARE-SimCLR"}, {"cifar10"}),
        (["cifar"], {"SimCLR", "CARE-SimCLR"}, {"cifar10", "cifar100"}),
        (["care", "stl"], {"CARE-SimCLR"}, {"stl10"}),
        (["stl10/simclr"], {"SimCLR"}, {"stl10"}),
    ],
)
def test_only_keeps_what_matches_all_texts(
    grid: Grid, only: list[str], rows: set[str], datasets: set[str]
) -> None:
    cells = grid.cells("paper", only)
    assert {cell.row for cell in cells} == rows
    assert {cell.dataset for cell in cells} == datasets


@pytest.mark.parametrize("only", [["byol"], ["care", "stl10/simclr"], ["care", "nothing"]])
def test_only_that_matches_nothing_names_what_there_is(grid: Grid, only: list[str]) -> None:
    with pytest.raises(CommandError, match=r"matches nothing.*CARE-SimCLR on cifar10"):
        grid.cells("paper", only)


@pytest.mark.parametrize("seeds", [[], [0, 0], [-1], [2**31]])
def test_seeds_that_are_none_are_refused(grid: Grid, seeds: list[int]) -> None:
    with pytest.raises(CommandError, match="seeds"):
        grid.cells("digits", seeds=seeds)


def test_an_unknown_profile_names_the_near_one(grid: Grid) -> None:
    with pytest.raises(CommandError, match="no profile 'papper', did you mean 'paper'"):
        grid.cells("papper")


def test_references_are_the_papers_numbers(grid: Grid) -> None:
    assert grid.reference("SimCLR", "cifar10") == Reference(90.98, 0.10)
    assert grid.reference("CARE-SimCLR", "cifar100") == Reference(68.05, 0.28)
    assert grid.reference("CARE-SimCLR", "imagenet100") == Reference(76.69, 0.08)
    assert grid.reference("BYOL", "cifar10") == Reference(90.44, cited=True)
    assert grid.reference("CARE-MoCo-v2", "stl10") == Reference(88.97, 0.48, uncertain=True)
    assert grid.reference("EquiMod-SimCLR", "stl10") == Reference(83.67)
    assert len(grid.rows) == 9


def test_there_is_no_reference_where_the_paper_has_none(grid: Grid) -> None:
    assert grid.reference("SimCLR", "digits") is None
    assert grid.reference("MoCo-v2", "stl10") is None
    assert grid.reference("no such method", "cifar10") is None
