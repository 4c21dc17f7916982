"""SIGTERM and SIGUSR2 in each phase of a job: its real callable, under submitit's own wrapping.

Each job is a child that signals itself where the phase is, so no moment is missed by chance. What
a fork cannot show, the start of a job's interpreter, is signalled from outside (real.py).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import care_core.data
from care_core import checkpoint, distributed
from care_core.files import read_json, write_json
from care_core.measures import knn
from care_core.spec import PretrainSpec
from care_core.stepping import Stepper
from carectl import jobs, provenance, publishing, runs
from carectl.plan import Planner
from carectl.runs import Run

from .lab import Lab, Row


class Phase(NamedTuple):
    """Where a signal comes: at the nth call of a function; then the step after which it stops."""

    name: str
    owner: Any
    function: str
    nth: int
    stops_after: int | None  #: None: too late to stop, it ends well


#: The lab's trainings have 3 epochs of 5 steps, a kNN check and a checkpoint at each end.
PHASES = [
    Phase("claiming the run", jobs, "_place", 1, 1),
    Phase("signing in", provenance, "hardware", 1, 1),
    Phase("joining its ranks", distributed, "join", 1, 1),
    Phase("loading data", care_core.data, "load", 1, 1),
    Phase("loading the kNN check's data", care_core.data, "load", 2, 1),
    Phase("the first step", Stepper, "update", 1, 1),
    Phase("mid-epoch", Stepper, "update", 8, 8),
    Phase("the kNN check", knn, "check", 1, 5),
    Phase("a checkpoint's write", checkpoint, "write_bytes", 1, 6),
    Phase("the last step", Stepper, "update", 15, None),
    Phase("writing the last checkpoint", checkpoint, "write_bytes", 3, None),
    Phase("finishing", checkpoint, "weights_sha256", 1, None),
    Phase("publishing", publishing, "publish", 1, None),
]
WAYS = ["once", "twice", "again while stopping"]
BOTH = [signal.SIGTERM, signal.SIGUSR2]


class Case(NamedTuple):
    """A signal, where and how often."""

    phase: Phase
    number: signal.Signals
    way: str


def cases(short: bool) -> list[Case]:
    """Both signals in each phase, or one in every third one; the ways in turn."""
    if short:
        return [Case(p, BOTH[n % 2], WAYS[n % 3]) for n, p in enumerate(PHASES[::3])]
    return [Case(p, s, WAYS[(n + m) % 3]) for m, s in enumerate(BOTH) for n, p in enumerate(PHASES)]


def signalled(lab: Lab, chosen: list[Case]) -> list[Row]:
    """Signal a job in each of the cases; then run it again as `retry` does."""
    rows = []
    for number in BOTH:
        mine = [case for case in chosen if case.number == number]
        wrong = [_once(lab, case) for case in mine]
        fine = sum(not one for one in wrong)
        ways = ", ".join(way for way in WAYS if any(case.way == way for case in mine))
        phases = len({case.phase.name for case in mine})
        name = f"{number.name} in {phases} phases of a job, {ways}, in turn; then retry"
        rows.append(Row(name, len(mine), fine, fine, len(mine), [x for one in wrong for x in one]))
    return rows


def _once(lab: Lab, case: Case) -> list[str]:
    name = f"{case.number.name} {case.way}, {case.phase.name}"
    return [f"{name}: {text}" for text in _wrong(lab, case, name.replace(" ", "-"))]


def _wrong(lab: Lab, case: Case, name: str) -> list[str]:
    phase = case.phase
    run = made(lab.folder / "jobs" / name, lab.spec)
    code = job(lab, run, lambda: signal_in(case))
    attempt = run.attempts[-1]
    error = (read_json(attempt / "error.json") or {}).get("message", "")
    state = runs.status(run).state
    if phase.stops_after is None:
        if (code, state) != (0, "done"):
            return [f"exit {code}, {state}: {error}"]
    else:
        wanted = f"stopped on request after step {phase.stops_after}; it can go on"
        if (code, state, error) != (1, "failed", wanted):
            return [f"exit {code}, {state}: '{error}' instead of '{wanted}'"]
        code = job(lab, run)
        if code != 0:
            return [f"retry exits with {code}"]
    return lab.problems(run.path)


def made(runs_dir: Path, spec: PretrainSpec) -> Run:
    """A planned run's folder, as a submission makes it, but for MLflow."""
    planned = Planner(runs_dir, runs_dir / "data").pretrain(spec)
    record = {"kind": "pretrain", "name": spec.name, "spec": spec.model_dump(mode="json")}
    run = runs.create(runs_dir, planned.identity, record, planned.yaml)
    launch = spec.launch.model_dump(mode="json")
    write_json(
        run.path / "job.json",
        {"threads": 1, "data_dir": str(runs_dir / "data"), "launch": launch, "backend": "local"},
    )
    return run


def job(lab: Lab, run: Run, prepare: Callable[[], Any] = int) -> int:
    """A new attempt at the run, as submitit's local executor starts it; its exit code."""
    from submitit.core.submission import process_job
    from submitit.core.utils import DelayedSubmission

    folder = run.new_attempt()

    def start() -> None:
        prepare()
        process_job(folder)

    delayed = DelayedSubmission(jobs.execute, str(run.path), int(folder.name), [])
    delayed.set_timeout(365 * 24 * 60, 3)
    delayed.dump(folder / "1_submitted.pkl")
    ranks = {"NTASKS": "1", "GLOBALID": "0", "LOCALID": "0", "NODEID": "0", "JOB_NUM_NODES": "1"}
    os.environ |= {f"SUBMITIT_LOCAL_{key}": value for key, value in ranks.items()}
    os.environ |= {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": "1"}
    return lab.forked(start)


def signal_in(case: Case) -> None:
    """Let this process signal itself once it is in the phase."""
    phase, number, way = case
    calls = 0
    function, save = getattr(phase.owner, phase.function), checkpoint.save
    sent = False

    def called(*arguments: Any, **named: Any) -> Any:
        nonlocal calls, sent
        calls += 1
        if calls == phase.nth:
            sent = True
            for _ in range(2 if way == "twice" else 1):
                os.kill(os.getpid(), number)
        return function(*arguments, **named)

    def saving(*arguments: Any, **named: Any) -> Any:
        if sent:
            os.kill(os.getpid(), number)
        return save(*arguments, **named)

    setattr(phase.owner, phase.function, called)
    if way == "again while stopping":
        checkpoint.save = saving
