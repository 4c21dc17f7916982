"""`carectl status`: the states as they are now, once or until Ctrl-C."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import get_args

from rich.live import Live

from carectl import publishing, runs
from carectl.console import tables
from carectl.console.clean import clean
from carectl.console.output import Output
from carectl.errors import CommandError
from carectl.runs import Run, State, Status

MANY = 500  # rows: more are not worth a table's layout


def show(
    runs_dir: Path, name: str | None, states: tuple[str, ...], watch: bool, output: Output
) -> None:
    """Print one run's details or the table of all."""
    for state in states:
        if state not in get_args(State):
            raise CommandError(f"--state {state}: must be one of {', '.join(get_args(State))}")
    if name:
        run = runs.find(runs_dir, name)
        output.result(tables.detail(run))
        output.emit("status", as_of=time.time(), runs=[tables.status_values(run, runs.status(run))])
        output.next(f"carectl logs {run.id}" if run.attempts else "carectl status")
        return
    keep_going(runs_dir)
    rows = _rows(runs_dir, states)
    if watch and output.out.is_terminal:
        _watch(runs_dir, states, output)
        return
    if not rows:
        output.result(f"no runs in {runs_dir}" if not states else "no run in that state")
    elif output.out.is_terminal and len(rows) <= MANY:
        output.listing(tables.status_table(rows))
    elif not output.as_json:
        print(clean(tables.status_lines(rows)))
    output.emit("status", as_of=time.time(), runs=[tables.status_values(*row) for row in rows])
    where = "" if runs_dir == Path("runs") else f" --runs-dir {shlex.quote(str(runs_dir))}"
    output.next(
        f"carectl status RUN{where} shows one" if rows else "carectl pretrain digits/care-simclr"
    )


def keep_going(runs_dir: Path) -> None:
    """Start the local queue again if jobs wait and it is gone (killed, or the machine rebooted)."""
    from carectl.backends import tickets

    if tickets.waiting(runs_dir):
        from carectl.backends.local import LocalBackend

        LocalBackend(runs_dir).ensure()


def _watch(runs_dir: Path, states: tuple[str, ...], output: Output) -> None:
    order = {"running": 0, "stale": 1, "queued": 2, "failed": 3, "lost": 4}
    try:
        with Live(console=output.out, auto_refresh=False, transient=True) as live:
            while True:
                keep_going(runs_dir)
                rows = sorted(_rows(runs_dir, states), key=lambda row: order.get(row[1].state, 9))
                live.update(tables.status_table(rows[: output.out.height - 4]), refresh=True)
                time.sleep(1)
    except KeyboardInterrupt:
        return


def _rows(runs_dir: Path, states: tuple[str, ...]) -> list[tuple[Run, Status]]:
    rows = [(run, runs.status(run)) for run in runs.listing(runs_dir)]
    for run, status in rows:
        if status.state == "lost":
            publishing.close(run, "FAILED")
    return [row for row in rows if not states or row[1].state in states]
