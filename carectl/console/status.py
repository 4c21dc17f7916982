"""`carectl status`: the states as they are now, once or until Ctrl-C."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from rich.console import Group
from rich.live import Live

from carectl import publishing, runs
from carectl.console import steps, tables
from carectl.console.clean import clean
from carectl.console.output import Output
from carectl.errors import CommandError
from carectl.runs import Run, State, Status

MANY = 500  # rows: more are not worth a table's layout
#: Rows of a terminal at most, unless all are asked for, and the lines that come with them.
SHOWN, AROUND = 50, 6
#: What a person looks for first; within a state the newest.
_ORDER: dict[State, int] = {
    "failed": 0, "lost": 0, "blocked": 1, "stale": 2, "running": 3, "queued": 4, "new": 5,
    "cancelled": 6, "done": 7,
}  # fmt: skip


def show(
    runs_dir: Path,
    name: str | None,
    states: tuple[str, ...],
    watch: bool,
    every: bool,
    output: Output,
) -> None:
    """Print one run's details, or a line a run: in a terminal those that fit, or `every` one."""
    for state in states:
        if state not in get_args(State):
            raise CommandError(f"--state {state}: must be one of {', '.join(get_args(State))}")
    where = steps.places(runs_dir)
    if name:
        run = runs.find(runs_dir, name)
        output.line(tables.detail(run))
        output.emit("status", as_of=time.time(), runs=[tables.status_values(run, runs.status(run))])
        output.next(steps.after(run, runs.status(run), where))
        return
    keep_going(runs_dir)
    if watch and output.lively and not output.as_json:
        _watch(runs_dir, states, output)
    rows = _rows(runs_dir, states, {})
    ranked = _sorted(rows)
    _list(ranked, "no run in that state" if states else f"no runs in {runs_dir}", every, output)
    if output.as_json:  # of thousands of runs the values take as long as the lines
        output.emit("status", as_of=time.time(), runs=[tables.status_values(*row) for row in rows])
    if told := publishing.told(publishing.catch_up((run, status.state) for run, status in rows)):
        output.note(told)
    output.next(_next(ranked, bool(states), where))


def _next(rows: Sequence[tuple[Run, Status]], chosen: bool, where: str) -> str:
    """The first row is what a person looks for first: what failed, or else is newest."""
    if rows:
        run, status = rows[0]
        why = " and why" if status.state in ("failed", "lost", "blocked") else ""
        return f"carectl status {run.id}{where} shows all of it{why}"
    if chosen:
        return f"carectl status{where} lists the runs of all states"
    return f"carectl pretrain digits/care-simclr{where}"


def _list(rows: list[tuple[Run, Status]], nothing: str, every: bool, output: Output) -> None:
    if not rows:
        output.result(nothing)
    elif not output.as_json:
        output.result(tables.summary(rows))
        fits = min(SHOWN, max(10, output.out.height - AROUND))
        limit = len(rows) if every or not output.out.is_terminal else fits
        first = rows[:limit]
        if output.out.is_terminal and len(first) <= MANY:
            output.listing(tables.status_table(first, output.out.width))
        else:
            print(clean(tables.status_lines(first)))
        if len(rows) > limit:
            output.result(f"… and {len(rows) - limit:,} more: --all shows every one")


def keep_going(runs_dir: Path) -> None:
    """Start the local queue again if jobs wait and it is gone (killed, or the machine rebooted)."""
    from carectl.backends import tickets

    if tickets.waiting(runs_dir):
        from carectl.backends.local import LocalBackend

        with contextlib.suppress(OSError):  # who can only read the folder sees the jobs wait
            LocalBackend(runs_dir).ensure()


def _watch(runs_dir: Path, states: tuple[str, ...], output: Output) -> None:
    """The first rows on a screen of their own, which Ctrl-C takes away again."""
    settled: dict[str, Status] = {}
    try:
        with Live(console=output.out, auto_refresh=False, screen=True) as live:
            while True:
                keep_going(runs_dir)
                rows = _sorted(_rows(runs_dir, states, settled))
                table = tables.status_table(rows[: output.out.height - 4], output.out.width)
                view = Group(tables.summary(rows), table)
                live.update(view, refresh=True)
                time.sleep(1)
    except KeyboardInterrupt:
        return


def _rows(
    runs_dir: Path, states: tuple[str, ...], settled: dict[str, Status]
) -> list[tuple[Run, Status]]:
    """Runs and their states; those that are done are put into `settled` and not looked at again."""
    rows = []
    for run in runs.listing(runs_dir):
        status = settled.get(run.id) or runs.status(run)
        if status.state == "done":
            settled[run.id] = status
        if not states or status.state in states:
            rows.append((run, status))
    return rows


def _sorted(rows: list[tuple[Run, Status]]) -> list[tuple[Run, Status]]:
    return sorted(rows, key=lambda row: (_ORDER[row[1].state], -_touched(row[0])))


def _touched(run: Run) -> float:
    """When something last came into the run's folder."""
    try:
        return run.path.stat().st_mtime
    except OSError:
        return 0.0
