"""What is to be done about a run that a plan wants, by what its folder says, and why."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from care_core.spec import PretrainSpec, ProbeSpec
from carectl import identity, runs
from carectl.identity import Identity
from carectl.runs import Run
from carectl.tracking import flatten

Action = Literal["new", "reused", "running", "retry", "blocked"]
Spec = PretrainSpec | ProbeSpec


def judge(runs_dir: Path, run_id: str, asked: Identity, spec: Spec) -> tuple[Action, str]:
    """Whether a run is new, done, under way or to be tried again; and the reason."""
    run = Run(runs_dir / run_id)
    state, reason = runs.status(run)
    if state == "new":
        return "new", reason or _difference(runs_dir, asked)
    action: Action = "retry"
    if state == "done":
        action, reason = "reused", "done before"
    elif state in ("queued", "running", "stale"):
        action, reason = "running", f"{state}: {reason}" if reason else state
    else:
        if not reason.startswith(state):  # 'cancelled by carectl' says it
            reason = f"was {state}: {reason}" if reason else f"was {state}"
    kept = _kept(run, spec)
    return action, f"{reason}; kept as first asked: {kept}" if kept else reason


def hopeless(runs_dir: Path, away: Sequence[str], source_run: str | None, spec: Spec) -> str:
    """Why a run could not start: something outside its plan that it needs will not come.

    Args:
        away: what it depends on and the plan does not have.
    """
    for name in away:
        state = runs.status(Run(runs_dir / name)).state
        if state not in ("done", "queued", "running", "stale"):
            return f"it needs {name}, which is {state}; retry that one"
    if isinstance(spec, ProbeSpec) and spec.epoch is not None and source_run:
        source = Run(runs_dir / source_run)
        if runs.status(source).state == "done" and spec.epoch not in runs.epochs(source):
            return (
                f"{source.id} kept no checkpoint of epoch {spec.epoch}; move its folder "
                "away, and it is trained anew with what this plan keeps"
            )
    return ""


def _kept(run: Run, spec: Spec) -> str:
    """Settings that change no result and are asked for otherwise than the run has them."""
    first = flatten(run.record.get("spec", {}))
    asked = flatten(spec.model_dump(mode="json"))
    return "; ".join(
        f"{key} {first[key]} (asked: {value})"
        for key, value in asked.items()
        if key.split(".")[0] in ("probe", "checkpoint", "log", "monitor")
        and key in first
        and first[key] != value
    )


def _difference(runs_dir: Path, asked: Identity) -> str:
    """For a new run beside one of the same name: the fields that differ."""
    mine = flatten(asked.fields)
    nearest: list[str] | None = None
    for other in runs_dir.glob(f"{asked.run_id[: -identity.SHOWN]}*"):
        theirs = flatten(Run(other).record.get("identity", {}))
        differ = [
            f"{key.removeprefix('spec.')}: {_brief(theirs.get(key))} → {_brief(mine.get(key))}"
            for key in sorted(mine.keys() | theirs.keys())
            if mine.get(key) != theirs.get(key)
        ]
        if theirs and (nearest is None or len(differ) < len(nearest)):
            nearest = differ
    return "; ".join(nearest[:4]) if nearest else ""


def _brief(value: Any) -> str:
    """A value for people: of a hash, as much as a run id shows."""
    text = str(value)
    return text[: identity.SHOWN] if re.fullmatch(r"[0-9a-f]{64}", text) else text
