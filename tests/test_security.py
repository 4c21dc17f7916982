"""A runs folder that was received, or that others can write to, is read and not obeyed."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import Project, tiny

from care_core import metrics
from care_core.errors import CareError
from care_core.files import write_bytes, write_json
from care_core.spec import ProbeSpec
from carectl import (
    completion,
    doctor,
    identity,
    jobs,
    processes,
    publishing,
    records,
    runs,
    submission,
    tracking,
    trust,
)
from carectl.backends import local, queue, slots, tickets
from carectl.backends.tickets import Ticket
from carectl.errors import CommandError
from carectl.runs import Run

HASH = "0" * 64


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.fixture
def listener() -> Iterator[tuple[str, list[str]]]:
    """A server that notes what it is asked, and by whom."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            asked.append(f"{self.command} {self.path} {self.headers.get('Authorization')}")
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        do_GET = do_POST = do_PUT = do_PATCH = answer

        def log_message(self, *words: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def received(runs_dir: Path, address: str, mark: Path) -> Run:
    """A run folder as an enemy would make it: done, with another one lost, and a ticket."""
    spec = tiny()
    mark_of = identity.of_pretrain(spec, HASH)
    run, lost = Run(runs_dir / mark_of.run_id), Run(runs_dir / f"lost-{HASH[:12]}")
    payload = pickle.dumps(Payload(mark))
    for each, sha in ((run, mark_of.sha256), (lost, HASH)):
        attempt = each.path / "attempts" / "1"
        attempt.mkdir(parents=True)
        write_json(each.path / "spec.json", {
            "kind": "pretrain", "name": spec.name, "sha256": sha, "identity": mark_of.fields,
            "spec": spec.model_dump(mode="json"),
        })  # fmt: skip
        (each.path / "spec.yaml").symlink_to("/etc/passwd")
        write_json(each.path / "job.json", {
            "tracking": {"uri": address, "experiment_id": "1", "run_id": "ab"}, "upload": True,
            "data_dir": "/", "threads": 1, "launch": {}, "source_run": "../../elsewhere",
        })  # fmt: skip
        for name in ("1_submitted.pkl", "1_0_result.pkl", "job.pkl", "1_0_log.out"):
            (attempt / name).write_bytes(payload)
    write_json(run.path / "result.json", {
        "kind": "pretrain", "steps": 1, "checkpoint": "../../../../secret", "metrics": {},
    })  # fmt: skip
    (run.path / "checkpoints").mkdir()
    (run.path / "checkpoints" / f"e0002-s00000022-{HASH[:16]}.pt").write_bytes(payload)
    (run.path / "checkpoints" / "e0002-s00000022-x.pt").write_bytes(payload)
    write_json(runs_dir / ".queue" / f"1-{lost.id}.json", {
        "run": lost.id, "attempt": 1, "depends": [], "slots": ["cpu-0"], "count": 1,
    })  # fmt: skip
    (runs_dir / ".queue" / "home").write_text("1")
    return run


def test_looking_at_a_received_folder_unpickles_starts_and_sends_nothing(
    tmp_path: Path, listener: tuple[str, list[str]]
) -> None:
    project = Project(tmp_path)
    address, asked = listener
    mark = project.path / "ran"
    run = received(project.runs, address, mark)
    commands = [
        ["status"], ["status", run.id], ["status", "--json"], ["logs", run.id],
        ["cancel", "lost"], ["spec", "diff", run.id, "digits/simclr"],
        ["report", "table1", "--profile", "digits"], ["eval", run.id, "--dry-run"],
        ["export", run.id], ["export", str(next(run.path.glob("checkpoints/*-x.pt")))],
    ]  # fmt: skip
    script = (
        "import json, sys\n"
        "from carectl.app import app\n"
        "from carectl.console.errors import explain\n"
        "for command in json.loads(sys.argv[1]):\n"
        "    try: app(command, standalone_mode=False)\n"
        "    except Exception as error: assert explain(error) is not None, error\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(commands)], cwd=project.path, text=True,
        env={**os.environ, "MLFLOW_TRACKING_TOKEN": "hunter2"}, capture_output=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not mark.exists() and asked == []
    assert not (project.runs / ".queue" / "queue.log").exists()
    assert "root:" not in done.stdout
    assert all("root:" not in page.read_text() for page in project.path.rglob("reports/**/*.html"))
    assert "refused" in done.stderr or "damaged" in done.stderr  # the checkpoints


def test_a_run_goes_to_the_projects_own_tracking_and_its_job_to_what_its_submission_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = received(tmp_path / "runs", "http://enemy.example", tmp_path / "ran")
    assert publishing.tracker(run) is None
    own = tracking.uri(tmp_path)
    assert not submission.tracked_at(run.job, own)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@enemy.example")
    assert publishing.tracker(run) is None  # not the same: that one is without a user
    write_json(run.path / "job.json", {"tracking": {"uri": "http://***@enemy.example",
                                                    "run_id": "ab"}})  # fmt: skip
    assert submission.tracked_at(run.job, "http://me:hunter2@enemy.example")
    found = publishing.tracker(run)
    assert found and found.address == "http://me:hunter2@enemy.example"


def test_what_is_uploaded_is_the_runs_own(tmp_path: Path) -> None:
    run = received(tmp_path / "runs", "", tmp_path / "ran")
    result = dict(run.result or {})
    with pytest.raises(CareError, match="is not a name within it"):
        publishing._files(run, result)
    files = publishing._files(run, {**result, "checkpoint": "x.pt"})
    assert run.path / "result.json" in files
    assert run.path / "spec.yaml" not in files  # a link to a file of this machine


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "..", ".", "", "a/b", "a\nb", "a" * 256, None, 3]
)
def test_a_name_from_a_file_does_not_lead_out_of_its_folder(tmp_path: Path, name: object) -> None:
    with pytest.raises(CareError, match="is not a name within it"):
        trust.inside(tmp_path, name)
    assert trust.inside(tmp_path, "a-1.pt") == tmp_path / "a-1.pt"


