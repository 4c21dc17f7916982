"""Waiting for runs: a live table in a terminal, plain lines in a pipe."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from carectl import runs
from carectl.backends.base import Backend
from carectl.console.output import Output
from carectl.console.tables import progress_values
from carectl.runs import Run, Status

FINAL: set[str] = {"done", "failed", "cancelled", "blocked", "lost"}
POLL_S = 0.3
LINE_EVERY_S = 15.0


def wait(watched: Sequence[Run], backend: Backend, output: Output) -> dict[str, Status]:
    """Show progress until every run has ended, and keep the queue alive meanwhile."""
    view = _Bars(watched, output) if output.err.is_terminal else _Lines(output)
    with view:
        while True:
            backend.ensure()
            states = {run.id: runs.status(run) for run in watched}
            for run in watched:
                view.show(run, states[run.id])
            # a done job may still be sending its record
            ended = all(status.state in FINAL for status in states.values())
            if ended and not any(runs.working(run) for run in watched):
                return states
            time.sleep(POLL_S)


class _Lines:
    """One line a change of state, and one a while of progress."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self.last: dict[str, tuple[str, float]] = {}

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def show(self, run: Run, status: Status) -> None:
        state, at = self.last.get(run.id, ("", 0.0))
        now = time.monotonic()
        if status.state == state and (status.state != "running" or now - at < LINE_EVERY_S):
            return
        value = progress_values(run) if status.state == "running" else {}
        left = f"{value['left']} left" if "left" in value else ""
        speed = f"{value['speed']} images/s" if "speed" in value else ""
        words = [status.state, value.get("at", ""), value.get("terms", ""), speed, left]
        if status.state not in ("running", "queued"):
            words.append(status.reason)
        self.output.note(f"{run.id}: " + "  ".join(word for word in words if word))
        self.last[run.id] = (status.state, now)


class _Bars:
    """A bar a run: epoch, loss terms, kNN, images/s, what is left."""

    def __init__(self, watched: Sequence[Run], output: Output) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[words]}"),
            console=output.err,
            auto_refresh=False,
        )
        self.live = Live(self.progress, console=output.err, refresh_per_second=4)
        self.tasks: dict[str, TaskID] = {
            run.id: self.progress.add_task(run.id, total=None, words="") for run in watched
        }

    def __enter__(self) -> _Bars:
        self.live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.live.__exit__(kind, error, trace)

    def show(self, run: Run, status: Status) -> None:
        found = run.progress
        words: str = status.state
        if status.state == "running" and found:
            value = progress_values(run)
            speed = f"{value['speed']} images/s" if "speed" in value else ""
            left = f"{value['left']} left" if "left" in value else ""
            words = "  ".join(part for part in (value["terms"], speed, left) if part)
        elif status.state in FINAL - {"done"}:
            words = f"{status.state}: {status.reason}"
        ended = status.state == "done"
        self.progress.update(
            self.tasks[run.id],
            total=found.get("epochs", 1 if ended else None),
            completed=found.get("epoch", 1 if ended else 0),
            words=words,
        )
