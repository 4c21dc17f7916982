"""`carectl reproduce TARGET`: a grid becomes a plan, and its runs a table beside the paper."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from care_core.errors import DataError
from carectl import runs, specs
from carectl.console import tables
from carectl.console.output import Output
from carectl.errors import ENVIRONMENT, JOB_FAILED, PARTIAL, CommandError
from carectl.flow import Options, carry_out
from carectl.plan import Planned, Planner
from carectl.reports import marks
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
    from carectl.reports import table1

    plan = _plan(target, profile, only, seeds, options, overrides)
    outcome = carry_out(plan.planner, options, output, f"reproduce {target}")
    if outcome.states is None:
        return outcome.code
    table = _table(plan, options)
    paths = _present(table, _folder(plan, options, target, profile, seeds), output)
    output.emit(
        f"reproduce {target}",
        profile=profile,
        plan=tables.plan_values(outcome.plan),
        report={name: str(path) for name, path in paths.items()},
        table=table1.values(table),
        states={run: status._asdict() for run, status in outcome.states.items()},
    )
    if outcome.failed:
        for run in outcome.failed:
            output.note(f"{run.run_id}: {outcome.states[run.run_id].reason}")
        output.next("carectl retry --failed, or the same command again, goes on with what failed")
        return JOB_FAILED if len(outcome.failed) == len(outcome.plan) else PARTIAL
    output.next(_next_step(profile, {cell.seed for cell in plan.cells}))
    return 0


def report(
    target: str,
    profile: str,
    only: Sequence[str],
    seeds: str | None,
    options: Options,
    output: Output,
    overrides: Sequence[str] = (),
) -> int:
    """Write the report from what is done, without submitting anything."""
    from carectl.reports import table1

    plan = _plan(target, profile, only, seeds, options, overrides)
    table = _table(plan, options)
    paths = _present(table, _folder(plan, options, target, profile, seeds), output)
    output.emit(
        f"report {target}",
        profile=profile,
        report={name: str(path) for name, path in paths.items()},
        table=table1.values(table),
    )
    output.next(f"carectl reproduce {target} --profile {profile} runs what is missing")
    return 0


@dataclasses.dataclass(frozen=True)
class _Answer:
    """The runs that answer one cell.

    `changes` are settings that are not the recipe's, `overridden` those that are not the profile's.
    """

    cell: Cell
    trained: Planned
    probed: Planned
    fidelity: str
    changes: tuple[str, ...]
    overridden: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Plan:
    grid: Grid
    planner: Planner
    answers: list[_Answer]

    @property
    def cells(self) -> list[Cell]:
        return [answer.cell for answer in self.answers]


def _plan(
    target: str,
    profile: str,
    only: Sequence[str],
    seeds: str | None,
    options: Options,
    overrides: Sequence[str],
) -> _Plan:
    if target not in TARGETS:
        raise CommandError(f"no target '{target}'; there is: {', '.join(TARGETS)}")
    grid = specs.load_grid(specs.find(target))
    planner = Planner(options.runs_dir, options.data_dir)
    asked, answers, missing = [*overrides, *options.settings()], [], dict[str, str]()
    cells = grid.cells(profile, only, _seeds(seeds))
    for cell in cells:
        if cell.dataset in missing:
            continue
        try:
            answers.append(_answer(cell, asked, planner))
        except DataError as error:
            missing[cell.dataset] = str(error)
    if missing:
        raise CommandError(_missing(missing, {cell.dataset for cell in cells}), ENVIRONMENT)
    return _Plan(grid, planner, answers)


def _answer(cell: Cell, asked: Sequence[str], planner: Planner) -> _Answer:
    """Plan a cell's runs.

    Raises:
        DataError: the dataset's files are not there.
    """
    recipe, seed = specs.find(cell.recipe), f"seed={cell.seed}"
    spec = specs.load(recipe, [*cell.overrides, *asked, seed])
    preset = f"fidelity={spec.fidelity}"
    labels: dict[str, Any] = {"row": cell.row, "dataset": cell.dataset, "seed": cell.seed}
    trained = planner.pretrain(spec, **labels)
    return _Answer(
        cell,
        trained,
        planner.probe(spec, trained, **labels),
        spec.fidelity,
        marks.changes(spec, specs.load(recipe, [preset, seed])),
        marks.changes(spec, specs.load(recipe, [*cell.overrides, preset, seed])),
    )


def _missing(missing: dict[str, str], datasets: set[str]) -> str:
    """Which datasets have to be got before the grid can be planned, and the way around."""
    there = sorted(datasets - missing.keys())
    around = f"; --only {there[0]} does without" if there else "; --profile digits needs no files"
    return "\n".join(
        [f"{len(missing)} of {len(datasets)} datasets cannot be used{around}:", *missing.values()]
    )


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


def _table(plan: _Plan, options: Options) -> Table:
    from carectl.reports.table1 import Entry, summarise

    entries = [
        Entry(
            row=answer.cell.row,
            dataset=answer.cell.dataset,
            seed=answer.cell.seed,
            pretrain=_folder_of(options.runs_dir, answer.trained),
            probe=_folder_of(options.runs_dir, answer.probed),
            fidelity=answer.fidelity,
            changes=answer.changes,
        )
        for answer in plan.answers
    ]
    return summarise(entries, plan.grid.reference)


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


def _folder(plan: _Plan, options: Options, target: str, profile: str, seeds: str | None) -> Path:
    """Another preset, other settings or other seeds are another table: none replaces another."""
    presets = {answer.fidelity for answer in plan.answers} - {"paper"}
    parts = [target, profile, *sorted(presets)]
    changed = sorted({text for answer in plan.answers for text in answer.overridden})
    if changed:
        parts.append(f"changed-{hashlib.sha256(repr(changed).encode()).hexdigest()[:8]}")
    if seeds:
        parts.append(f"seeds-{seeds.replace(',', '-')}")
    return options.runs_dir.parent / "reports" / "-".join(parts)


def _next_step(profile: str, seeds: set[int]) -> str:
    if profile == "digits" and len(seeds) < 3:
        return (
            "carectl reproduce table1 --profile digits --seeds 0,1,2 measures the spread "
            "(runs that are done are reused)"
        )
    return "carectl status lists the runs, carectl status RUN shows one with its MLflow link"
