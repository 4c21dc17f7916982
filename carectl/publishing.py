"""A done run's folder goes to MLflow whole: by its job, or later if that was killed or cut off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from care_core import metrics
from care_core.files import write_json
from carectl.runs import Run
from carectl.tracking import RunTracker, flatten


def tracker(run: Run) -> RunTracker | None:
    """The run's tracker, if it is tracked."""
    found = run.job.get("tracking")
    return RunTracker(found["uri"], found["run_id"], run.path) if found else None


def pending(run: Run) -> bool:
    """Whether a done run still has something that MLflow was not sent."""
    return bool(run.job.get("tracking")) and not metrics.complete(run.path)


def publish(run: Run, to: RunTracker | None = None) -> None:
    """Send curves, figures and files, and close the MLflow run. Sending again adds nothing.

    `to` is the job's own tracker, which knows what it has sent; nothing if the run is not tracked.
    """
    to = to or tracker(run)
    if to is None:
        return
    result = run.result or {}
    steps = int(result.get("steps", 0))
    if result.get("kind") == "pretrain":
        good = to.committed(steps)
        files = [*_papers(run), _curves(run)]
        if run.job.get("upload"):
            files.append(run.path / "checkpoints" / result["checkpoint"])
    else:
        at = int((run.path / "result.json").stat().st_mtime * 1000)
        good = to.values(_figures(result), at)
        files = _papers(run)
    if to.finish("FINISHED", files) and good:
        metrics.completed(run.path, steps)


def close(run: Run, state: str) -> None:
    """Tell MLflow, once an attempt, that a run without a result is over: FAILED or KILLED.

    A job that died without a word cannot say so itself, and would stay RUNNING there.
    """
    attempts = run.attempts
    to = tracker(run)
    if not attempts or to is None or (attempts[-1] / "closed.json").exists():
        return
    if to.finish(state):
        write_json(attempts[-1] / "closed.json", {"state": state}, durable=False)


def _papers(run: Run) -> list[Path]:
    return [run.path / name for name in ("spec.yaml", "result.json", "code.json")]


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
