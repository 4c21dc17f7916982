"""A run's folder goes to MLflow whole once it is over: by its job, or later by who looks.

What its job could not send (it was killed, or MLflow was away or full) is caught up with by
`carectl status` and by the command that submitted it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from care_core import metrics
from care_core.errors import StorageError
from care_core.files import write_json
from carectl import runs, trust
from carectl.runs import Run, State
from carectl.tracking import RunTracker, answers, complete, first_line, flatten, ours
from carectl.wording import counted

BUDGET_S = 20.0  # after so long a catching-up goes on with the next command
#: What MLflow calls a run that ended without a result.
_ENDS: dict[State, str] = {
    "failed": "FAILED",
    "lost": "FAILED",
    "cancelled": "KILLED",
    "blocked": "KILLED",
}


def tracker(
    run: Run, say: Callable[[str], None] = lambda text: None, *, submitted: bool = False
) -> RunTracker | None:
    """The run's tracker, if it is tracked where this project is; `say` gets its warnings.

    Args:
        submitted: this is the run's job, whose submission has just written down the address.
    """
    found = run.job.get("tracking")
    if not found or not (submitted or ours(found["uri"], run.path.parent)):
        return None
    return RunTracker(complete(found["uri"]), found["run_id"], run.path, say)


def pending(run: Run, state: State) -> bool:
    """Whether a run that is over still has something that MLflow was not sent."""
    if state == "done":
        sent = metrics.complete(run.path)
    elif state in _ENDS:
        attempts = run.attempts
        sent = not attempts or (attempts[-1] / "closed.json").exists()
    else:
        return False
    return not sent and tracker(run) is not None


def publish(run: Run, to: RunTracker | None = None) -> bool:
    """Send a done run's curves, figures and files, and close its MLflow run; whether all arrived.

    Sending again adds nothing. `to` is the job's own tracker, which knows what it has sent.
    """
    to = to or tracker(run)
    if to is None:
        return True
    result = run.result or {}
    steps = int(result.get("steps", 0))
    try:
        if result.get("kind") == "pretrain":
            good = to.send(steps)
        else:
            at = int((run.path / "result.json").stat().st_mtime * 1000)
            good = to.values(_figures(result), at)
        good = good and to.finish("FINISHED", _files(run, result))
        if good:
            metrics.completed(run.path, steps)
    except (OSError, StorageError) as error:  # the run is done whatever becomes of its picture
        to.problem, good = first_line(error), False
        to.say(f"warning: {to.problem}")
    return good


def close(run: Run, state: str, to: RunTracker | None = None) -> bool:
    """Tell MLflow, once an attempt, that a run without a result is over: FAILED or KILLED.

    A job that died without a word cannot say so itself, and would stay RUNNING there.
    """
    attempts = run.attempts
    to = to or tracker(run)
    if not attempts or to is None or (attempts[-1] / "closed.json").exists():
        return True
    good = to.send(metrics.published(run.path)) and to.finish(state)
    if good:
        with contextlib.suppress(StorageError):  # a read-only folder: it is said again
            write_json(attempts[-1] / "closed.json", {"state": state}, durable=False)
    return good


class Caught(NamedTuple):
    """What became of a catching-up: how many runs arrived, how many did not, and why."""

    sent: int
    left: int
    why: str


def catch_up(found: Iterable[tuple[Run, State]]) -> Caught:
    """Send what MLflow lacks of runs that are over, until it is silent or time is up."""
    sent = left = 0
    why = ""
    silent: set[str] = set()
    deadline = time.monotonic() + BUDGET_S
    for run, state in found:
        if not pending(run, state) or runs.working(run):
            continue
        to = tracker(run)
        if to is None or to.address in silent or time.monotonic() > deadline:
            left += 1
        elif publish(run, to) if state == "done" else close(run, _ENDS[state], to):
            sent += 1
        else:
            left, why = left + 1, to.problem
            if not answers(to.address):  # else the fault is this run's alone
                silent.add(to.address)
    return Caught(sent, left, why)


def lacking(found: Iterable[tuple[Run, State]]) -> str:
    """Which runs' records are not in MLflow yet, as a sentence without its end; "" if all are."""
    missing = [run.id for run, state in found if pending(run, state)]
    if not missing:
        return ""
    whose = f"{missing[0]} is" if len(missing) == 1 else f"{len(missing)} of these runs are"
    return f"{whose} not wholly in MLflow, which did not take it; nothing is lost"


def told(caught: Caught) -> str:
    """What a catching-up has to say for itself."""
    words = [f"MLflow has got what it lacked of {counted(caught.sent, 'run')}"] * bool(caught.sent)
    if caught.left:
        why = f" ({caught.why})" if caught.why else ""
        words.append(
            f"{counted(caught.left, 'run')} not wholly in MLflow{why}; nothing is lost, and the "
            "next carectl status sends it"
        )
    return "; ".join(words)


def _files(run: Run, result: dict[str, Any]) -> list[Path]:
    files = [run.path / name for name in ("spec.yaml", "result.json", "code.json")]
    if result.get("kind") == "pretrain":
        files.append(_curves(run))
        if run.job.get("upload"):
            files.append(trust.inside(run.path / "checkpoints", result["checkpoint"]))
    else:
        files += sorted((run.path / "artifacts").glob("*.png"))  # what --plots drew
    # what a link leads to is not the run's
    return [path for path in files if not path.is_symlink()]


def _curves(run: Run) -> Path:
    from carectl.reports.curves import draw

    return draw(run.path)


def _figures(result: dict[str, Any]) -> dict[str, float]:
    """A probe's result as named numbers; a list over classifier seeds as its mean."""
    figures: dict[str, float] = {}
    for key, value in flatten(result).items():
        if isinstance(value, list):
            figures[key] = sum(value) / len(value)
        elif isinstance(value, (int, float)) and value == value:
            figures[key] = float(value)
    return figures
