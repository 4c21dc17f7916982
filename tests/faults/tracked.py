"""A run folder and its run of MLflow, and what each of the two holds."""

from __future__ import annotations

from pathlib import Path

from care_core import metrics
from care_core.files import write_json
from carectl import mlflow_runs, tracking
from carectl.runs import Run


def tracked(folder: Path, address: str) -> Run:
    """A run folder as submission makes it, with a run of MLflow."""
    runs_dir = folder / "runs"
    run = Run(runs_dir / "tiny")
    experiment = mlflow_runs.experiment(address, "care", folder)
    tags = {"spec_hash": "ab", "run_folder": str(run.path)}
    run_id = mlflow_runs.make_run(address, experiment, "tiny", {}, tags, None)
    record = {"uri": address, "experiment_id": experiment, "run_id": run_id}
    write_json(run.path / "job.json", {"tracking": record})
    return run


def sent(run: Run) -> list[tuple[str, int, float, int]]:
    """Every row that MLflow has of a run."""
    place = run.job["tracking"]
    store = tracking.client(place["uri"])
    keys = store.get_run(place["run_id"]).data.metrics
    rows = [row for key in keys for row in store.get_metric_history(place["run_id"], key)]
    return sorted((row.key, row.step, row.value, row.timestamp) for row in rows)


def recorded(run: Run) -> list[tuple[str, int, float, int]]:
    """Every row of a run's record."""
    return sorted((row.key, row.step, row.value, row.timestamp) for row in metrics.read(run.path))
