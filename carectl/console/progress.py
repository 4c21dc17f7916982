"""Waiting for runs: a live table in a terminal, plain lines in a pipe."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from carectl import runs
from carectl.backends.base import Backend
from carectl.console.output import Output
from carectl.console.tables import progress_values, state_text
from carectl.runs import Run, Status

FINAL: set[str] = {"done", "failed", "cancelled", "blocked", "lost"}
POLL_S = 0.3
LINE_EVERY_S = 15.0
SHOWN = 12  # rows of a live view; what runs comes first


def wait(watched: Sequence[Run], backend: Backend, output: Output) -> dict[str, Status]:
    """Show progress until every run has ended, and keep the queue alive meanwhile."""
    view = (
        _Live(output)
        if output.err.is_terminal and not output.err.is_dumb_terminal
        else _Lines(output)
    )
    with view:
        while True:
            backend.ensure()
            states = {run.id: runs.status(run) for run in watched}
            view.show(watched, states)
            # a done job may still be sending its record
            ended = all(status.state in FINAL for status in states.values())
            if ended and not any(runs.working(run) for run in watched):
                return states
            time.sleep(POLL_S)


class _Lines:
    """One line a change of state, and one a while of progress."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self.last: dict[str, tuple[str, str, float]] = {}

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def show(self, watched: Sequence[Run], states: dict[str, Status]) -> None:
        for run in watched:
            self._line(run, states[run.id])

    def _line(self, run: Run, status: Status) -> None:
        state, said, at = self.last.get(run.id, ("", "", 0.0))
        now = time.monotonic()
        if status.state == state and (status.state != "running" or now - at < LINE_EVERY_S):
            return
        value = progress_values(run) if status.state == "running" else {}
        left = f"{value['left']} left" if "left" in value else ""
        speed = f"{value['speed']} images/s" if "speed" in value else ""
        bound = value.get("bound", "")
        words = [status.state, value.get("at", ""), value.get("terms", ""), speed, bound, left]
        if status.state != "running":
            words.append(status.reason)
        line = f"{run.id}: " + "  ".join(word for word in words if word)
        if line != said:
            self.output.note(line)
        self.last[run.id] = (status.state, line, now)


class _Live:
    """What runs, with what one waits for first: epoch, time left, speed, then the loss terms.

    Nothing of it stays on the screen; how each run ended is printed as a line of its own.
    """

    def __init__(self, output: Output) -> None:
        self.output = output
        self.live = Live(console=output.err, auto_refresh=False, transient=True)
        self.ended: set[str] = set()

    def __enter__(self) -> _Live:
        self.live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.live.__exit__(kind, error, trace)

    def show(self, watched: Sequence[Run], states: dict[str, Status]) -> None:
        for run in watched:
            status = states[run.id]
            if status.state in FINAL and run.id not in self.ended:
                self.ended.add(run.id)
                line = state_text(status.state) + Text(f"  {run.id}  {status.reason}")
                self.output.err.print(line, no_wrap=True, overflow="ellipsis", crop=True)
        order = {"running": 0, "stale": 1, "queued": 2}
        active = [run for run in watched if states[run.id].state not in FINAL]
        active.sort(key=lambda run: order.get(states[run.id].state, 3))
        shown = active[: min(SHOWN, max(1, self.output.err.height - 4))]
        counts = Counter(status.state for status in states.values())
        told = Text(", ".join(f"{n} {state}" for state, n in counts.items()))
        table = active_table([(run, states[run.id]) for run in shown], self.output.err.width)
        self.live.update(Group(table, told), refresh=True)


def active_table(rows: Sequence[tuple[Run, Status]], width: int) -> Table:
    """A line a run that has not ended; where `width` is small its last words are cut alone."""
    cells = []
    for run, status in rows:
        value = progress_values(run) if status.state == "running" else {}
        speed = f"{value['speed']} img/s" if "speed" in value else ""
        parts = (speed, value.get("bound", ""), value.get("terms", ""))
        words = "  ".join(part for part in parts if part)
        at = f"{value['at']}, {value['left']} left" if "left" in value else value.get("at", "")
        cells.append((status.state, _short(run.id, width), at, words or status.reason))
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 1, 0, 0))
    widths = [max(map(len, column)) for column in list(zip(*cells, strict=True))[:3]]
    for wide in widths:
        table.add_column(no_wrap=True, width=wide)
    room = width - sum(wide + 1 for wide in widths)
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=max(1, room))
    for state, *told in cells:
        table.add_row(state_text(state), *map(Text, told))
    return table


def _short(run_id: str, width: int) -> str:
    """A run id that leaves room for the figures: its hash alone in a narrow terminal."""
    return run_id if width >= 110 else run_id.rsplit("-", 1)[-1]
