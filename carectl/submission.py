"""A plan is executed: folders, MLflow runs, tickets; under one lock, so nothing runs twice."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from care_core.files import read_json, storage_error, write_json
from carectl import mlflow_runs, provenance, publishing, redaction, runs, tracking
from carectl.backends.base import Backend, Job
from carectl.errors import ENVIRONMENT, CommandError
from carectl.plan import Planned, Planner
from carectl.runs import Run


class Place(NamedTuple):
    """Where runs, data and tracking live."""

    runs_dir: Path
    data_dir: Path | None  #: None: where it lay when the run was first submitted
    experiment: str
    tags: dict[str, str]
    upload: bool = False
    backend: str = "local"

    @property
    def project(self) -> Path:
        """The folder that holds the runs folder; MLflow's store lies beside it."""
        return self.runs_dir.resolve().parent


def submit(planner: Planner, backend: Backend, place: Place) -> list[Planned]:
    """Submit what is new or to be retried; returns the plan as it was found under the lock.

    Raises:
        CommandError: the runs folder is not writable, or MLflow cannot be used.
    """
    from filelock import FileLock

    try:
        place.runs_dir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place.runs_dir / ".submit.lock")
        lock.acquire()
    except OSError as error:
        raise CommandError(
            str(storage_error(place.runs_dir / "runs", error)), ENVIRONMENT
        ) from error
    try:
        plan = planner.refresh()
        wanted = to_do(plan)
        backend.check([job_of(run, place.runs_dir) for run in wanted])
        if wanted:
            address = tracking.uri(place.project)
            # who has an MLflow run already goes on without MLflow
            known = all(tracked_at(Run(place.runs_dir / run.run_id).job, address) for run in wanted)
            experiment_id = "" if known else mlflow_runs.experiment(
                address, place.experiment, place.project
            )  # fmt: skip
            code = provenance.collect()
            jobs = [_prepare(run, place, backend, address, experiment_id, code) for run in wanted]
            backend.submit(jobs)
        backend.ensure()
        publishing.catch_up(
            (Run(place.runs_dir / run.run_id), "done") for run in plan if run.action == "reused"
        )
        return plan
    finally:
        lock.release()


def _prepare(
    planned: Planned,
    place: Place,
    backend: Backend,
    address: str,
    experiment_id: str,
    code: dict[str, Any],
) -> Job:
    """Make the folder, and once for the run's life its MLflow run and its thread count."""
    record: dict[str, Any] = {
        "kind": planned.kind,
        "name": planned.name,
        "spec": planned.spec.model_dump(mode="json"),
    }
    run = runs.create(place.runs_dir, planned.identity, record, planned.yaml)
    job, kept = run.job, redaction.address(address)
    first = not job
    if not tracked_at(job, address):
        run_id = mlflow_runs.make_run(
            address,
            experiment_id,
            run.id,
            record["spec"],
            _tags(planned, run, place, code),
            _tracked(place.runs_dir, planned.source_run),
        )
        job = {
            **job,
            "threads": job.get("threads")
            or planned.launch.threads
            or backend.threads(planned.launch),
            "tracking": {"uri": kept, "experiment_id": experiment_id, "run_id": run_id},
            "source_run": planned.source_run,
        }
    if first:
        write_json(run.path / "code.json", code)
    write_json(
        run.path / "job.json",
        {
            **job,
            "checkpoint": planned.checkpoint,
            "data_dir": str(place.data_dir.resolve()) if place.data_dir else job["data_dir"],
            "upload": place.upload,
            "launch": planned.launch.model_dump(mode="json"),
            "backend": place.backend,
        },
    )
    return job_of(planned, place.runs_dir)


def tracked_at(job: dict[str, Any], address: str) -> bool:
    """Whether a run's job.json has its MLflow run at an address.

    A job sends to what its submission wrote down: not to what a received folder may say.
    """
    kept = (job.get("tracking") or {}).get("uri")
    return kept is not None and redaction.address(kept) == redaction.address(address)


def to_do(plan: list[Planned]) -> list[Planned]:
    """The runs of a plan that have to be submitted."""
    return [run for run in plan if run.action in ("new", "retry")]


def job_of(planned: Planned, runs_dir: Path) -> Job:
    """What a backend is asked to start."""
    return Job(Run(runs_dir / planned.run_id), planned.depends, planned.launch)


def _tracked(runs_dir: Path, run_id: str | None) -> str | None:
    """The MLflow run of a run folder, to be the parent of its probes."""
    if run_id is None:
        return None
    job = read_json(runs_dir / run_id / "job.json") or {}
    return (job.get("tracking") or {}).get("run_id")


def _tags(planned: Planned, run: Run, place: Place, code: dict[str, Any]) -> dict[str, str]:
    spec = planned.spec.model_dump(mode="json")
    method = (spec.get("method") or {}).get("name")
    if method and spec["equivariance"]["weight"] > 0:
        method = f"care-{method}"
    tags = {
        "run_id": run.id,
        "run_folder": str(run.path.resolve()),
        "spec_hash": planned.identity.sha256,
        "git_commit": code["commit"] or "",
        "kind": planned.kind,
        "dataset": spec["data"]["name"],
        "method": method or planned.name,
        "seed": str(spec.get("seed", planned.labels.get("seed", ""))),
        "user": os.environ.get("USER", ""),
    }
    return {**tags, **place.tags}
