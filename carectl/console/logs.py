"""`carectl logs`: what the newest job of a run wrote."""

from __future__ import annotations

import sys
import time

import typer

from carectl import runs
from carectl.console import steps
from carectl.console.clean import clean
from carectl.console.output import Output
from carectl.errors import INTERRUPTED, CommandError
from carectl.runs import Run


def show(run: Run, follow: bool, rank: int, output: Output) -> None:
    """Print the output and errors of one rank; with `follow`, go on until the job ends.

    Raises:
        CommandError: the run has not started.
    """
    where = steps.places(run.path.parent)
    if not run.attempts:
        raise CommandError(
            f"{run.id} has not been submitted; carectl status {run.id}{where} shows it"
        )
    newest = run.attempts[-1]
    if rank and not (newest / f"handle-{rank}.json").exists():
        ranks = len(list(newest.glob("handle*.json")))
        raise CommandError(f"{run.id} has no rank {rank}; its newest job has {ranks}")
    try:
        _print(run, follow, rank)
    except KeyboardInterrupt:
        output.note("")
        output.next(f"carectl status {run.id}{where} shows how it goes", aside=True)
        raise typer.Exit(INTERRUPTED) from None
    output.next(steps.after(run, runs.status(run), where, read=True), aside=True)


def _print(run: Run, follow: bool, rank: int) -> None:
    seen: dict[str, int] = {}
    while True:
        ended = runs.status(run).state not in ("running", "queued")
        for path in runs.logs(run.attempts[-1], rank):
            with path.open("rb") as file:
                file.seek(seen.get(path.name, 0))
                sys.stdout.write(clean(file.read().decode(errors="replace").replace("\r", "")))
                seen[path.name] = file.tell()
        sys.stdout.flush()
        if ended or not follow:
            return
        time.sleep(0.5)
