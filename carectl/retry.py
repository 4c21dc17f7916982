"""`carectl retry`: submit again what failed, and what hung on it, just as it was asked before."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from carectl import runs
from carectl.console.output import Output
from carectl.errors import CommandError
from carectl.flow import Options, carry_out, report_runs
from carectl.plan import Planner
from carectl.runs import Run

FAILED = ("failed", "lost", "blocked")
AGAIN = (*FAILED, "cancelled", "stale")


def retry(names: Sequence[str], failed: bool, options: Options, output: Output) -> int:
    """Submit the chosen runs again, each on the backend it had unless one is named.

    Raises:
        CommandError: nothing was chosen, or a chosen run cannot be retried in its state.
    """
    chosen = _chosen(names, failed, options)
    if not chosen:
        output.result("nothing failed: there is nothing to retry")
        output.emit("retry", plan=[], runs=[])
        output.next("carectl status lists the runs")
        return 0
    code = 0
    for backend in sorted({_backend(run, options) for run in chosen}):
        mine = [run for run in chosen if _backend(run, options) == backend]
        planner = Planner(options.runs_dir, options.data_dir)
        for run in sorted(mine, key=lambda run: run.record.get("kind") != "pretrain"):
            planner.again(run)
        there = dataclasses.replace(options, backend=backend, keep_places=True)
        outcome = carry_out(planner, there, output, "retry")
        report_runs(outcome, there, output, "retry")
        code = max(code, outcome.code)
    return code


def _chosen(names: Sequence[str], failed: bool, options: Options) -> list[Run]:
    if bool(names) == failed:
        raise CommandError("name the runs to retry, or give --failed (not both)")
    everything = list(runs.listing(options.runs_dir))
    if failed:
        return [run for run in everything if runs.status(run).state in FAILED]
    chosen = [runs.find(options.runs_dir, name) for name in names]
    for run in chosen:
        state = runs.status(run).state
        if state not in AGAIN:
            raise CommandError(f"{run.id} is {state}; only {', '.join(AGAIN)} can be retried")
    ids = {run.id for run in chosen}
    hung = [
        run for run in everything
        if run.id not in ids and run.job.get("source_run") in ids
        and runs.status(run).state in AGAIN
    ]  # fmt: skip
    return chosen + hung


def _backend(run: Run, options: Options) -> str:
    return options.backend or str(run.job.get("backend", "local"))