@pytest.mark.parametrize("named", ["source_run", "checkpoint"])
def test_a_probe_reads_only_a_run_beside_its_own(tmp_path: Path, named: str) -> None:
    probe, trained = Run(tmp_path / "runs/p-0"), Run(tmp_path / "runs/t-0")
    spec = ProbeSpec.model_validate({
        "name": "x", "source": HASH, "data": {"name": "digits"}, "augment": {}, "probe": {},
    })  # fmt: skip
    outside = "../../x" if named == "source_run" else "t-0"
    write_json(probe.path / "job.json", {"source_run": outside})
    write_json(trained.path / "result.json", {"checkpoint": "../../../x"})
    with pytest.raises(CareError, match="is not a name within it"):
        jobs._source(probe, spec)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_executed_lies_where_nobody_else_writes_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        trust.tighten()
        assert os.umask(0) == 0o022
        os.umask(0o077)
        trust.tighten()
        assert os.umask(0o002) == 0o077  # a stricter one stays
        runs_dir = tmp_path / "runs"
        run = Run(runs_dir / "x-000000000000")
        run.path.mkdir(parents=True)
        assert mode(run.path) == 0o775
        attempt = run.new_attempt()
        tickets.write(runs_dir, Ticket(run.id, 1, [], ["cpu-0"], 1))
        for folder in (run.path, attempt.parent, attempt, tickets.folder(runs_dir)):
            assert mode(folder) == 0o755, folder
        assert len(tickets.waiting(runs_dir)) == 1
    finally:
        os.umask(before)


def test_tickets_of_a_folder_that_others_write_to_or_that_was_copied_are_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = Ticket("x-0", 1, [], ["cpu-0"], 1)
    path = tickets.write(tmp_path, ticket)
    assert tickets.read(path) == ticket
    assert tickets.of(tmp_path, "x-0") == [path]
    tickets.folder(tmp_path).chmod(0o775)
    assert tickets.waiting(tmp_path) == []
    tickets.folder(tmp_path).chmod(0o755)
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    assert tickets.waiting(tmp_path) == []
    with pytest.raises(CommandError, match="belongs to another user"):
        tickets.write(tmp_path, dataclasses.replace(ticket, run="y-0"))
    monkeypatch.undo()
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / ".queue", copy / ".queue")
    assert list(tickets.folder(copy).glob("*-x-0.json")) and tickets.waiting(copy) == []
    tickets.write(copy, dataclasses.replace(ticket, run="y-0"))  # its own from here on
    assert [p.name.split("-", 1)[1] for p in tickets.waiting(copy)] == ["y-0.json"]


