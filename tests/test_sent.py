"""What MLflow has got of a run is not sent again by another process, and each row is there once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from faults.tracked import recorded, tracked
from faults.tracked import sent as arrived

from care_core import metrics
from care_core.files import write_json
from carectl import mlflow_runs, sent
from carectl.errors import CommandError
from carectl.runs import Run
from carectl.tracking import RunTracker

KILLED_BEFORE_ITS_SECOND_NOTE = """
import os, signal, sys
from pathlib import Path
from carectl import sent, tracking
address, run_id, folder = sys.argv[1:]
note, noted = sent.note, []
def killing(*arguments):
    if noted:
        os.kill(os.getpid(), signal.SIGKILL)
    noted.append(note(*arguments))
sent.note = killing
tracking.RunTracker(address, run_id, Path(folder)).send(10**6)
"""


@pytest.fixture
def address(tmp_path: Path, empty_store: Path) -> str:
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows were sent, a number a call."""
    calls: list[int] = []
    send = RunTracker._send

    def counting(self: RunTracker, store: object, rows: list[metrics.Row]) -> None:
        calls.append(len(rows))
        send(self, store, rows)  # type: ignore[arg-type]

    monkeypatch.setattr(RunTracker, "_send", counting)
    return calls


def record(run: Run, steps: range) -> None:
    """Write a curve of two keys, one of them of no numbers; earlier rows stay."""
    log = metrics.MetricsLog(run.path, steps.start - 1)
    for step in steps:
        log.append(step, {"loss": 1 / step, "gap": float("nan")})


def tracker(run: Run) -> RunTracker:
    """As a process that has just begun has it."""
    place = run.job["tracking"]
    return RunTracker(place["uri"], place["run_id"], run.path)


def test_the_next_process_sends_what_is_new(
    tmp_path: Path, address: str, counted: list[int]
) -> None:
    run = tracked(tmp_path, address)
    record(run, range(1, 151))
    assert tracker(run).send(150) and counted == [200, 100]
    assert tracker(run).send(150) and counted == [200, 100]
    record(run, range(101, 161))  # of a resume: what was published stays, and is not cut back
    assert tracker(run).send(120) and counted == [200, 100]  # behind what has arrived
    assert tracker(run).send(155) and counted == [200, 100, 10]
    assert [row[:2] for row in arrived(run)] == [row[:2] for row in recorded(run) if row[1] <= 155]


def test_a_kill_between_sending_and_noting_leaves_each_row_once(
    tmp_path: Path, address: str, counted: list[int]
) -> None:
    run = tracked(tmp_path, address)
    record(run, range(1, 301))
    command = [sys.executable, "-c", KILLED_BEFORE_ITS_SECOND_NOTE, address]
    job = run.job["tracking"]["run_id"]
    assert subprocess.run([*command, job, str(run.path)]).returncode == -signal.SIGKILL
    assert len(arrived(run)) == 400
    assert tracker(run).send(300) and counted == [200, 200]  # the second of three batches again
    assert list(map(str, arrived(run))) == list(map(str, recorded(run)))


def test_another_store_and_another_run_of_mlflow_get_everything(tmp_path: Path) -> None:
    rows = [metrics.Row("loss", 1.0, step, 1000 + step) for step in range(5)]
    to = sent.Receiver("https://me:old@server/mlflow", "ab")
    sent.note(tmp_path, to, rows, 5)
    assert sent.count(tmp_path, to, rows) == 5
    assert sent.count(tmp_path, to._replace(address="https://me:new@server/mlflow"), rows) == 5
    assert sent.count(tmp_path, to._replace(address="https://me:old@other/mlflow"), rows) == 0
    assert sent.count(tmp_path, to._replace(run_id="cd"), rows) == 0
    assert "old" not in (tmp_path / sent.FILE).read_text()


def test_a_record_that_is_not_the_noted_one_is_sent_whole(tmp_path: Path) -> None:
    run, to = Run(tmp_path / "run"), sent.Receiver("sqlite:////x.db", "ab")
    run.path.mkdir()
    record(run, range(1, 21))
    rows = list(metrics.read(run.path))
    sent.note(run.path, to, rows, 30)
    assert sent.count(run.path, to, rows) == 30
    assert sent.count(run.path, to, rows[:29]) == 0  # cut back: nobody knows to what
    again = [row._replace(timestamp=row.timestamp + 1) for row in rows[20:]]
    assert sent.count(run.path, to, rows[:20] + again) == 0  # and written anew
    (run.path / sent.FILE).unlink()
    assert sent.count(run.path, to, rows) == 0


def test_a_note_in_whose_place_a_folder_lies_stops_nothing(
    tmp_path: Path, address: str, counted: list[int]
) -> None:
    run = tracked(tmp_path, address)
    record(run, range(1, 4))
    (run.path / sent.FILE).mkdir()
    assert tracker(run).send(3) and tracker(run).send(3) and counted == [6, 6]
    assert len(arrived(run)) == 6


def test_what_a_note_says_in_vain_is_sent_again(
    tmp_path: Path, address: str, counted: list[int]
) -> None:
    """A note of more rows than there are, of none, of what is no number."""
    run = tracked(tmp_path, address)
    record(run, range(1, 4))
    place = run.job["tracking"]
    for rows in (7, 0, -1, "6", None, 2.0, True):
        last = metrics.Row("loss", 1.0, 1, 1)
        write_json(
            run.path / sent.FILE,
            {"uri": address, "run_id": place["run_id"], "rows": rows, "last": last},
        )
        assert sent.count(run.path, sent.Receiver(address, place["run_id"]),
                          list(metrics.read(run.path))) == 0  # fmt: skip
    assert tracker(run).send(3) and counted == [6]


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_a_store_that_is_no_file_is_told_and_not_waited_for(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    os.mkfifo(path) if kind == "pipe" else path.mkdir()
    with pytest.raises(CommandError, match=r"mlflow\.db cannot be used: it is no regular file"):
        mlflow_runs.experiment(f"sqlite:///{path}", "care", tmp_path)
