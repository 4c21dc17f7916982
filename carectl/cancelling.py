"""`carectl cancel`: stop runs, and close what only waits for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from carectl import publishing, runs
from carectl.backends import base
from carectl.console import steps
from carectl.console.output import Output
from carectl.runs import Run

MANY = 4  # ids: so many are no next step that a person reads


def cancel(runs_dir: Path, names: Sequence[str], output: Output) -> None:
    """Stop each named run that is queued or running; its waiting children are blocked."""
    chosen = [runs.find(runs_dir, name) for name in names]
    ended = []
    for run in chosen:
        before = runs.status(run).state
        stopped = base.cancel(run)
        blocked = _block_children(runs_dir, run) if stopped else []
        for ended_run in [run, *blocked] if stopped else []:
            publishing.close(ended_run, "KILLED")
        output.line(f"{run.id}: {'cancelled' if stopped else f'is {before}, nothing to cancel'}")
        for child in blocked:
            output.line(f"{child.id}: blocked, since it waited for {run.id}")
        ended.append({"run": run.id, "cancelled": stopped, "blocked": [c.id for c in blocked]})
    output.emit("cancel", runs=ended)
    where = steps.places(runs_dir)
    over = [str(each["run"]) for each in ended if each["cancelled"]]
    if over:
        ids = " ".join(over) if len(over) < MANY else "RUN..."
        output.next(f"carectl retry {ids}{where} goes on from the checkpoint")
    else:
        output.next(f"carectl status{where} lists what can be cancelled: queued and running")


def _block_children(runs_dir: Path, parent: Run) -> list[Run]:
    blocked = []
    for run in runs.listing(runs_dir):
        if run.job.get("source_run") == parent.id and runs.status(run).state == "queued":
            base.cancel(run, "blocked", f"{parent.id} was cancelled")
            blocked.append(run)
    return blocked
