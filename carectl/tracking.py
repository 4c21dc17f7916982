"""MLflow, and only here. It is a projection of the run folders: losing it loses nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from care_core import metrics
from carectl import redaction
from carectl.errors import ENVIRONMENT, CommandError

if TYPE_CHECKING:
    from mlflow import MlflowClient

_BATCH = {"metrics": 1000, "params": 100}  # the server's limits of one call


def uri(project: Path) -> str:
    """MLFLOW_TRACKING_URI, or a SQLite store in the project folder, as an absolute address."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project.resolve()}/mlflow.db"


def ours(address: str, runs_dir: Path) -> bool:
    """Whether a run's kept address is where this project is tracked now.

    A folder that was received may name any address, and MLflow sends its token to whomever it
    asks: who only looks at a run sends nothing elsewhere.
    """
    return redact(address) == redact(uri(runs_dir.resolve().parent))


def complete(address: str) -> str:
    """A kept address with the user name and password that MLFLOW_TRACKING_URI has for it."""
    here = os.environ.get("MLFLOW_TRACKING_URI", "")
    return here if here and redact(here) == redact(address) else address


def client(address: str) -> MlflowClient:
    """A client that gives up soon: training must not wait for a server that is away."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import logging

    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=address)


def experiment(address: str, name: str, project: Path) -> str:
    """The experiment's id; makes the store and the experiment under a lock, once.

    Eight processes that open a fresh SQLite store at once leave it broken, hence the lock.

    Raises:
        CommandError: the store cannot be reached.
    """
    from filelock import FileLock

    project.mkdir(parents=True, exist_ok=True)
    with FileLock(project / ".mlflow.lock"):
        try:
            _make_store(address)
            store = client(address)
            found = store.get_experiment_by_name(name)
            if found is not None:
                return str(found.experiment_id)
            local = address.startswith("sqlite:")
            place = (project.resolve() / "mlartifacts").as_uri() if local else None
            return str(store.create_experiment(name, artifact_location=place))
        except Exception as error:
            raise CommandError(
                f"MLflow store {redact(address)} cannot be used: {_first_line(error)}; start the "
                "server, or unset MLFLOW_TRACKING_URI to use the project's own store",
                ENVIRONMENT,
            ) from error


def _make_store(address: str) -> None:
    """Make a SQLite store that is not there aside, and move it into place when it is whole.

    Making one takes seconds of table after table, and a kill in between would leave a file that
    neither opens nor can be mended.
    """
    path = Path(address.removeprefix("sqlite:///"))
    if not address.startswith("sqlite:///") or path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{path.name}.*.tmp*"):
        leftover.unlink(missing_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    client(f"sqlite:///{aside}").search_experiments(max_results=1)
    aside.replace(path)


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
    """
    from mlflow.entities import Param

    store = client(address)
    folder = tags["run_folder"].replace("'", "")
    found = store.search_runs(
        [experiment_id],
        filter_string=f"tags.spec_hash = '{tags['spec_hash']}' and tags.run_folder = '{folder}'",
        max_results=1,
    )
    if parent:
        tags = {**tags, "mlflow.parentRunId": parent}
    run = found[0] if found else store.create_run(experiment_id, run_name=name, tags=tags)
    run_id = str(run.info.run_id)
    store.update_run(run_id, status="SCHEDULED")
    rows = [Param(key, str(value)[:5000]) for key, value in sorted(flatten(params).items())]
    for start in range(0, len(rows), _BATCH["params"]):
        store.log_batch(run_id, params=rows[start : start + _BATCH["params"]])
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


class RunTracker:
    """Sends a run's record to MLflow whenever a checkpoint has made it safe.

    Everything is sent with its recorded timestamp, so sending a row again adds nothing. A failure
    is said and the rows are sent with the next ones.
    """

    def __init__(self, address: str, run_id: str, run_dir: Path) -> None:
        self.address, self.run_id, self.run_dir = address, run_id, run_dir
        self._sent = 0
        self._store: MlflowClient | None = None

    def start(self) -> None:
        self._try("start", lambda store: store.update_run(self.run_id, status="RUNNING"))

    def committed(self, step: int) -> bool:
        """Send the rows up to a step that is safe; whether they arrived."""
        metrics.publishing(self.run_dir, step)
        rows = [row for row in metrics.read(self.run_dir) if row.step <= step]
        good = self._try("send metrics to", lambda store: self._send(store, rows[self._sent :]))
        if good:
            self._sent = len(rows)
        return good

    def finish(self, state: str, artifacts: Iterable[Path] = ()) -> bool:
        """Set the run's final state (FINISHED, FAILED or KILLED) and store its files."""
        good = all(
            self._try("store files in", lambda s, p=path: s.log_artifact(self.run_id, str(p)))
            for path in artifacts
            if path.exists()
        )
        return good and self._try(
            "finish", lambda store: store.set_terminated(self.run_id, status=state)
        )

    def values(self, values: dict[str, float], timestamp: int) -> bool:
        """Record final figures, with the time at which they were measured."""
        rows = [metrics.Row(key, value, 0, timestamp) for key, value in values.items()]
        return self._try("send results to", lambda store: self._send(store, rows))

    def _send(self, store: MlflowClient, rows: list[metrics.Row]) -> None:
        from mlflow.entities import Metric

        for start in range(0, len(rows), _BATCH["metrics"]):
            part = rows[start : start + _BATCH["metrics"]]
            store.log_batch(
                self.run_id, metrics=[Metric(r.key, r.value, r.timestamp, r.step) for r in part]
            )

    def _try(self, what: str, call: Any) -> bool:
        try:
            self._store = self._store or client(self.address)
            call(self._store)
        except Exception as error:
            # Whatever the server does, training goes on; the record is in the run folder.
            print(f"warning: could not {what} MLflow ({_first_line(error)})", flush=True)
            return False
        return True


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} → {"a.b": 1}."""
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat


def link(address: str, experiment_id: str, run_id: str) -> str:
    """Where a person finds the run: a page of a server, or the run's name in a local store."""
    if address.startswith("http"):
        return f"{redact(address).rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"
    return f"{redact(address)} run {run_id}"


def redact(address: str) -> str:
    """The address without a user name and password; so it is kept, and so it is shown."""
    return redaction.address(address)


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return redact_text(text.splitlines()[0][:200])


def redact_text(text: str) -> str:
    """A message without the credentials of an address inside it."""
    return redaction.text(text)
