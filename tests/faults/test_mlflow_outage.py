"""MLflow away, silent or broken: no training waits for it, and each row arrives later, once."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import FAST, Project, tiny, wait_until

from care_core import pretrain
from care_core.errors import Interrupted
from care_core.files import read_json, write_json
from carectl import mlflow_runs, publishing, runs, tracking
from carectl.backends.base import Job
from carectl.errors import CommandError
from carectl.plan import Planner
from carectl.runs import Run
from carectl.submission import Place, submit

from .tracked import recorded, sent, tracked


class Broken(threading.Thread):
    """A server that is no use: it takes connections and is silent, or answers 500 to all."""

    def __init__(self, answer: bytes = b"") -> None:
        super().__init__(daemon=True)
        self.answer, self.asked, self.held = answer, 0, [socket.create_server(("127.0.0.1", 0))]
        self.address = f"http://127.0.0.1:{self.held[0].getsockname()[1]}"

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.held[0].accept()
                self.asked += 1
                if self.answer:
                    connection.recv(65536)
                    connection.sendall(self.answer)
                    connection.close()
                else:
                    self.held.append(connection)

    def close(self) -> None:
        for each in self.held:
            each.close()


ERROR = (
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/plain\r\n"
    b"Content-Length: 4\r\nConnection: close\r\n\r\nbusy"
)


@pytest.fixture(params=["absent", "silent", "500"])
def broken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broken]:
    """A server of each kind that is no use, and little patience with it."""
    monkeypatch.setattr(tracking, "MOMENT_S", 1)
    monkeypatch.setattr(tracking, "WHILE_S", 1)
    monkeypatch.setattr(tracking, "PAUSE_S", 1e9)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    server = Broken(ERROR if request.param == "500" else b"")
    if request.param == "absent":
        server.close()
    else:
        server.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    yield server
    server.close()


def trained(folder: Path, address: str, **options: Any) -> tuple[Run, list[str]]:
    """A run that was tracked at an address that is no use now; and what its job said of that."""
    run = Run(folder / "runs" / "tiny")
    place = {"uri": address, "experiment_id": "1", "run_id": "ab" * 16}
    write_json(run.path / "job.json", {"tracking": place})
    said: list[str] = []
    tracker = publishing.tracker(run, said.append, submitted=True)
    assert tracker
    tracker.start()
    pretrain(tiny(**FAST), run.path, threads=1, tracker=tracker, **options)
    return run, said


def test_a_training_asks_a_broken_server_once_and_goes_on(tmp_path: Path, broken: Broken) -> None:
    before = dict(os.environ)
    run, said = trained(tmp_path, broken.address)
    assert run.result
    assert len(said) == 1 and "later" in said[0]  # three checkpoints lay within the pause
    assert broken.asked <= 1
    assert dict(os.environ) == before
    assert not publishing.publish(run)
    assert publishing.pending(run, "done")
    caught = publishing.catch_up([(run, "done"), (run, "done")])
    assert (caught.sent, caught.left) == (0, 2) and caught.why
    assert broken.asked <= 4  # the second run is not tried: its server is known not to answer


def test_a_submission_to_a_broken_server_is_a_sentence(tmp_path: Path, broken: Broken) -> None:
    with pytest.raises(CommandError, match="start the server, or unset") as caught:
        mlflow_runs.experiment(broken.address, "care", tmp_path)
    assert caught.value.code == 3
    with pytest.raises(CommandError, match="start the server, or unset") as caught:
        mlflow_runs.make_run(
            broken.address, "1", "x", {}, {"spec_hash": "", "run_folder": ""}, None
        )
    assert caught.value.code == 3


@pytest.fixture
def store(tmp_path: Path, empty_store: Path) -> Path:
    """A SQLite store that can be moved away and back."""
    path = tmp_path / "mlflow.db"
    path.write_bytes(empty_store.read_bytes())
    return path


class Nothing:
    """A backend that takes jobs and starts none."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def check(self, jobs: list[Job]) -> None: ...
    def preview(self, jobs: list[Job]) -> list[str]:
        return []

    def submit(self, jobs: list[Job]) -> None:
        self.jobs += jobs

    def ensure(self) -> None: ...
    def threads(self, launch: object) -> int:
        return 1


def test_a_run_that_was_submitted_before_is_retried_without_mlflow(
    tmp_path: Path, store: Path
) -> None:
    place = Place(tmp_path / "runs", tmp_path / "data", "care", {})
    for _ in range(2):
        backend, planner = Nothing(), Planner(tmp_path / "runs", tmp_path / "data")
        planned = planner.pretrain(tiny(**FAST))
        submit(planner, backend, place)
        assert [job.run.id for job in backend.jobs] == [planned.run_id]
        runs.leave_note(Run(tmp_path / "runs" / planned.run_id).new_attempt(), "error", "x")
        store.unlink(missing_ok=True)
    assert not store.exists()  # it was neither needed nor made


