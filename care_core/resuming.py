"""What a checkpoint of a training holds, and how a training takes it up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from care_core import checkpoint
from care_core.errors import CheckpointError, SpecError
from care_core.spec import PretrainSpec
from care_core.stepping import Stepper


def pack(stepper: Stepper, statistics: dict[str, Tensor]) -> dict[str, Any]:
    """The state of a training, of tensors and plain values; the caller adds where it stands.

    Args:
        statistics: every rank's own batch-norm statistics, (size, …) by name. In the model they
            are the ranks' means.
    """
    return {
        "model": stepper.method.encoder.state_dict(),
        "method": stepper.method.own_state(),
        **stepper.state_dict(),
        "spec": stepper.spec.model_dump_json(),
        "ranks": stepper.world.size,
        "statistics": statistics,
    }


def unpack(
    state: dict[str, Any], stepper: Stepper, run_dir: Path, say: Callable[[str], None]
) -> int:
    """Put a training into a checkpoint's state. Returns the step after which it was saved.

    Raises:
        SpecError: it is of another spec, or of another number of ranks and launch.resize is off.
    """
    spec, method, world = stepper.spec, stepper.method, stepper.world
    saved, ranks = PretrainSpec.model_validate_json(state["spec"]), int(state["ranks"])
    if not _same(saved, spec, max(ranks, world.size)):
        newest = checkpoint.at_epoch(run_dir / "checkpoints", None).name
        raise SpecError(
            f"{run_dir} holds a run of another spec ({saved.name}, seed {saved.seed}), by "
            f"{newest}; take an empty folder, or remove that file if it has strayed here"
        )
    if ranks != world.size:
        changes = _what_changes(spec, ranks, world.size)
        if not spec.launch.resize:
            raise SpecError(
                f"{run_dir} holds a run of {ranks} rank(s), not {world.size}; go on with {ranks}, "
                f"or set launch.resize to go on with {world.size}. That changes: {changes}"
            )
        say(f"going on with {world.size} rank(s) instead of {ranks}, which changes: {changes}")
    method.encoder.load_state_dict(state["model"])
    method.load_own_state(state["method"])
    if ranks == world.size:
        for name, own in state["statistics"].items():
            method.get_buffer(name).copy_(own[world.rank])
    stepper.load_state_dict(state)
    return int(state["step"])


def require_of(path: Path, spec: PretrainSpec) -> None:
    """Check that a file in a run's folder, found by its name alone, is a checkpoint of that run.

    Raises:
        CheckpointError: it is of another spec, or cannot be read.
    """
    state = checkpoint.read(path)
    saved = PretrainSpec.model_validate_json(state["spec"])
    if not _same(saved, spec, int(state["ranks"])):
        raise CheckpointError(
            f"{path}: is of another run ({saved.name}, seed {saved.seed}); it has strayed here, "
            "remove it"
        )


def _same(one: PretrainSpec, other: PretrainSpec, ranks: int) -> bool:
    """Whether two specs are one run, the number of ranks apart."""
    return _apart_from_ranks(one, ranks) == _apart_from_ranks(other, ranks)


def replay(run_dir: Path, step: int) -> str:
    """How to come to a step once more, in a sentence."""
    before = [e for e in checkpoint.entries(run_dir / "checkpoints") if e.step < step]
    start = f"goes on from {before[-1].path}" if before else "begins again"
    first = before[-1].step + 1 if before else 1
    through = f"steps {first} to {step}" if first < step else f"step {step}"
    return f"To replay it, give the same command again: it {start} and does {through} anew, bitwise"


def _apart_from_ranks(spec: PretrainSpec, ranks: int) -> dict[str, Any]:
    """What determines a run, as if it were launched on so many ranks."""
    launch = spec.launch.model_copy(update={"gpus": ranks, "nodes": 1})
    fields = spec.model_copy(update={"launch": launch}).determining()
    if spec.fidelity == "official":  # the preset chooses these by the number of ranks
        fields["bn"].pop("replicas", None)
        fields["equivariance"].pop("splits", None)
    return fields


def _what_changes(spec: PretrainSpec, before: int, now: int) -> str:
    batch, term, parts = spec.training.batch_size, spec.equivariance, spec.bn.replicas
    found = ["sums are rounded otherwise, so it is bitwise neither run"]
    if not spec.bn.sync:
        found.append(
            f"batch norm sees {batch // now // parts} images instead of "
            f"{batch // before // parts}, and its running statistics start from the ranks' means"
        )
    if spec.loss.negatives == "local" and spec.compares:
        found.append(f"a loss compares {batch // now} images instead of {batch // before}")
    if spec.augment.ranks == "alike":
        found.append(f"{now} rank(s) draw the same augmentations instead of {before}")
    if term.weight and (isinstance(term.shared_by, int) or batch % term.splits):
        found.append("other images feed the equivariance term or share its augmentations")
    return "; ".join(found)
