"""Where the official code and the paper part: each a named setting, chosen by one preset.

`fidelity: paper` (the default) is the paper, done correctly; `fidelity: official` is what the
official scripts do, leaks included. A preset fills in what a spec leaves open; a setting that the
spec names itself stands. `carectl spec show` prints what it became.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from care_core.facts import DATASETS


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
    """One difference: the setting that names it, and its value by preset (None: left alone)."""

    number: int
    key: str
    paper: Callable[[Setting], Any]
    official: Callable[[Setting], Any]
    why: str
    leak: bool = False


def _always(value: Any) -> Callable[[Setting], Any]:
    return lambda s: value


#: Every difference that is a choice, numbered as in docs/fidelity.md.
CHOICES: tuple[Choice, ...] = (
    Choice(
        1, "equivariance.shared_by", _always("split"), lambda s: 32 if s.imagenet else "step",
        "a pair of augmentations for each split (Algorithm 1), not one for all",
    ),
    Choice(
        2, "equivariance.splits",
        lambda s: (32 if s.method == "moco" else 16) if s.dataset == "imagenet100" else None,
        lambda s: 4 * s.ranks if s.dataset == "imagenet100" else None,
        "splits counted over the global batch, not four a GPU whatever was chunked before",
    ),
    Choice(
        3, "bn.sync", _always(False), lambda s: s.imagenet and s.care,
        "the same batch norm in the baseline as in CARE",
    ),
    Choice(
        4, "monitor.train_mode", _always(False), lambda s: s.imagenet,
        "the kNN check leaves the network's statistics alone", leak=True,
    ),
    Choice(
        4, "monitor.images", _always("held_out"), _always("test"),
        "the kNN check sees training images alone", leak=True,
    ),
    Choice(
        5, "probe.linear.backbone", _always("eval"), lambda s: "eval" if s.imagenet else "train",
        "the probed backbone is frozen, its statistics too", leak=True,
    ),
    Choice(
        5, "probe.linear.augmentation", lambda s: "crop_flip" if s.imagenet else "none",
        lambda s: "crop_flip" if s.imagenet else "simclr",
        "the classifier's images: a named option",
    ),
    Choice(
        6, "optimizer.momentum",
        lambda s: 0.9 if s.dataset == "stl10" and s.optimizer == "sgd" else None,
        lambda s: 0.0 if s.dataset == "stl10" and s.optimizer == "sgd" else None,
        "STL10's momentum reaches SGD",
    ),
    Choice(
        7, "loss.negatives", _always("global"), lambda s: "local" if s.imagenet else "global",
        "negatives of all GPUs",
    ),
    Choice(
        8, "equivariance.crop", _always(True), lambda s: not s.imagenet,
        "the equivariance views include the crop",
    ),
    Choice(
        9, "bn.views", _always("separate"), _always("separate"),
        "statistics for each view by itself, as separate forwards give",
    ),
    Choice(
        10, "augment.ranks", _always("independent"),
        lambda s: "alike" if s.imagenet else "independent",
        "GPUs draw independently of each other",
    ),
    Choice(
        11, "probe.linear.report", _always("last"), _always("best"),
        "the classifier's last epoch counts, not its best on the test set", leak=True,
    ),
    Choice(
        11, "checkpoint.select", _always("last"), _always("best"),
        "the last checkpoint is probed, not the best on the test set", leak=True,
    ),
    Choice(
        12, "loss.form", _always("paper"), _always("official"),
        "alignment and uniformity as the paper defines them (ablations)",
    ),
    Choice(
        13, "bn.replicas", _always(1), _always(1),
        "DataParallel on n GPUs sees a batch in n parts: launch.gpus n, or here n",
    ),
)  # fmt: skip


def expand(raw: dict[str, Any]) -> dict[str, Any]:
    """A spec's raw values with the preset's choices filled in where they are left open."""
    preset = raw.get("fidelity", "paper")
    if preset not in ("paper", "official"):
        return dict(_copy(raw))  # the spec's own check says so, with its place
    setting, filled = _setting(raw), dict(_copy(raw))
    for choice in CHOICES:
        value = (choice.paper if preset == "paper" else choice.official)(setting)
        if value is not None:
            _fill(filled, choice.key.split("."), value)
    return filled


def leaks(values: dict[str, Any]) -> Iterator[Choice]:
    """The choices by which a spec's values let test images into what is measured."""
    for choice in CHOICES:
        if choice.leak:
            part: Any = values
            for key in choice.key.split("."):
                part = part.get(key) if isinstance(part, dict) else None
            if part is not None and part != choice.paper(_setting(values)):
                yield choice


def _copy(value: Any) -> Any:
    """The same with tuples for lists: what was JSON is judged strictly as Python from here on."""
    if isinstance(value, dict):
        return {key: _copy(part) for key, part in value.items()}
    return tuple(map(_copy, value)) if isinstance(value, list | tuple) else value


def _setting(raw: dict[str, Any]) -> Setting:
    def of(section: str, key: str, default: Any) -> Any:
        part = raw.get(section)
        return part.get(key, default) if isinstance(part, dict) else default

    gpus, nodes = of("launch", "gpus", 1), of("launch", "nodes", 1)
    weight = of("equivariance", "weight", 0.0)
    return Setting(
        dataset=str(of("data", "name", "")),
        method=str(of("method", "name", "simclr")),
        optimizer=str(of("optimizer", "name", "adam")),
        care=isinstance(weight, int | float) and weight > 0,
        ranks=max(1, gpus) * nodes if isinstance(gpus, int) and isinstance(nodes, int) else 1,
    )


def _fill(raw: dict[str, Any], path: list[str], value: Any) -> None:
    for key in path[:-1]:
        if raw.setdefault(key, {}) is None:
            raw[key] = {}
        raw = raw[key]
        if not isinstance(raw, dict):
            return
    raw.setdefault(path[-1], value)