def test_rows_of_an_outage_arrive_once_while_the_training_goes_on(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "PAUSE_S", 0.0)
    monkeypatch.setattr(tracking, "SHARE", float("inf"))
    run = tracked(tmp_path, f"sqlite:///{store}")
    away, seen, steps = store.with_suffix(".away"), [], iter(range(1, 100))
    store.rename(away)

    def watch() -> bool:
        step = next(steps)
        if step == 7:
            away.rename(store)
        if step in (4, 9, 12):  # before the first checkpoint, before and after the second
            seen.append(len(sent(run)) if store.exists() else -1)
        return False

    said: list[str] = []
    tracker = publishing.tracker(run, said.append, submitted=True)
    assert tracker
    tracker.start()
    pretrain(tiny(**FAST), run.path, threads=1, tracker=tracker, stop=watch)
    assert "is not there" in said[0]
    rows = recorded(run)
    assert seen == [-1, 0, len([row for row in rows if row[1] <= 10])]
    client = tracking.client(f"sqlite:///{store}")
    assert client.get_run(run.job["tracking"]["run_id"]).info.status == "RUNNING"
    assert publishing.publish(run, tracker) and sent(run) == rows
    assert publishing.publish(run) and sent(run) == rows  # and once more adds nothing
    assert client.get_run(run.job["tracking"]["run_id"]).info.status == "FINISHED"


@pytest.mark.parametrize(("note", "ends"), [("error", "FAILED"), ("cancelled", "KILLED")])
def test_a_run_that_ended_without_a_result_while_mlflow_was_away_is_closed_later(
    tmp_path: Path, store: Path, note: str, ends: str
) -> None:
    run = tracked(tmp_path, f"sqlite:///{store}")
    away = store.rename(store.with_suffix(".away"))
    tracker = publishing.tracker(run)
    assert tracker
    calls = iter(range(100))
    with pytest.raises(Interrupted):
        pretrain(tiny(**FAST), run.path, threads=1, tracker=tracker, stop=lambda: next(calls) == 6)
    runs.leave_note(run.new_attempt(), note, "because")
    assert not publishing.close(run, ends, tracker)
    write_json(run.path / "spec.json", {"kind": "pretrain"})
    state = runs.status(run).state
    assert "not wholly in MLflow" in publishing.lacking([(run, state)])
    assert publishing.told(publishing.catch_up([(run, state)])).startswith("1 run not wholly")
    away.rename(store)
    assert publishing.catch_up([(run, state)]) == (1, 0, "")
    assert publishing.lacking([(run, state)]) == ""
    place = run.job["tracking"]
    assert tracking.client(place["uri"]).get_run(place["run_id"]).info.status == ends
    assert sent(run) == recorded(run) and max(row[1] for row in sent(run)) == 7


def test_a_run_that_is_gone_from_mlflow_keeps_no_other_from_arriving(
    tmp_path: Path, store: Path
) -> None:
    good = tracked(tmp_path, f"sqlite:///{store}")
    write_json(good.path / "result.json", {"kind": "probe", "knn": {"backbone": 90.0}})
    gone = Run(tmp_path / "runs" / "gone")
    place = {**good.job["tracking"], "run_id": "0" * 32}
    write_json(gone.path / "job.json", {"tracking": place})
    write_json(gone.path / "result.json", {"kind": "probe", "knn": {"backbone": 90.0}})
    caught = publishing.catch_up([(gone, "done"), (good, "done")])
    assert (caught.sent, caught.left) == (1, 1) and "0" * 32 in caught.why
    assert [row[0] for row in sent(good)] == ["knn.backbone"]


class Server:
    """A real `mlflow server` over one SQLite store, that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [
            sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1",
            "--port", str(self.port), "--backend-store-uri", f"sqlite:///{self.folder}/server.db",
            "--artifacts-destination", f"{self.folder}/artifacts",
        ]  # fmt: skip
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        wait_until(self.answers, 120)

    def answers(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.address}/health"):
            return True
        return False

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def server(tmp_path: Path, empty_store: Path) -> Iterator[Server]:
    (tmp_path / "server.db").write_bytes(empty_store.read_bytes())
    made = Server(tmp_path)
    made.start()
    yield made
    made.kill()


def test_a_server_killed_during_a_training_gets_all_of_it_when_it_is_back(
    project: Project, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    name = project.write(tiny(**{**FAST, "training": {"epochs": 20, "batch_size": 256}}))
    project.carectl("pretrain", name, "--detach")
    wait_until(lambda: list(project.runs.glob("*/published.json")))
    server.kill()
    ended = project.carectl("pretrain", name)
    assert "not wholly in MLflow" in ended.stderr and "carectl status" in ended.stderr
    (run,) = runs.listing(project.runs)
    assert runs.status(run).state == "done"
    server.start()
    assert "MLflow has got what it lacked of 1 run\n" in project.carectl("status").stderr
    assert sent(run) == recorded(run) and recorded(run)
    client, run_id = tracking.client(server.address), run.job["tracking"]["run_id"]
    assert client.get_run(run_id).info.status == "FINISHED"
    assert {"curves.png", "result.json"} <= {file.path for file in client.list_artifacts(run_id)}
    assert read_json(run.path / "published.json")["complete"]
