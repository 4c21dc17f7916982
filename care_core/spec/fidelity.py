"""Where the official code and the paper part: each a named setting, chosen by one preset.

`fidelity: paper` (the default) is the paper, done correctly; `fidelity: official` is what the
official scripts do, leaks included. A preset fills in what a spec leaves open; a setting that the
spec names itself stands. docs/fidelity.md is the table of them for people.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from care_core.spec.facts import DATASETS

PRESETS = ("paper", "official")


class Setting(NamedTuple):
    """What a preset is asked about: the parts of a spec that its choices depend on."""

    dataset: str
    method: str
    optimizer: str
    care: bool
    ranks: int

    @property
    def imagenet(self) -> bool:
        """Whether the official ImageNet100 scripts are the ones to follow, or CIFAR's and STL's."""
        return self.dataset in DATASETS and DATASETS[self.dataset].files


class Choice(NamedTuple):
    """One difference: the setting that names it, and its value by preset (None: left alone).

    `why` is what the paper says or what is correct, `instead` what the official code does. Where
    that lets test images, or a bug, into what is measured, `leak` is what marks a table made so.
    """

    number: int
    key: str
    paper: Callable[[Setting], Any]
    official: Callable[[Setting], Any]
    why: str
    instead: str
    leak: str = ""

    def of(self, preset: str, setting: Setting) -> Any:
        """What a preset chooses; None where it leaves the setting alone."""
        return (self.official if preset == "official" else self.paper)(setting)


class Chosen(NamedTuple):
    """A choice that a preset made for a spec, its value there, and why, in a few words."""

    choice: Choice
    value: Any
    reason: str


def _always(value: Any) -> Callable[[Setting], Any]:
    return lambda s: value


#: Every difference that is a choice, numbered as in docs/fidelity.md.
CHOICES: tuple[Choice, ...] = (
    Choice(
        1, "equivariance.shared_by", _always("split"), lambda s: 32 if s.imagenet else "step",
        "each split has its own pair of augmentations (Algorithm 1)",
        "one pair for all splits of a step; on ImageNet100 for each 32 images of a GPU",
    ),
    Choice(
        2, "equivariance.splits",
        lambda s: (32 if s.method == "moco" else 16) if s.dataset == "imagenet100" else None,
        lambda s: 4 * s.ranks if s.dataset == "imagenet100" else None,
        "ImageNet100 has 16 splits of 8 images (MoCo: 32 of 4) on any number of GPUs",
        "four splits a GPU on ImageNet100, whatever was chunked for the augmentations",
    ),
    Choice(
        3, "bn.sync", _always(False), lambda s: s.imagenet and s.care,
        "the baseline has the same batch norm as CARE (the paper is silent)",
        "on ImageNet100 batch norm is synchronised with CARE alone, not in the baseline",
    ),
    Choice(
        4, "monitor.train_mode", _always(False), lambda s: s.imagenet,
        "the kNN check leaves the network as it is",
        "on ImageNet100 the kNN check runs in train mode, and its statistics are kept",
        leak="statistics of the kNN check kept",
    ),
    Choice(
        4, "monitor.images", _always("held_out"), _always("test"),
        "the kNN check sees training images alone",
        "the kNN check reads the test set, on ImageNet100 the validation set",
        leak="test images in the kNN check",
    ),
    Choice(
        5, "probe.linear.backbone", _always("eval"), lambda s: "eval" if s.imagenet else "train",
        "the probed backbone is frozen, its statistics too",
        "the probed backbone is in train mode on CIFAR and STL10: its statistics drift",
        leak="probed in train mode",
    ),
    Choice(
        5, "probe.linear.augmentation", lambda s: "crop_flip" if s.imagenet else "none",
        lambda s: "crop_flip" if s.imagenet else "simclr",
        "the classifier learns from features as they are (ImageNet100: crop and flip)",
        "the classifier learns from SimCLR's augmentations on CIFAR and STL10",
    ),
    Choice(
        6, "optimizer.momentum",
        lambda s: 0.9 if s.dataset == "stl10" and s.optimizer == "sgd" else None,
        lambda s: 0.0 if s.dataset == "stl10" and s.optimizer == "sgd" else None,
        "SGD on STL10 has the momentum that the official script asks for by default",
        "the momentum never reaches SGD on STL10",
    ),
    Choice(
        7, "loss.negatives", _always("global"), lambda s: "local" if s.imagenet else "global",
        "the negatives are the images of all GPUs",
        "on ImageNet100 each GPU has its own negatives alone: 126 for 64 images",
    ),
    Choice(
        8, "equivariance.crop", _always(True), lambda s: not s.imagenet,
        "the equivariance term's augmentations include the crop",
        "on ImageNet100 they have no crop: jitter, grey, blur and flip of a centre crop",
    ),
    Choice(
        9, "bn.views", _always("separate"), _always("separate"),
        "each view has batch statistics of its own, as separate forwards give",
        "the same: separate forwards",
    ),
    Choice(
        10, "augment.ranks", _always("independent"),
        lambda s: "alike" if s.imagenet else "independent",
        "GPUs draw independently of each other",
        "on ImageNet100 all GPUs draw the same augmentations",
    ),
    Choice(
        11, "probe.linear.report", _always("last"), _always("best"),
        "the classifier's last epoch counts",
        "the classifier's best epoch is selected on the test set", leak="selected on the test set",
    ),
    Choice(
        11, "checkpoint.select", _always("last"), _always("best"),
        "the last checkpoint is probed",
        "the probed checkpoint is selected on the test set", leak="selected on the test set",
    ),
    Choice(
        12, "loss.form", _always("paper"), _always("official"),
        "alignment is E‖f(a(x)) − f(a′(x))‖, uniformity log E exp(f(x)ᵀf(x′)) (ablations alone)",
        "alignment is −cos/τ, uniformity log Σ exp(·/τ) over the negatives",
    ),
    Choice(
        13, "bn.replicas", _always(1), lambda s: 1 if s.imagenet else max(1, 2 // s.ranks),
        "batch norm sees all images of its GPU",
        "DataParallel on 2 GPUs on CIFAR and STL10: batch norm sees half a batch",
    ),
)  # fmt: skip


def chosen(raw: dict[str, Any]) -> list[Chosen]:
    """What the preset of a spec's raw values fills in, where they leave a choice open.

    Nothing for a preset that there is not: the spec's own check says so, with its place.
    """
    preset = raw.get("fidelity", "paper")
    if preset not in PRESETS:
        return []
    setting, made = setting_of(raw), []
    for choice in CHOICES:
        value = choice.of(preset, setting)
        if value is not None and _open(raw, choice.key):
            same = value == choice.paper(setting)
            made.append(Chosen(choice, value, choice.why if same else choice.instead))
    return made


def expand(raw: dict[str, Any]) -> dict[str, Any]:
    """A spec's raw values with the preset's choices filled in where they are left open."""
    filled = dict(_copy(raw))
    for choice, value, _ in chosen(raw):
        *sections, last = choice.key.split(".")
        part = filled
        for section in sections:
            part = part.setdefault(section, {})
        part[last] = value
    return filled


def contract(values: dict[str, Any]) -> dict[str, Any]:
    """A whole spec's values without what its preset chose, so that another preset can choose."""
    left = dict(_copy(values))
    preset, setting = values.get("fidelity", "paper"), setting_of(values)
    for choice in CHOICES:
        value = choice.of(preset, setting)
        if value is not None and value_of(values, choice.key) == value:
            *sections, last = choice.key.split(".")
            part = left
            for section in sections:
                part = part[section]
            del part[last]
    return left


