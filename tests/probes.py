"""Probes for tests: a small encoder that has learnt something, and how to ask about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conftest import tiny

from care_core import checkpoint, pretrain
from care_core.spec import PretrainSpec, ProbeSpec

LINEAR = {"epochs": 30, "seeds": [0, 1], "optimizer": {"name": "adam", "lr": 1e-2}}
MEASURES = {
    "linear": LINEAR, "knn": {"k": 20}, "geometry": {"augmentations": 2, "images": 100},
    "colour": {"images": 100, "pairs": 200}, "composition": {"pairs": 2, "images": 200},
}  # fmt: skip


def probe_spec(spec: PretrainSpec, **changes: Any) -> ProbeSpec:
    """A probe of everything, with sections put over `MEASURES` and fields over the spec's."""
    fields = {"name": spec.name, "source": "0" * 64, "data": spec.data, "augment": spec.augment}
    return ProbeSpec.model_validate({**fields, "probe": {**MEASURES, **changes.pop("probe", {})},
                                     **changes})  # fmt: skip


def train(folder: Path) -> Path:
    """The last checkpoint of three epochs."""
    pretrain(tiny(training={"epochs": 3, "batch_size": 128}), folder, threads=1)
    return checkpoint.at_epoch(folder / "checkpoints", None)
