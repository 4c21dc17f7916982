"""The experiments and runs of MLflow: made once, at submission, and for a report."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from carectl import redaction
from carectl.errors import ENVIRONMENT, CommandError
from carectl.tracking import client, first_line, flatten, log_params


def experiment(address: str, name: str, project: Path) -> str:
    """The experiment's id; makes the store and the experiment under a lock, once.

    Eight processes that open a fresh SQLite store at once leave it broken, hence the lock.

    Raises:
        CommandError: the store cannot be reached.
    """
    from filelock import FileLock

    project.mkdir(parents=True, exist_ok=True)
    with FileLock(project / ".mlflow.lock"), _telling(address):
        _make_store(address)
        store = client(address)
        found = store.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        local = address.startswith("sqlite:")
        place = (project.resolve() / "mlartifacts").as_uri() if local else None
        return str(store.create_experiment(name, artifact_location=place))


@contextlib.contextmanager
def _telling(address: str) -> Iterator[None]:
    """Within, whatever a store raises becomes a sentence with the remedy."""
    try:
        yield
    except Exception as error:
        remedy = (
            "mend that, or set MLFLOW_TRACKING_URI to another store"
            if address.startswith("sqlite:")
            else "start the server, or unset MLFLOW_TRACKING_URI to use the project's own store"
        )
        shown = redaction.address(address)
        raise CommandError(
            f"MLflow store {shown} cannot be used: {first_line(error)}; {remedy}", ENVIRONMENT
        ) from error


def _make_store(address: str) -> None:
    """Make a SQLite store that is not there aside, and move it into place when it is whole.

    Making one takes seconds of table after table, and a kill in between would leave a file that
    neither opens nor can be mended.
    """
    path = Path(address.removeprefix("sqlite:///"))
    if not address.startswith("sqlite:///") or path.is_file():
        return
    if path.exists():  # SQLite would wait for a pipe without end
        raise OSError("it is no regular file")
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{path.name}.*.tmp*"):
        leftover.unlink(missing_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        client(f"sqlite:///{aside}").search_experiments(max_results=1)
        aside.replace(path)
    finally:
        for leftover in path.parent.glob(f"{aside.name}*"):  # of a disk that was too full for it
            leftover.unlink(missing_ok=True)


def make_run(
    address: str,
    experiment_id: str,
    name: str,
    params: dict[str, Any],
    tags: dict[str, str],
    parent: str | None,
) -> str:
    """Make a run at submission, or find the one that a killed submission made. Returns its id.

    Its parameters are the resolved spec, flattened; a run folder has one MLflow run.

    Raises:
        CommandError: the store cannot be reached, or not written to.
    """
    with _telling(address):
        store = client(address)
        folder = tags["run_folder"].replace("'", "")
        found = store.search_runs(
            [experiment_id],
            filter_string=f"tags.spec_hash = '{tags['spec_hash']}' "
            f"and tags.run_folder = '{folder}'",
            max_results=1,
        )
        if parent:
            tags = {**tags, "mlflow.parentRunId": parent}
        run = found[0] if found else store.create_run(experiment_id, run_name=name, tags=tags)
        run_id = str(run.info.run_id)
        store.update_run(run_id, status="SCHEDULED")
        log_params(store, run_id, flatten(params))
        return run_id


def store_report(
    address: str,
    experiment_name: str,
    project: Path,
    target: str,
    profile: str,
    folder: str,
    files: Iterable[Path],
    tags: dict[str, str],
) -> str:
    """Store a report's files in the one run of its target and profile, made if need be.

    Raises:
        Exception: whatever the store raises; the caller has the files.
    """
    experiment_id = experiment(address, experiment_name, project)
    store = client(address)
    found = store.search_runs(
        [experiment_id],
        filter_string=f"tags.kind = 'report' and tags.target = '{target}' "
        f"and tags.profile = '{profile}'",
        max_results=1,
    )
    named = {"kind": "report", "target": target, "profile": profile}
    run = found[0] if found else store.create_run(
        experiment_id, run_name=f"{target} {profile}", tags={**tags, **named}
    )  # fmt: skip
    run_id = str(run.info.run_id)
    for path in files:
        store.log_artifact(run_id, str(path), artifact_path=folder)
    store.set_terminated(run_id, status="FINISHED")
    return run_id