def leaks(values: dict[str, Any]) -> Iterator[Choice]:
    """The choices by which a spec's values let test images, or a bug, into what is measured.

    Args:
        values: of a whole spec, or as much of it as there is.
    """
    checked = value_of(values, "monitor.every_epochs") != 0
    for choice in CHOICES:
        found = value_of(values, choice.key)
        if not choice.leak or found is None or found == choice.paper(setting_of(values)):
            continue
        if checked or choice.key.startswith("probe."):  # without a check nothing is selected by it
            yield choice


def word(value: Any) -> str:
    """A value as YAML has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def value_of(values: Any, key: str) -> Any:
    """The value of a dotted key; None where there is none."""
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else getattr(values, part, None)
    return values


def setting_of(raw: dict[str, Any]) -> Setting:
    """What the choices depend on, from values that need not be valid yet."""

    def of(key: str, default: Any) -> Any:
        found = value_of(raw, key)
        return default if found is None else found

    weight, gpus, nodes = (
        of("equivariance.weight", 0.0),
        of("launch.gpus", 1),
        of("launch.nodes", 1),
    )
    counts = isinstance(gpus, int) and isinstance(nodes, int)
    return Setting(
        dataset=str(of("data.name", "")),
        method=str(of("method.name", "simclr")),
        optimizer=str(of("optimizer.name", "adam")),
        care=isinstance(weight, int | float) and weight > 0,
        ranks=max(1, gpus) * max(1, nodes) if counts else 1,
    )


def _open(raw: dict[str, Any], key: str) -> bool:
    """Whether a spec leaves a setting to the preset: what it names, even wrongly, is its own."""
    part: Any = raw
    for name in key.split("."):
        if not isinstance(part, dict):
            return False
        if name not in part:
            return True
        part = part[name]
    return False


def _copy(value: Any) -> Any:
    """The same with tuples for lists: what was JSON is judged strictly as Python from here on."""
    if isinstance(value, dict):
        return {key: _copy(part) for key, part in value.items()}
    return tuple(map(_copy, value)) if isinstance(value, list | tuple) else value
