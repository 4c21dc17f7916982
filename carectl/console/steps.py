"""The one next step that ends a command: what a person does with a run as it is now."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from carectl.runs import Run, State, Status

RUNS, DATA = Path("runs"), Path("data")


def places(runs_dir: Path = RUNS, data_dir: Path = DATA) -> str:
    """The options that say where the folders are, behind a command; none for the usual ones."""
    asked = (("--runs-dir", runs_dir, RUNS), ("--data-dir", data_dir, DATA))
    return "".join(
        f" {option} {shlex.quote(str(path))}" for option, path, usual in asked if path != usual
    )


def spec(asked: str, overrides: Sequence[str] | None) -> str:
    """A spec with what was put over it, as it is written behind a command."""
    return " ".join([shlex.quote(asked), *(f"-o {shlex.quote(text)}" for text in overrides or ())])


def after(run: Run, status: Status, where: str, *, read: bool = False) -> str:
    """What comes next of one run.

    Args:
        where: `places`, behind each command.
        read: whether its log has just been read.
    """
    if status.state == "done":
        if run.record.get("kind") == "pretrain":
            return f"carectl eval {run.id}{where} probes it"
        return f"carectl status{where} lists all runs with their figures"
    if status.state in ("queued", "running"):
        return f"carectl logs {run.id}{where} -f follows it"
    if status.state in ("cancelled", "blocked"):
        return f"carectl retry {run.id}{where} takes it up where it stopped"
    if not run.attempts:
        return f"carectl status{where} lists all runs"
    if read:
        return f"carectl retry {run.id}{where}, once what the log says is mended"
    return f"carectl logs {run.id}{where} shows what it said"


def again(states: Iterable[State], where: str) -> str:
    """What comes next of a plan that ended badly; `retry --failed` leaves what was cancelled."""
    if "cancelled" in states:
        return "the same command again takes up what was cancelled where it stopped"
    return f"carectl retry --failed{where}, once what the reason says is mended"
