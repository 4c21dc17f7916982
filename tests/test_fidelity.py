"""The presets: each difference a named setting, said in docs/fidelity.md, leaks refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from care_core.spec import PretrainSpec, fidelity
from care_core.spec.fidelity import CHOICES, Choice, Setting
from carectl import specs
from carectl.specs import SpecFileError

DOCS = Path(__file__).parents[1] / "docs" / "fidelity.md"
SETTINGS = {
    "CIFAR": Setting("cifar10", "simclr", "adam", True, 1),
    "STL10": Setting("stl10", "simclr", "sgd", True, 1),
    "ImageNet100": Setting("imagenet100", "simclr", "sgd", True, 4),
    "its MoCo": Setting("imagenet100", "moco", "sgd", True, 4),
}


def said(choose: Callable[[Setting], Any]) -> str:
    """What a preset chooses in words: one value, or each with the datasets that it is for."""
    found: dict[str, list[str]] = {}
    for name, setting in SETTINGS.items():
        value = choose(setting)
        if value is not None:
            found.setdefault(fidelity.word(value), []).append(name)
    if [*found.values()] == [[*SETTINGS]]:
        return f"`{next(iter(found))}`"
    for names in found.values():  # MoCo is told where it is not as ImageNet100's other methods
        if "ImageNet100" in names and "its MoCo" in names:
            names.remove("its MoCo")
    return "; ".join(f"{', '.join(names)}: `{value}`" for value, names in found.items())


def row(choice: Choice) -> str:
    """A choice's line in docs/fidelity.md."""
    cells = [str(choice.number), choice.why, choice.instead, f"`{choice.key}`",
             said(choice.paper), said(choice.official), choice.leak]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def spec(dataset: str, preset: str = "paper", **sections: Any) -> PretrainSpec:
    return PretrainSpec.model_validate(
        {"name": "a", "data": {"name": dataset}, "fidelity": preset, **sections}
    )


def values(found: PretrainSpec) -> dict[str, Any]:
    dumped = found.model_dump(mode="json")
    return {choice.key: fidelity.value_of(dumped, choice.key) for choice in CHOICES}


def test_the_documented_table_is_the_choices() -> None:
    lines = DOCS.read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| ") and line[2].isdigit()]
    assert rows == [row(choice) for choice in CHOICES]


def test_the_documented_numbers_of_the_official_scripts_are_the_recipes() -> None:
    lines = DOCS.read_text(encoding="utf-8").splitlines()
    expected = []
    for name in specs.names():
        if "/" not in name or name.startswith("pointcloud/"):  # of which there is no official code
            continue
        paper = specs.load(specs.find(name)).model_dump(mode="json")
        official = specs.resolve(specs.find(name), ["fidelity=official"]).official
        for key, value in official.items():
            given = fidelity.value_of(paper, key)
            expected.append(f"| `{name}` | `{key}` | {given:g} | {value:g} |")
    assert expected and [line for line in lines if line.startswith("| `")] == expected


def test_all_thirteen_differences_have_a_setting_that_a_spec_knows() -> None:
    assert sorted({choice.number for choice in CHOICES}) == list(range(1, 14))
    assert all(value is not None for value in values(spec("cifar10")).values())
    assert all(choice.why and choice.instead for choice in CHOICES)


PAPER = {
    "equivariance.shared_by": "split",
    "bn.sync": False,
    "monitor.train_mode": False,
    "monitor.images": "held_out",
    "probe.linear.backbone": "eval",
    "probe.linear.augmentation": "none",
    "loss.negatives": "global",
    "equivariance.crop": True,
    "bn.views": "separate",
    "augment.ranks": "independent",
    "probe.linear.report": "last",
    "checkpoint.select": "last",
    "loss.form": "paper",
    "bn.replicas": 1,
}
OFFICIAL = {
    **PAPER,
    "equivariance.shared_by": "step",
    "monitor.images": "test",
    "probe.linear.backbone": "train",
    "probe.linear.augmentation": "simclr",
    "probe.linear.report": "best",
    "checkpoint.select": "best",
    "loss.form": "official",
}
IMAGENET = {
    **OFFICIAL,
    "equivariance.shared_by": 32,
    "bn.sync": True,
    "monitor.train_mode": True,
    "probe.linear.backbone": "eval",
    "probe.linear.augmentation": "crop_flip",
    "loss.negatives": "local",
    "equivariance.crop": False,
    "augment.ranks": "alike",
}


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize(
    ("recipe", "paper", "official"),
    [
        # the splits and the momentum that no preset chooses are the recipe's
        ("cifar10/care-simclr", {"equivariance.splits": 16}, {"equivariance.splits": 16}),
        (
            "stl10/care-simclr",
            {"equivariance.splits": 8, "optimizer.momentum": 0.9},
            {"equivariance.splits": 8, "optimizer.momentum": 0.0},
        ),
    ],
)
def test_cifar_and_stl_presets_expand_as_the_two_differ(
    recipe: str, paper: dict[str, Any], official: dict[str, Any], ranks: int
) -> None:
    def expanded(preset: str) -> dict[str, Any]:
        overrides = [f"launch.gpus={ranks}", f"fidelity={preset}"]
        return values(specs.load(specs.find(recipe), overrides))

    rest = {"optimizer.momentum": 0.0}
    assert expanded("paper") == {**rest, **PAPER, **paper}
    # DataParallel on two GPUs is two parts of one rank's batch, or two ranks
    parts = {"bn.replicas": 2 if ranks == 1 else 1}
    assert expanded("official") == {**rest, **OFFICIAL, **official, **parts}


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize(("method", "splits"), [("care-simclr", 16), ("care-moco", 32)])
def test_imagenet100_presets_expand_as_the_two_differ(method: str, splits: int, ranks: int) -> None:
    recipe, gpus = specs.find(f"imagenet100/{method}"), f"launch.gpus={ranks}"
    paper = specs.load(recipe, [gpus])
    rest = {"optimizer.momentum": 0.9}
    expected = {**PAPER, **rest, "equivariance.splits": splits}
    assert values(paper) == {**expected, "probe.linear.augmentation": "crop_flip"}
    official = specs.load(recipe, [gpus, "fidelity=official"])
    # four splits a GPU of its 128 / ranks images: on four GPUs Gram blocks of 8
    assert values(official) == {**IMAGENET, **rest, "equivariance.splits": 4 * ranks}


