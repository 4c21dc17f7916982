"""`carectl reproduce TARGET`: a grid becomes a plan, and its runs a table beside the paper."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from carectl import runs, specs
from carectl.console import tables
from carectl.console.output import Output
from carectl.errors import JOB_FAILED, PARTIAL, CommandError
from carectl.flow import Options, carry_out
from carectl.plan import Planned, Planner
from carectl.runs import Run

if TYPE_CHECKING:
    from carectl.grid import Cell, Grid
    from carectl.reports.table1 import Table

TARGETS = ("table1",)


def reproduce(
    target: str,
    profile: str,
    only: Sequence[str],
    seeds: str | None,
    options: Options,
    output: Output,
    overrides: Sequence[str] = (),
) -> int:
    """Plan the grid, carry it out and write the report. Returns the exit code."""
    grid, cells, planner, pairs = _plan(target, profile, only, seeds, options, overrides)
    outcome = carry_out(planner, options, output, f"reproduce {target}")
    if outcome.states is None:
        return outcome.code
    folder = _folder(options, target, profile, seeds)
    table = _table(grid, cells, pairs, options)
    paths = _present(table, folder, output)
    output.emit(
        f"reproduce {target}",
        profile=profile,
        plan=tables.plan_values(outcome.plan),
        report={name: str(path) for name, path in paths.items()},
        table=dataclasses.asdict(table),
        states={run: status._asdict() for run, status in outcome.states.items()},
    )
    if outcome.failed:
        for run in outcome.failed:
            output.note(f"{run.run_id}: {outcome.states[run.run_id].reason}")
        output.next("carectl retry --failed, or the same command again, goes on with what failed")
        return JOB_FAILED if len(outcome.failed) == len(outcome.plan) else PARTIAL
    output.next(_next_step(profile, {cell.seed for cell in cells}))
    return 0


def report(
    target: str,
    profile: str,
    only: Sequence[str],
    seeds: str | None,
    options: Options,
    output: Output,
) -> int:
    """Write the report from what is done, without submitting anything."""
    grid, cells, _, pairs = _plan(target, profile, only, seeds, options)
    table = _table(grid, cells, pairs, options)
    paths = _present(table, _folder(options, target, profile, seeds), output)
    output.emit(
        f"report {target}",
        profile=profile,
        report={name: str(path) for name, path in paths.items()},
        table=dataclasses.asdict(table),
    )
    output.next(f"carectl reproduce {target} --profile {profile} runs what is missing")
    return 0


Pairs = list[tuple[Planned, Planned]]


def _plan(
    target: str,
    profile: str,
    only: Sequence[str],
    seeds: str | None,
    options: Options,
    overrides: Sequence[str] = (),
) -> tuple[Grid, list[Cell], Planner, Pairs]:
    if target not in TARGETS:
        raise CommandError(f"no target '{target}'; there is: {', '.join(TARGETS)}")
    grid = specs.load_grid(specs.find(target))
    cells = grid.cells(profile, only, _seeds(seeds))
    planner = Planner(options.runs_dir, options.data_dir)
    pairs: Pairs = []
    for cell in cells:
        spec = specs.load(
            specs.find(cell.recipe),
            [*cell.overrides, *overrides, f"seed={cell.seed}", *options.settings()],
        )
        trained = planner.pretrain(spec, row=cell.row, dataset=cell.dataset, seed=cell.seed)
        probed = planner.probe(spec, trained, row=cell.row, dataset=cell.dataset, seed=cell.seed)
        pairs.append((trained, probed))
    return grid, cells, planner, pairs


def _seeds(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        raise CommandError(
            f"--seeds {text}: give whole numbers with commas, such as 0,1,2"
        ) from None
    if len(set(found)) < len(found) or min(found) < 0:
        raise CommandError(f"--seeds {text}: each seed once, none below 0")
    return found


def _table(grid: Grid, cells: Sequence[Cell], pairs: Pairs, options: Options) -> Table:
    from carectl.reports.table1 import Entry, summarise

    entries = [
        Entry(
            row=cell.row,
            dataset=cell.dataset,
            seed=cell.seed,
            pretrain=_folder_of(options.runs_dir, trained),
            probe=_folder_of(options.runs_dir, probed),
        )
        for cell, (trained, probed) in zip(cells, pairs, strict=True)
    ]
    return summarise(entries, grid.reference)


def _folder_of(runs_dir: Path, planned: Planned) -> Run:
    return runs.by_hash(runs_dir, planned.identity.sha256) or Run(runs_dir / planned.run_id)


def _present(table: Table, folder: Path, output: Output) -> dict[str, Path]:
    from carectl.reports import table1

    paths = table1.write(table, folder)
    output.result(table1.render(table))
    for sentence in table1.sentences(table):
        output.result(sentence)
    for name, path in paths.items():
        output.result(f"{name}: {path}")
    return paths


def _folder(options: Options, target: str, profile: str, seeds: str | None) -> Path:
    """Other seeds are another table, and must not replace one that was measured with more."""
    suffix = f"-seeds-{seeds.replace(',', '-')}" if seeds else ""
    return options.runs_dir.parent / "reports" / f"{target}-{profile}{suffix}"


def _next_step(profile: str, seeds: set[int]) -> str:
    if profile == "digits" and len(seeds) < 3:
        return (
            "carectl reproduce table1 --profile digits --seeds 0,1,2 measures the spread "
            "(runs that are done are reused)"
        )
    return "carectl status lists the runs, carectl status RUN shows one with its MLflow link"
