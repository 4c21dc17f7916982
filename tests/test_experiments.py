"""The shipped recipes and the grid of Table 1."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from care_core.spec import PretrainSpec
from care_core.spec.facts import DATASETS
from carectl import specs
from carectl.errors import CommandError
from carectl.grid import Grid, Reference
from carectl.reports.summary import base_of

RECIPES = [name for name in specs.names() if "/" in name]


@pytest.fixture(scope="module")
def grid() -> Grid:
    return specs.load_grid(specs.find("table1"))


def dataset_of(name: str) -> str:
    folder = name.split("/")[0]
    return {"ablations": "cifar10", "pointcloud": "chains"}.get(folder, folder)


def recipe(name: str, *overrides: str) -> PretrainSpec:
    return specs.load(specs.find(name), overrides)


@pytest.mark.parametrize("preset", ["paper", "official"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_loads_under_both_presets_with_its_own_name_and_dataset(
    name: str, preset: str
) -> None:
    if (preset, dataset_of(name)) == ("official", "chains"):
        with pytest.raises(specs.SpecFileError, match="official code has nothing on point clouds"):
            recipe(name, f"fidelity={preset}")
        return
    spec = recipe(name, f"fidelity={preset}")
    assert (spec.name, spec.data.name, spec.fidelity) == (name, dataset_of(name), preset)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_opens_with_paper_accuracy_time_and_command(name: str) -> None:
    text = specs.find(name).read_text(encoding="utf-8")
    comment = "".join(re.findall(r"\A(?:#.*\n)+", text))
    figures = {"ablations": "Fig. 10", "flowers102": "Fig. 9", "pointcloud": "Fig. 3"}
    figure = figures.get(name.split("/")[0], "Table 1")
    for part in (
        "arXiv 2306.13924",
        figure,
        "Expected accuracy:",
        "Expected time and hardware:",
    ):
        assert part in comment
    assert f"carectl pretrain {name}, then carectl eval RUN" in comment


def test_a_recipe_opens_with_the_number_that_the_table_has(grid: Grid) -> None:
    for label, row in grid.rows.items():
        for entry in row.values():
            if entry.recipe and entry.mean is not None:
                text = specs.find(entry.recipe).read_text(encoding="utf-8")
                spread = "" if entry.sd is None else f" ± {entry.sd:.2f}".replace("0.", ".")
                assert f"# Expected accuracy: {entry.mean:.2f}{spread} %" in text, label
                assert ("damaged copy" in text) == entry.uncertain
                assert ("took it from" in text) == entry.cited


@pytest.mark.parametrize("name", [name for name in RECIPES if "/care-" in name])
def test_a_baseline_differs_from_care_in_the_equivariance_term_alone(name: str) -> None:
    for preset in ("paper", "official"):
        care = recipe(name, f"fidelity={preset}")
        base = recipe(name.replace("/care-", "/"), f"fidelity={preset}")
        left, right = base.determining(), care.determining()
        other = {key for key in left | right if left.get(key) != right.get(key)}
        expected = {"equivariance"}
        if preset == "official" and care.data.name == "imagenet100":
            # batch norm is synchronised with CARE alone (item 3 of docs/fidelity.md), where
            # MoCo's shuffling has nothing to do
            expected |= {"bn", "method"} if "moco" in name else {"bn"}
        assert other == expected
        assert base.equivariance.weight == 0 < care.equivariance.weight
        assert base.probe == care.probe


# dataset: epochs, batch, optimiser, lr, weight decay, momentum, schedule, warm-up, pixels
PLAN = {
    "cifar10": (400, 256, "adam", 1e-3, 1e-6, 0.0, "constant", 0, 32),
    "cifar100": (400, 256, "adam", 1e-3, 1e-6, 0.0, "constant", 0, 32),
    "stl10": (400, 256, "sgd", 0.06, 5e-4, 0.9, "cosine", 10, 32),
    "imagenet100": (200, 512, "sgd", 0.8, 1e-4, 0.9, "cosine", 0, 224),
}
# recipe: λ, splits, images that feed the term
TERM = {
    "cifar10/care-simclr": (0.01, 16, 256),
    "cifar10/care-moco": (0.01, 16, 256),
    "cifar10/care-barlow": (0.01, 16, 256),
    "cifar100/care-simclr": (0.001, 4, 256),
    "cifar100/care-moco": (0.001, 4, 256),
    "cifar100/care-barlow": (0.001, 4, 256),
    "stl10/care-simclr": (0.01, 8, 256),
    "stl10/care-moco": (0.01, 8, 256),
    "stl10/care-barlow": (0.01, 8, 256),
    "imagenet100/care-simclr": (0.005, 16, 128),
    "imagenet100/care-moco": (0.01, 32, 128),
}
TABLE = [name for name in RECIPES if name.split("/")[0] in PLAN]
# ours: LARS for what another paper trained with it, Adam for a loss of any scale on STL10
OWN_PLAN = ("cifar10/byol", "cifar100/byol", "cifar10/equimod-byol",
            "stl10/barlow", "stl10/care-barlow")  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_a_recipe_of_table_1_trains_as_the_paper_says(name: str) -> None:
    spec, dataset = recipe(name), dataset_of(name)
    epochs, batch, *plan, pixels = PLAN[dataset]
    assert (spec.training.epochs, spec.training.batch_size) == (epochs, batch)
    mine, schedule = spec.optimizer, spec.schedule
    found = [mine.name, mine.lr, mine.weight_decay, mine.momentum,
             schedule.name, schedule.warmup_epochs]  # fmt: skip
    assert (found == plan) == (name not in OWN_PLAN)
    assert (spec.image_size, spec.model.backbone) == (pixels, "resnet50")
    assert spec.stem == ("imagenet" if dataset == "imagenet100" else "cifar")


@pytest.mark.parametrize(("name", "term"), TERM.items())
def test_a_care_recipe_has_the_papers_term(name: str, term: tuple[float, int, int]) -> None:
    spec = recipe(name)
    mine = spec.equivariance
    assert (mine.weight, mine.splits, spec.equivariance_batch) == term
    assert (mine.shared_by, mine.crop) == ("split", True)


def test_every_care_recipe_of_table_1_has_its_term_above() -> None:
    assert sorted(TERM) == sorted(name for name in TABLE if "/care-" in name)


@pytest.mark.parametrize("name", TABLE)
def test_a_recipe_of_table_1_has_the_papers_temperature_and_projector(name: str) -> None:
    spec = recipe(name)
    model, method = spec.model, spec.method.model_dump()
    imagenet = spec.data.name == "imagenet100"
    shape = (model.projector_layers, model.hidden, model.embedding, model.projector_norm)
    if "barlow" in name:
        assert (shape, method["off_diagonal"]) == ((3, 2048, 2048, True), 0.0051)
    elif "byol" in name:
        base = method.get("base", method)
        assert (shape, base["momentum"], base["hidden"]) == ((2, 4096, 256, True), 0.996, 4096)
    else:
        assert shape == ((2, 2048, 128, False) if imagenet else (2, 512, 128, True))
    if "moco" in name:
        assert method["temperature"] == (0.2 if imagenet else 0.1)
        assert method["momentum"] == 0.99
        assert method["queue"] % spec.training.batch_size == 0
        assert method["queue"] <= (DATASETS[spec.data.name].pretrain_images or 0)
        assert spec.launch.ranks * spec.bn.replicas > 1  # else no shuffling could do anything
    elif name.endswith("simclr"):
        temperature = method.get("base", method)["temperature"]
        assert temperature == (0.2 if imagenet else 0.5)
    if "equimod" in name:
        module = [method[key] for key in ("weight", "temperature", "hidden", "embedding")]
        assert module == [1.0, 0.2, 2048, 128]


@pytest.mark.parametrize("name", TABLE)
def test_a_recipe_of_table_1_augments_and_measures_as_the_paper_says(name: str) -> None:
    spec = recipe(name)
    mine, probe, imagenet = spec.augment, spec.probe.linear, spec.data.name == "imagenet100"
    colours = (mine.brightness, mine.contrast, mine.saturation, mine.hue)
    assert (mine.flip, mine.jitter, colours, mine.gray, mine.blur, mine.blur_sigma) == (
        0.5, 0.8, (0.4, 0.4, 0.4, 0.1), 0.2, 0.5, (0.1, 2.0),
    )  # fmt: skip
    assert (mine.crop_scale, mine.blur_kernel) == (((0.2, 1.0), 5) if imagenet else ((0.08, 1), 3))
    optimizer = (probe.optimizer.name, probe.optimizer.lr, probe.optimizer.weight_decay)
    assert (probe.epochs, probe.batch_size, optimizer) == (
        (60, 128, ("sgd", 30, 0)) if imagenet else (100, 512, ("adam", 1e-3, 1e-6))
    )
    steps = ("multistep", (30, 40, 50), 0.1) if imagenet else ("constant", (), 0.1)
    assert (probe.schedule.name, probe.schedule.milestones, probe.schedule.gamma) == steps
    assert probe.augmentation == ("crop_flip" if imagenet else "none")
    assert (spec.monitor.k, spec.probe.knn.k) == ((20, 20) if imagenet else (200, 200))
    assert (spec.monitor.temperature, len(probe.seeds)) == (0.5, 3)
    assert spec.launch.gpus == (4 if imagenet else 1)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("cifar10/care-simclr", {"equivariance.weight": 0.03}),
        ("cifar10/care-moco", {}),
        ("cifar100/care-simclr", {}),
        ("stl10/care-simclr", {}),
        ("imagenet100/simclr", {}),
        ("imagenet100/care-simclr", {}),
        ("imagenet100/care-moco", {"equivariance.weight": 0.005}),
    ],
)
def test_the_official_script_passes_other_numbers(name: str, changed: dict[str, float]) -> None:
    if name.startswith("imagenet100"):
        rest = {"training.batch_size": 256, "optimizer.lr": 0.4, "probe.linear.optimizer.lr": 10}
        changed = {**changed, **rest}
    assert specs.resolve(specs.find(name), ["fidelity=official"]).official == changed


def test_what_the_paper_does_not_give_is_marked_as_ours() -> None:
    for name in TABLE:
        text = specs.find(name).read_text(encoding="utf-8")
        expected = not name.endswith("simclr") or "equimod" in name or "imagenet100" in name
        assert ("# ours:" in text) == (expected or name in OWN_PLAN), name


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("digits/")])
def test_a_digits_recipe_is_small(name: str) -> None:
    spec = recipe(name)
    assert spec.model.backbone == "small" and spec.training.epochs <= 30
    assert recipe("digits/simclr").probe == spec.probe


def test_the_recipes_of_point_clouds_differ_in_their_losses_alone() -> None:
    base, *others = (
        recipe(f"pointcloud/{name}") for name in ("simclr", "care", "equivariance-uniformity")
    )
    assert (base.model.backbone, base.model.embedding) == ("deepset", 16)
    fields, apart = base.determining(), {"loss", "equivariance", "method"}
    for other in others:
        mine = other.determining()
        assert {key for key in mine if mine[key] != fields[key]} <= apart
        assert other.probe == base.probe and other.equivariance.weight > 0


ABLATIONS = {  # weights of the method's own loss, alignment, uniformity, equivariance
    "equivariance": (0, 0, 0, 1.0),
    "equivariance-uniformity": (0, 0, 1.0, 0.01),
    "alignment-uniformity": (1.0, 0, 0, 0),
    "all": (1.0, 0, 0, 0.01),
}


@pytest.mark.parametrize(("name", "weights"), ABLATIONS.items())
def test_an_ablation_differs_in_its_terms_alone(name: str, weights: tuple[float, ...]) -> None:
    spec = recipe(f"ablations/{name}")
    loss = spec.loss
    terms = (loss.method, loss.alignment, loss.uniformity, spec.equivariance.weight)
    assert terms == weights
    rest = {"loss", "equivariance", "method"}
    whole = recipe("cifar10/care-simclr").determining()
    mine = spec.determining()
    assert {k: v for k, v in mine.items() if k not in rest} == {
        k: v for k, v in whole.items() if k not in rest
    }


def test_ablations_that_are_recipes_of_table_1_are_the_same_runs() -> None:
    for preset in ("paper", "official"):
        for ablation, known in (("alignment-uniformity", "simclr"), ("all", "care-simclr")):
            one = recipe(f"ablations/{ablation}", f"fidelity={preset}")
            other = recipe(f"cifar10/{known}", f"fidelity={preset}")
            assert one.determining() == other.determining()


@pytest.mark.parametrize("profile", ["digits", "digits-all", "smoke", "paper"])
def test_every_cell_has_a_recipe_that_loads_with_its_overrides(grid: Grid, profile: str) -> None:
    cells = grid.cells(profile)
    shown = {"SimCLR", "CARE-SimCLR", "MoCo-v2", "CARE-MoCo-v2"}  # in the demo
    rows = {"smoke": {"SimCLR", "CARE-SimCLR"}, "digits": shown}.get(profile, set(grid.rows))
    assert {cell.row for cell in cells} == rows
    assert {cell.dataset for cell in cells} == set(grid.profiles[profile].datasets)
    for cell in cells:
        assert specs.load(specs.find(cell.recipe), cell.overrides).data.name == cell.dataset


def test_every_number_of_the_table_has_a_recipe_and_every_care_cell_a_baseline(grid: Grid) -> None:
    runnable = {(cell.row, cell.dataset) for cell in grid.cells("paper")}
    numbers = {
        (label, dataset)
        for label, row in grid.rows.items()
        for dataset, entry in row.items()
        if entry.mean is not None
    }
    assert runnable == numbers | {("MoCo-v2", "stl10")}  # its number cannot be read
    for label, dataset in runnable:
        base = base_of(label, list(grid.rows))
        assert base is None or (base, dataset) in runnable


def test_the_smoke_profile_trains_one_epoch(grid: Grid) -> None:
    cell = grid.cells("smoke")[0]
    assert specs.load(specs.find(cell.recipe), cell.overrides).training.epochs == 1


def test_cells_are_rows_by_seeds_with_each_dataset_kept_together(grid: Grid) -> None:
    cells = grid.cells("paper", seeds=[0, 2])
    assert len(cells) == 2 * 28
    seen = [cell.dataset for cell in cells]
    assert list(dict.fromkeys(seen)) == ["cifar10", "cifar100", "stl10", "imagenet100"]
    assert seen == sorted(seen, key=list(dict.fromkeys(seen)).index)
    assert [cell.seed for cell in cells[:4]] == [0, 2, 0, 2]


ALL = {"cifar10", "cifar100", "stl10", "imagenet100"}


@pytest.mark.parametrize(
    ("only", "rows", "datasets"),
    [
        (["care-simclr"], {"CARE-SimCLR"}, ALL),
        (["SIMCLR"], {"SimCLR", "CARE-SimCLR", "EquiMod-SimCLR"}, ALL),
        (["byol"], {"BYOL", "EquiMod-BYOL"}, {"cifar10", "cifar100"}),
        (["simclr", "cifar10"], {"SimCLR", "CARE-SimCLR", "EquiMod-SimCLR"}, {"cifar10"}),
        (["care-moco", "cifar"], {"CARE-MoCo-v2"}, {"cifar10", "cifar100"}),
        (["care-simclr", "stl"], {"CARE-SimCLR"}, {"stl10"}),
        (["stl10/simclr"], {"SimCLR"}, {"stl10"}),
    ],
)
def test_only_keeps_what_matches_all_texts(
    grid: Grid, only: list[str], rows: set[str], datasets: set[str]
) -> None:
    cells = grid.cells("paper", only)
    assert {cell.row for cell in cells} == rows
    assert {cell.dataset for cell in cells} == datasets


@pytest.mark.parametrize("only", [["dino"], ["care", "stl10/simclr"], ["care", "nothing"]])
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


def test_a_profiles_rows_must_be_rows(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(
        "title: t\nsource: s\ncolumns: [digits]\n"
        "profiles:\n  p: {datasets: [digits], rows: [SimCRL], seeds: [0]}\n"
        "rows:\n  SimCLR: {digits: {recipe: digits/simclr}}\n"
    )
    with pytest.raises(specs.SpecFileError, match="'SimCRL' is not one of the rows, did you mean"):
        specs.load_grid(path)