def test_only_a_name_that_is_safe_on_a_shells_line_is_completed(tmp_path: Path) -> None:
    for number, name in enumerate(("a-good", "b;id", "c$(id)", "d\x1b[2J", "e f", "-g")):
        write_json(tmp_path / name / "spec.json", {"name": f"x/{name}"})
        write_json(tmp_path / f"n{number}-0" / "spec.json", {"name": f"n{number}/{name}"})
    found = {word for word, _ in completion._runs(tmp_path, "")}
    assert {"a-good", "x/a-good", "n0/a-good", "n1-0"} <= found
    assert not [word for word in found if set(word) & set("; $()\x1b")]
    assert "-g" not in found


def test_the_doctor_tells_of_a_folder_that_others_write_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert [finding.level for finding in doctor._folder(tmp_path)] == ["ok"]
    tmp_path.chmod(0o775)
    found = [*doctor._folder(tmp_path)]
    assert found[0].level == "warn" and "can be written to by others" in found[0].said


def test_the_queue_starts_no_job_in_a_folder_that_others_write_to(tmp_path: Path) -> None:
    attempt = Run(tmp_path / "x-0").new_attempt()
    attempt.chmod(0o777)
    ticket = Ticket("x-0", 1, [], ["cpu-0"], 1)
    with pytest.raises(CommandError, match="other users can write to it"):
        queue._start(tmp_path, tmp_path / "ticket", ticket, ["cpu-0"])
    assert not list(attempt.iterdir())


def test_cancel_stops_no_process_that_a_folder_of_others_names(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as mine:
        run = Run(tmp_path / "x-0")
        attempt = run.new_attempt()
        write_json(attempt / "handle.json", processes.describe(mine.pid))
        attempt.chmod(0o777)
        with pytest.raises(CommandError, match="says what is stopped"):
            local.cancel(run, "cancelled", "by me")
        assert mine.poll() is None and not (attempt / "cancelled.json").exists()
        attempt.chmod(0o755)
        assert local.cancel(run, "cancelled", "by me")
        assert mine.wait(10) == -signal.SIGTERM


@pytest.mark.parametrize("name", ["spec.json", "result.json", "progress.json", "job.json"])
def test_a_pipe_or_a_device_among_a_runs_files_is_told_and_not_waited_for(
    tmp_path: Path, name: str
) -> None:
    run = received(tmp_path / "runs", "", tmp_path / "ran")
    (run.path / name).unlink(missing_ok=True)
    os.mkfifo(run.path / name)
    assert "is not a regular file" in records.broken(run.path)
    (run.path / name).unlink()
    (run.path / name).symlink_to("/dev/zero")
    assert "is not a regular file" in records.broken(run.path)


def test_a_pipe_in_place_of_a_log_or_the_record_is_not_waited_for(tmp_path: Path) -> None:
    attempt = Run(tmp_path / "x-0").new_attempt()
    (attempt / "1_0_log.out").write_text("error: no\n")
    os.mkfifo(attempt / "2_0_log.out")
    assert runs.logs(attempt, 0) == [attempt / "1_0_log.out"]
    assert runs.status(Run(tmp_path / "x-0")).state == "lost"
    os.mkfifo(tmp_path / "x-0" / "metrics.jsonl")
    assert list(metrics.read(tmp_path / "x-0")) == []


def test_a_link_in_place_of_a_slot_makes_no_file_and_opens_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, victim = tmp_path / "slots", tmp_path / "victim"
    folder.mkdir()
    monkeypatch.setenv("CARECTL_SLOTS_DIR", str(folder))
    (folder / "cpu-0.lock").symlink_to(victim)
    with pytest.raises(CommandError, match="is a link"):
        slots.free("cpu-0")
    assert not victim.exists()
    victim.write_text("mine")
    with pytest.raises(CommandError, match="is a link"):
        slots.take("cpu-0")
    victim.unlink()
    victim.mkdir()
    monkeypatch.setenv("CARECTL_SLOTS_DIR", str(tmp_path / "link"))
    (tmp_path / "link").symlink_to(victim)
    with pytest.raises(CommandError, match="is a link"):
        slots.free("cpu-1")
    assert not list(victim.iterdir())
    monkeypatch.setenv("CARECTL_SLOTS_DIR", str(tmp_path / "fresh"))
    assert slots.free("cpu-1") and mode(tmp_path / "fresh") == 0o1777


def test_a_file_is_written_through_no_link_that_lies_ready(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / f".result.json.{os.getpid()}.tmp").symlink_to(victim)
    (tmp_path / "result.json").symlink_to(victim)
    write_bytes(tmp_path / "result.json", b"new")
    assert victim.read_text() == "mine" and (tmp_path / "result.json").read_text() == "new"
