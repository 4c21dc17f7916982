"""From a plan to its end: show it, submit it, wait for it. Every submitting command goes here."""

from __future__ import annotations

import dataclasses
import posixpath
import re
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from carectl import estimates, publishing, redaction, runs
from carectl.backends.base import Backend
from carectl.console import steps, tables
from carectl.console.output import Output
from carectl.errors import INTERRUPTED, JOB_FAILED, CommandError
from carectl.plan import Planned, Planner
from carectl.runs import Run, Status
from carectl.submission import Place, job_of, submit, to_do
from carectl.yamlpos import whole


@dataclasses.dataclass(frozen=True)
class Options:
    """What all submitting commands share."""

    backend: str = ""
    gpus: int | None = None
    devices: str | None = None
    detach: bool = False
    dry_run: bool = False
    as_json: bool = False
    runs_dir: Path = Path("runs")
    data_dir: Path = Path("data")
    experiment: str = "care"
    tags: tuple[str, ...] = ()
    upload: bool = False
    keep_places: bool = False  # a retry: data lies where it lay

    def place(self) -> Place:
        return Place(
            self.runs_dir,
            None if self.keep_places else self.data_dir,
            self.experiment,
            parse_tags(self.tags),
            self.upload,
            self.backend or "local",
        )

    def make_backend(self) -> Backend:
        """The backend asked for.

        Raises:
            CommandError: it is not one that there is, or `--devices` names a missing GPU.
        """
        if self.backend == "slurm":
            from carectl.backends.slurm import SlurmBackend

            return SlurmBackend(self.runs_dir)
        if self.backend not in ("", "local"):
            raise CommandError(f"--backend {self.backend}: must be one of local, slurm")
        from carectl.backends.local import LocalBackend

        return LocalBackend(self.runs_dir, self.devices)

    @property
    def places(self) -> str:
        """The option that says where the runs are, behind a command that is named."""
        return steps.places(self.runs_dir)

    def settings(self) -> list[str]:
        """Flags that are spec fields, as overrides."""
        return [] if self.gpus is None else [f"launch.gpus={self.gpus}"]


class Outcome:
    """How a plan ended: the states by run id, None where nobody waited, and the exit code."""

    def __init__(
        self, plan: Sequence[Planned], states: dict[str, Status] | None, code: int
    ) -> None:
        self.plan, self.states, self.code = list(plan), states, code

    @property
    def failed(self) -> list[Planned]:
        states = self.states or {}
        return [
            run for run in self.plan if run.run_id in states and states[run.run_id].state != "done"
        ]

    def again(self, where: str) -> str:
        """The next step where something failed."""
        return steps.again([status.state for status in (self.states or {}).values()], where)


def carry_out(
    planner: Planner, options: Options, output: Output, command: str, **fields: object
) -> Outcome:
    """Show the plan and, unless it is a dry run, submit it and wait for its end.

    Args:
        fields: what --json says beside the plan.
    """
    backend = options.make_backend()
    parse_tags(options.tags)  # a dry run tells what submission would refuse
    end = command.removeprefix("reproduce ") if command.startswith("reproduce ") else ""
    if options.dry_run:
        plan = planner.refresh()
        jobs = [job_of(run, options.runs_dir) for run in to_do(plan)]
        backend.check(jobs)
        texts = backend.preview(jobs)
        hours = estimates.gpu_hours(options.runs_dir, plan)
        output.listing(tables.plan_table(plan, hours, end, width=output.room()))
        for text in texts:
            output.line(Text(f"\n{text}"))
        values = tables.plan_values(plan, hours)
        output.emit(command, dry_run=True, plan=values, sbatch=texts, **fields)
        output.next("the same command without --dry-run submits this plan")
        return Outcome(plan, None, 0)
    plan = submit(planner, backend, options.place())
    shown = tables.plan_table(plan, end=end, width=output.room(aside=True))
    output.listing(shown, aside=True)
    if options.detach:
        output.emit(command, plan=tables.plan_values(plan), **fields)
        output.next(f"carectl status{options.places} shows how it goes")
        return Outcome(plan, None, 0)
    from carectl.console.progress import wait

    hopeless = {r.run_id: Status("blocked", r.reason) for r in plan if r.action == "blocked"}
    watched = [Run(options.runs_dir / run.run_id) for run in plan if run.run_id not in hopeless]
    try:
        states = hopeless | wait(watched, backend, output)
    except KeyboardInterrupt:
        output.note(
            "\nDetached: the jobs go on without this terminal; "
            f"carectl cancel RUN{options.places} stops one."
        )
        output.emit(command, plan=tables.plan_values(plan), detached=True, **fields)
        output.next(f"carectl status{options.places} shows how it goes")
        return Outcome(plan, None, INTERRUPTED)
    if told := publishing.lacking((Run(options.runs_dir / r), s.state) for r, s in states.items()):
        output.note(f"{told}; carectl status{options.places} sends it later")
    code = JOB_FAILED if any(status.state != "done" for status in states.values()) else 0
    return Outcome(plan, states, code)


def report_runs(
    outcome: Outcome, options: Options, output: Output, command: str, plots: bool = False
) -> None:
    """The end of `pretrain` and `eval`: each run's result, and what to do about failures."""
    if outcome.states is None:
        return
    for planned in outcome.plan:
        output.line(tables.detail(Run(options.runs_dir / planned.run_id)))
    drawn = _plots(outcome.plan[-1], options, output) if plots and not outcome.failed else []
    for path in drawn:
        output.line(f"plot: {path}")
    output.emit(
        command,
        **({"plots": [str(path) for path in drawn]} if plots else {}),
        plan=tables.plan_values(outcome.plan),
        runs=[
            tables.status_values(run, runs.status(run))
            for run in (Run(options.runs_dir / planned.run_id) for planned in outcome.plan)
        ],
    )
    if outcome.failed:
        output.next(outcome.again(options.places))
    else:
        last = Run(options.runs_dir / outcome.plan[-1].run_id)
        output.next(steps.after(last, runs.status(last), options.places))


def _plots(planned: Planned, options: Options, output: Output) -> list[Path]:
    from carectl.reports import plots

    source = planned.source_run
    trained = Run(options.runs_dir / source) if source else None
    probe = Run(options.runs_dir / planned.run_id)
    drawn = plots.draw(probe, trained)
    if not publishing.publish(probe):  # again, with the pictures
        output.note("warning: the pictures are not in MLflow, which did not take them")
    return drawn


def parse_tags(tags: Sequence[str]) -> dict[str, str]:
    """`key=value` pairs as a mapping.

    Raises:
        CommandError: one has no `=`.
    """
    found = {}
    for tag in tags:
        key, sign, value = tag.partition("=")
        if not sign or not key:
            raise CommandError(f"--tag {tag}: give it as key=value")
        if not _storable(key) or not whole(value):
            raise CommandError(
                f"--tag {tag[:300]}: MLflow takes keys of 1 to 250 letters, digits, spaces and "
                "._-/: that are a plain path (no .., //, nor / at an end), and whole characters"
            )
        found[key] = redaction.value(key, value)  # MLflow shows tags to all
    return found


def _storable(key: str) -> bool:
    """Whether MLflow takes a text as a tag's key: it may become a file's place."""
    plain = posixpath.normpath(key) == key and key != "." and not key.startswith(("..", "/"))
    return plain and re.fullmatch(r"[/\w.\- :]{1,250}", key) is not None
