"""MLflow, and only here: stores, and what is sent to a run.

It is a projection of the run folders: losing it loses nothing. The runs themselves are made by
carectl.mlflow_runs.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from care_core import metrics
from care_core.errors import StorageError
from carectl import redaction, sent

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: In one call: far fewer metrics than a server takes, so that a slow one answers in time.
_BATCH = {"metrics": 200, "params": 100}
#: How long is waited for an answer: by a training, by others, and for a file to be stored.
MOMENT_S, WHILE_S, FILE_S = 2, 5, 60
#: No more than this share of a training's time goes to sending, and a store that did not take
#: something is left alone for so many seconds at least.
SHARE, PAUSE_S = 0.03, 10.0


def uri(project: Path) -> str:
    """MLFLOW_TRACKING_URI, or a SQLite store in the project folder, as an absolute address."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project.resolve()}/mlflow.db"


def ours(address: str, runs_dir: Path) -> bool:
    """Whether a run's kept address is where this project is tracked now.

    A folder that was received may name any address, and MLflow sends its token to whomever it
    asks: who only looks at a run sends nothing elsewhere.
    """
    return redaction.address(address) == redaction.address(uri(runs_dir.resolve().parent))


def complete(address: str) -> str:
    """A kept address with the user name and password that MLFLOW_TRACKING_URI has for it."""
    here = os.environ.get("MLFLOW_TRACKING_URI", "")
    return here if here and redaction.address(here) == redaction.address(address) else address