@pytest.mark.parametrize("method", ["simclr", "moco"])
def test_official_synchronises_batch_norm_with_care_alone_and_paper_in_neither(method: str) -> None:
    def sync(name: str, preset: str) -> bool:
        return specs.load(specs.find(f"imagenet100/{name}"), [f"fidelity={preset}"]).bn.sync

    names = (method, f"care-{method}")
    assert [sync(name, "official") for name in names] == [False, True]
    assert [sync(name, "paper") for name in names] == [False, False]


def test_what_a_spec_names_stands_under_either_preset() -> None:
    own = {"bn": {"sync": True}, "equivariance": {"weight": 0.1, "shared_by": "step"}}
    assert spec("cifar10", "paper", **own).equivariance.shared_by == "step"
    assert spec("imagenet100", "official", **own).equivariance.shared_by == "step"
    assert "bn.sync" not in [one.choice.key for one in fidelity.chosen(own)]


def test_a_setting_named_with_its_presets_value_is_the_same_run() -> None:
    named = spec("cifar10", bn={"sync": False}, loss={"negatives": "global"})
    assert named.determining() == spec("cifar10").determining()


def test_a_whole_spec_can_change_its_preset() -> None:
    official = spec("cifar10", "official", probe={"linear": {"epochs": 7}})
    back = specs.override(official, ["fidelity=paper"])
    assert values(back) == values(spec("cifar10"))
    assert back.probe.linear.epochs == 7
    assert values(specs.override(back, ["fidelity=official"])) == values(official)
    kept = specs.override(official, ["seed=1"])
    assert values(kept) == values(official)


LEAKS = {
    "monitor.train_mode": "true",
    "monitor.images": "test",
    "probe.linear.backbone": "train",
    "probe.linear.report": "best",
    "checkpoint.select": "best",
}


def test_the_leaks_are_those_of_items_4_5_and_11() -> None:
    assert {c.key for c in CHOICES if c.leak} == LEAKS.keys()
    assert {c.number for c in CHOICES if c.leak} == {4, 5, 11}


@pytest.mark.parametrize(("key", "value"), LEAKS.items())
def test_a_leak_is_refused_under_paper_with_its_place_and_remedy(key: str, value: str) -> None:
    recipe, override = specs.find("cifar10/care-simclr"), f"{key}={value}"
    with pytest.raises(SpecFileError) as caught:
        specs.load(recipe, [override])
    (told,) = caught.value.problems
    assert (told.key, told.line, told.column) == (key, 1, len(key) + 2)
    paper = next(c for c in CHOICES if c.key == key).paper(SETTINGS["CIFAR"])
    assert f"{value} is a leak" in told.message
    assert f"take {fidelity.word(paper)}, or fidelity: official" in told.message
    assert specs.load(recipe, [override, "fidelity=official"]).fidelity == "official"


def test_every_leak_of_a_spec_is_found_and_a_clean_one_has_none() -> None:
    assert list(fidelity.leaks(spec("cifar10").model_dump(mode="json"))) == []
    found = fidelity.leaks(spec("imagenet100", "official").model_dump(mode="json"))
    assert [choice.key for choice in found] == [
        "monitor.train_mode", "monitor.images", "probe.linear.report", "checkpoint.select",
    ]  # fmt: skip


def test_a_check_that_never_runs_selects_nothing() -> None:
    never = spec("cifar10", "official", monitor={"every_epochs": 0})
    found = [choice.key for choice in fidelity.leaks(never.model_dump(mode="json"))]
    assert found == ["probe.linear.backbone", "probe.linear.report"]
    assert "select" not in never.determining()


def test_an_empty_section_is_not_filled_but_told(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("name: a\ndata: {name: digits}\nbn:\n")
    with pytest.raises(SpecFileError, match="bn: must be a section of key: value lines, not empty"):
        specs.load(path)


def test_expanding_changes_nothing_that_it_was_given() -> None:
    raw = {"name": "a", "data": {"name": "digits"}, "probe": {"linear": {"seeds": [0, 1]}}}
    before = json.dumps(raw)
    fidelity.expand(raw)
    assert json.dumps(raw) == before
