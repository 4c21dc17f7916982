"""When one run answers two questions: an evaluation that measures more, checkpoints for both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from care_core.spec import PretrainSpec, ProbeSpec, probe_kinds
from care_core.spec.sections import Checkpoint


def answers(
    done: ProbeSpec, fields: dict[str, Any], asked: ProbeSpec, asked_fields: dict[str, Any]
) -> bool:
    """Whether an evaluation measures all that another asks, and just so.

    It does if, cut back to the other's kinds, it would be the same question: the same encoder and
    epoch, images, settings of these measurements, and computing code. `fields` are identities'.
    """
    if not set(asked.kinds) <= set(done.kinds):
        return False
    narrowed = done.model_copy(update={"kinds": asked.kinds})
    return {**fields, "spec": narrowed.determining()} == asked_fields


def widened(planned: ProbeSpec, asked: ProbeSpec) -> ProbeSpec:
    """An evaluation that is not begun yet, measuring what another asks too."""
    kinds = tuple(kind for kind in probe_kinds() if kind in (*planned.kinds, *asked.kinds))
    return planned.model_copy(update={"kinds": kinds})


def keeping(spec: PretrainSpec, epochs: Sequence[int]) -> PretrainSpec:
    """A pretraining that leaves a checkpoint at each of the epochs; its last always stays."""
    steps = [epoch for epoch in epochs if 0 < epoch < spec.training.epochs]
    if not steps:
        return spec
    step, asked = math.gcd(*steps), spec.checkpoint
    return _saving(spec, "all" if asked.keep == "all" else step, math.gcd(step, asked.every_epochs))


def keeping_both(planned: PretrainSpec, asked: PretrainSpec) -> PretrainSpec:
    """A pretraining that is not begun yet, keeping the checkpoints that another asks too."""
    mine, other = planned.checkpoint, asked.checkpoint
    keep: object
    if "all" in (mine.keep, other.keep):
        keep = "all"
    elif isinstance(mine.keep, int) and isinstance(other.keep, int):
        keep = math.gcd(mine.keep, other.keep)
    else:
        keep = mine.keep if other.keep == "last" else other.keep
    return _saving(planned, keep, math.gcd(mine.every_epochs, other.every_epochs))


def _saving(spec: PretrainSpec, keep: object, every: int) -> PretrainSpec:
    values = {**spec.checkpoint.model_dump(), "keep": keep, "every_epochs": every}
    return spec.model_copy(update={"checkpoint": Checkpoint.model_validate(values)})