def client(address: str) -> MlflowClient:
    """A client that gives up after seconds; MLflow's own defaults wait for many minutes."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import logging

    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    # what it raises it prints first, with a page of traceback
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    return MlflowClient(tracking_uri=address)


def interface(address: str, host: str, port: int) -> tuple[list[str], dict[str, str]]:
    """The command that serves MLflow's own pages on a store, and its environment.

    The address is not among the arguments, which anybody on the machine can read.
    """
    command = ["-m", "mlflow", "ui", "--host", host, "--port", str(port), "--workers", "1"]
    told = {
        "MLFLOW_BACKEND_STORE_URI": address,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven processes for what is not used here
    }
    return [sys.executable, *command], {**os.environ, **told}


def log_params(store: MlflowClient, run_id: str, params: dict[str, Any]) -> None:
    """Record a run's parameters; an equal one that is there already stays.

    Raises:
        Exception: whatever the store raises.
    """
    from mlflow.entities import Param

    rows = [Param(key, str(value)[:5000]) for key, value in sorted(params.items())]
    for start in range(0, len(rows), _BATCH["params"]):
        store.log_batch(run_id, params=rows[start : start + _BATCH["params"]])


class RunTracker:
    """Sends a run's record to MLflow whenever a checkpoint has made it safe.

    Everything is sent with its recorded timestamp, so sending a row again adds nothing. What has
    arrived is noted (carectl.sent), so that the next process goes on from there. A failure is said,
    costs a training a moment, and is followed by a pause; the rows are sent with the next ones, or
    once the run is over.
    """

    def __init__(
        self, address: str, run_id: str, run_dir: Path, say: Callable[[str], None] = print
    ) -> None:
        self.address, self.run_id, self.run_dir, self.say = address, run_id, run_dir, say
        self.problem = ""  #: why the last thing that was tried failed
        self._sent: int | None = None  # rows of the record; None: not looked up yet
        self._starting = False
        self._again_at = 0.0
        self._store: MlflowClient | None = None

    def start(self) -> None:
        """Say that the run is running: now, or with the first rows that arrive."""
        self._starting = True
        self._in_passing(self._begin)
        if not self._starting:  # it took its time to load MLflow, once
            self._again_at = 0.0

    def committed(self, step: int) -> None:
        """Send the rows up to a step that is safe, unless MLflow was away a short while ago."""
        with contextlib.suppress(StorageError):  # a full disk stops a training where it matters
            metrics.publishing(self.run_dir, step)
        self._in_passing(lambda store: self._send_up_to(store, step, MOMENT_S))

    def send(self, step: int) -> bool:
        """Send the rows up to a step that is safe; whether they arrived."""
        return self._try("send metrics to", lambda store: self._send_up_to(store, step))

    def finish(self, state: str, artifacts: Iterable[Path] = ()) -> bool:
        """Store a run's files and set its final state (FINISHED, FAILED or KILLED)."""
        for path in artifacts:

            def store(to: MlflowClient, path: Path = path) -> None:
                to.log_artifact(self.run_id, str(path))

            if path.exists() and not self._try("store files in", store, FILE_S):
                return False
        return self._try("finish", lambda store: store.set_terminated(self.run_id, status=state))

    def values(self, values: dict[str, float], timestamp: int) -> bool:
        """Record final figures, with the time at which they were measured."""
        rows = [metrics.Row(key, value, 0, timestamp) for key, value in values.items()]
        return self._try("send results to", lambda store: self._send(store, rows))

    def _begin(self, store: MlflowClient) -> None:
        if self._starting:
            store.update_run(self.run_id, status="RUNNING")
            self._starting = False

    def _send_up_to(self, store: MlflowClient, step: int, within_s: float = math.inf) -> None:
        metrics.publishing(self.run_dir, step)
        record = list(metrics.read(self.run_dir))
        safe = sum(row.step <= step for row in record)  # they are in the order of their steps
        to = sent.Receiver(self.address, self.run_id)
        if self._sent is None:
            self._sent = sent.count(self.run_dir, to, record)
        deadline = time.monotonic() + within_s
        while self._sent < safe and time.monotonic() < deadline:
            self._begin(store)
            upto = min(safe, self._sent + _BATCH["metrics"])
            self._send(store, record[self._sent : upto])
            self._sent = upto
            sent.note(self.run_dir, to, record, upto)

    def _send(self, store: MlflowClient, rows: list[metrics.Row]) -> None:
        from mlflow.entities import Metric

        for start in range(0, len(rows), _BATCH["metrics"]):
            part = rows[start : start + _BATCH["metrics"]]
            store.log_batch(
                self.run_id, metrics=[Metric(r.key, r.value, r.timestamp, r.step) for r in part]
            )

    def _in_passing(self, call: Callable[[MlflowClient], None]) -> None:
        """Try something while a training waits: rarely where the store is away."""
        began = time.monotonic()
        if began < self._again_at:
            return
        good = self._try("write to", call, MOMENT_S)
        ended = time.monotonic()
        self._again_at = ended + max(0.0 if good else PAUSE_S, (ended - began) / SHARE)

    def _try(self, what: str, call: Callable[[Any], object], patience_s: int = WHILE_S) -> bool:
        try:
            with _patience(patience_s):
                self._store = self._store or _opened(self.address)
                call(self._store)
        except Exception as error:
            # Whatever the server does, training goes on; the record is in the run folder.
            self.problem = first_line(error)
            self.say(f"warning: could not {what} MLflow ({self.problem}); it is sent later")
            return False
        return True


def _opened(address: str) -> MlflowClient:
    """A client of a store that is there.

    MLflow would make a new, empty file where one is gone, and looks for minutes for one that it
    cannot open.
    """
    path = Path(address.removeprefix("sqlite:///"))
    if address.startswith("sqlite:///") and not path.exists():
        raise FileNotFoundError(f"{path} is not there")
    return client(address)


def answers(address: str) -> bool:
    """Whether a store can be asked for anything at this moment."""
    try:
        with _patience(MOMENT_S):
            _opened(address).search_experiments(max_results=1)
    except Exception:
        return False
    return True


@contextlib.contextmanager
def _patience(seconds: int) -> Iterator[None]:
    """Wait no longer for an answer, and ask once; MLflow reads this at every request."""
    set_to = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(seconds),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }
    before = {name: os.environ.get(name) for name in set_to}
    os.environ.update(set_to)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


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
    shown = redaction.address(address)
    if address.startswith("http"):
        return f"{shown.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"
    return f"{shown} run {run_id}"


def first_line(error: Exception) -> str:
    """What an error says first, without credentials."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith("(raised as a result of")]  # SQLAlchemy's
    first = (told or lines or [type(error).__name__])[0]
    asked, found, why = first.partition(" failed with exception HTTP")  # requests' long way round
    cause = why.partition("(Caused by ")[2] or why
    return redaction.text((f"{asked} failed: {cause}" if found else first)[:300])
