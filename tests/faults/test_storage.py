"""Disks that fill or turn read-only at each file: it is said, and nothing is lost or torn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import finished
import pytest
from conftest import FAST, Project, tiny, wait_until
from ranks import assert_as_uninterrupted
from test_reports_writers import document

from care_core import checkpoint, metrics, pretrain
from care_core.errors import StorageError
from care_core.files import write_json
from carectl import app, mlflow_runs, processes, publishing, runs, tracking
from carectl.backends import squeue, tickets
from carectl.console.errors import explain
from carectl.errors import CommandError
from carectl.plan import Planner
from carectl.reports import writing
from carectl.runs import Run

from .disks import Disk, contents, full_when_writing, mounted
from .tracked import recorded, sent, tracked


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Room for a run, its checkpoints and a store of MLflow."""
    with mounted(tmp_path / "disk", "8m") as made:
        yield made


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that had room enough."""
    run_dir = tmp_path_factory.mktemp("whole")
    train(run_dir)
    return run_dir


def train(run_dir: Path, **options: Any) -> dict[str, Any]:
    return pretrain(tiny(**FAST), run_dir, threads=1, **options)


def elsewhere() -> dict[str, Any]:
    """The handle of a process that is not here any more."""
    return {**processes.describe(os.getpid()), "host": "another", "since": 0.0}


def second_checkpoint(path: Path) -> bool:
    return "e0002" in path.name


def near_a_page_s_end(path: Path) -> bool:
    """A file grows into a page that a full disk does not have, and a row is torn."""
    return path.name == "metrics.jsonl" and path.stat().st_size % 4096 > 3700


@pytest.mark.parametrize(
    ("ending", "left", "when", "file", "stand"),
    [
        (".pt.", 100_000, second_checkpoint, "e0002-", [5]),
        ("metrics.jsonl", 0, near_a_page_s_end, "metrics.jsonl", [5]),
        ("result.json", 0, lambda path: True, "result.json", [10, 15]),
    ],
    ids=["checkpoint", "metrics", "result"],
)
def test_a_disk_that_fills_at_a_file_is_said_and_the_run_goes_on_once_there_is_room(
    disk: Disk, whole: Path, ending: str, left: int, when: Any, file: str, stand: list[int]
) -> None:
    run_dir = disk.path / "run"
    with full_when_writing(disk, ending, left, when), pytest.raises(StorageError) as caught:
        train(run_dir)
    said = str(caught.value)
    assert "the disk is full (0 MiB free) while writing " + file in said
    assert "free some space and run the same command again" in said
    assert explain(caught.value) == 3
    assert not (run_dir / "result.json").exists()
    if file == "metrics.jsonl":
        written = (run_dir / file).read_bytes()
        assert not written.endswith(b"\n")  # a row was torn, and ends what is read
        assert len(list(metrics.read(run_dir))) == written.count(b"\n")
    folder = run_dir / "checkpoints"
    assert [entry.step for entry in checkpoint.entries(folder)] == stand
    assert all(checkpoint.read(entry.path) for entry in checkpoint.entries(folder))
    disk.make_room()
    train(run_dir)
    assert_as_uninterrupted(run_dir, whole)


def test_a_job_whose_disk_fills_says_so_and_retry_ends_it_bitwise(
    project: Project, tmp_path: Path
) -> None:
    spec = tiny(**{**FAST, "training": {"epochs": 20, "batch_size": 256}})
    with mounted(project.runs, "4m") as disk:
        name = project.write(spec)
        project.carectl("pretrain", name, "--detach")
        wait_until(lambda: list(project.runs.glob("*/checkpoints/e0002*.pt")))
        disk.fill()
        waited = project.carectl("pretrain", name, code=1)
        assert "the disk is full (0 MiB free)" in waited.stdout + waited.stderr
        (run,) = runs.listing(project.runs)
        assert checkpoint.read(checkpoint.entries(run.path / "checkpoints")[-1].path)
        assert not list(run.path.rglob("*.tmp"))
        state, reason = runs.status(run)
        assert state in ("failed", "lost") and "the disk is full" in reason
        assert "the disk is full" in project.carectl("retry", "--failed", code=3).stderr
        disk.make_room()
        project.carectl("retry", "--failed")
        pretrain(spec, tmp_path / "undisturbed", threads=1)
        assert_as_uninterrupted(run.path, tmp_path / "undisturbed")


def test_a_store_of_mlflow_on_a_full_disk_stops_no_training_and_catches_up(
    tmp_path: Path, whole: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mounted(tmp_path / "disk", "4m") as disk:
        store = disk.path / "mlflow.db"
        store.write_bytes(empty_store.read_bytes())
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
        run = tracked(tmp_path, f"sqlite:///{store}")
        disk.fill()
        said: list[str] = []
        tracker = publishing.tracker(run, said.append)
        assert tracker
        tracker.start()
        train(run.path, tracker=tracker)
        assert not publishing.publish(run, tracker)
        assert_as_uninterrupted(run.path, whole)
        assert said and all("full" in text and "later" in text for text in said)
        caught = publishing.catch_up([(run, "done")])
        assert (caught.sent, caught.left) == (0, 1) and "full" in caught.why
        disk.make_room()
        assert publishing.catch_up([(run, "done")]) == (1, 0, "")
        assert not publishing.pending(run, "done")
        assert sent(run) == recorded(run)


def test_what_a_process_prints_to_a_full_disk_does_not_end_it() -> None:
    code = (
        "import os; from carectl.backends import logfile\n"
        "logfile.outlive_full_disks()\n"
        "print('x' * 10_000, flush=True)\n"
        "os._exit(7)"
    )
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-u", "-c", code]
        assert subprocess.run(command, stdout=full, stderr=full).returncode == 7


def test_a_job_that_cannot_say_why_it_ended_is_told_to_have_had_no_room(disk: Disk) -> None:
    run = Run(disk.path / "runs" / "tiny")
    attempt = run.new_attempt()
    write_json(attempt / "handle.json", elsewhere())
    assert "killed?" in runs.status(run).reason
    disk.fill()
    state, reason = runs.status(run)
    assert state == "lost" and "the disk is full" in reason
    (attempt / "handle.json").unlink()
    disk.fill()
    assert "the disk is full" in runs.status(run).reason


@pytest.mark.parametrize("left", [0, 20_000])
def test_a_report_on_a_full_disk_is_refused_and_every_file_that_is_there_is_whole(
    disk: Disk, left: int
) -> None:
    folder = disk.path / "report"
    before = writing.write(document("before"), folder)
    old = contents(folder)
    disk.fill(left)
    with pytest.raises(StorageError, match="the disk is full"):
        writing.write(document("after" * 2000), folder)
    disk.make_room()
    left_over = contents(folder)
    writing.write(document("after" * 2000), folder)
    new = contents(folder)
    assert left_over.keys() == old.keys() == new.keys() and before
    assert all(data in (old[name], new[name]) for name, data in left_over.items())


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_listing_that_is_printed_to_a_full_disk_is_a_sentence(
    project: Project, unbuffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            project.command("status"), cwd=project.path, stdout=full, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
    assert done.returncode == 3
    assert done.stderr.startswith("error: ") and "full" in done.stderr
    assert "ignored" not in done.stderr


@pytest.fixture
def stocked(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A project whose folder is read-only, with runs in every state of interest."""
    planner = Planner(project.runs, project.path / "data")
    with mounted(project.path / "disk", "16m") as disk:
        (disk.path / "mlflow.db").write_bytes((project.path / "mlflow.db").read_bytes())
        runs_dir = disk.path / "runs"
        address = f"sqlite:///{disk.path}/mlflow.db"
        experiment = mlflow_runs.experiment(address, "care", disk.path)
        for seed, state in enumerate(("done", "failed", "lost", "queued")):
            planned = planner.pretrain(tiny(**FAST, seed=seed))
            tags = {"spec_hash": planned.identity.sha256, "run_folder": state}
            kept = {
                "uri": address, "experiment_id": experiment,
                "run_id": mlflow_runs.make_run(address, experiment, state, {}, tags, None),
            }  # fmt: skip
            finished.finish(planned, runs_dir, {"kind": "pretrain"}, kept)
            run = Run(runs_dir / planned.run_id)
            if state == "done":
                continue
            (run.path / "result.json").unlink()
            attempt = run.new_attempt()
            (attempt / "1_0_log.out").write_text("epoch 1/3\n")
            if state == "failed":
                runs.leave_note(attempt, "error", "the loss is nan")
            if state == "queued":
                tickets.write(runs_dir, tickets.Ticket(run.id, 1, [], ["cpu-0"], 1))
            else:
                write_json(attempt / "handle.json", elsewhere())
        done = next(run for run in runs.listing(runs_dir) if (run.path / "result.json").exists())
        (done.path / "result.json").unlink()
        train(done.path)
        finished.table1(runs_dir, lambda answer: finished.probe_result([90.0]), "smoke")
        project.write(tiny(**FAST, seed=9), "disk/new.yaml")
        disk.read_only()
        monkeypatch.chdir(disk.path)
        yield Project(disk.path)


def tell(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """`carectl` with these arguments in this process: its exit code, stdout and stderr."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["carectl", *arguments])
        with pytest.raises(SystemExit) as ended:
            app.main()
    out, err = capfd.readouterr()
    assert "Traceback" not in err
    return int(ended.value.code or 0), out, err


def test_a_read_only_folder_can_be_looked_at_and_what_writes_says_so_before_it_works(
    stocked: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    before = contents(stocked.path)
    states = {runs.status(run).state: run for run in runs.listing(stocked.runs)}
    lost, failed, done, queued = (states[s].id for s in ("lost", "failed", "done", "queued"))

    code, out, err = tell(capfd, "status", "--json")
    assert code == 0
    listed = {row["run"]: row["state"] for row in json.loads(out)["runs"]}
    assert {lost: "lost", failed: "failed", done: "done"}.items() <= listed.items()
    assert "not wholly in MLflow" in err  # its store is read-only, too
    for command in (
        ("status", lost), ("logs", lost), ("status", done), ("spec", "check", "new.yaml"),
        ("spec", "diff", lost, done), ("data", "list"), ("pretrain", "new.yaml", "--dry-run"),
        ("export", done, "--output", f"{stocked.path.parent}/exports"),
    ):  # fmt: skip
        assert tell(capfd, *command)[0] == 0, command
    code, out, _ = tell(capfd, "doctor", "--json")
    found = {finding["subject"]: finding for finding in json.loads(out)["findings"]}
    assert code == 3 and found["runs folder"]["level"] == "fail"

    for command in (
        ("pretrain", "new.yaml"), ("eval", done), ("retry", "--failed"),
        ("reproduce", "table1", "--profile", "smoke"), ("report", "table1", "--profile", "smoke"),
        ("export", done), ("data", "prepare", "cifar10"), ("data", "prepare", "flowers102"),
        ("cancel", queued),
    ):  # fmt: skip
        code, out, err = tell(capfd, *command)
        assert code == 3, (command, err)
        (sentence,) = err.splitlines()
        assert sentence.startswith("error: ") and "Read-only file system" in sentence, command
        assert "make the folder writable" in sentence
    assert contents(stocked.path) == before


def test_slurm_s_answer_is_shown_where_it_cannot_be_kept(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = squeue.Answer(1.0, {"7": squeue.JobView("RUNNING")})
    monkeypatch.setattr(squeue, "_ask", lambda before: answer)
    disk.read_only()
    assert squeue.look(disk.path / "runs", "7").jobs == answer.jobs


def test_a_full_disk_for_a_new_store_of_mlflow_is_a_sentence_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    with mounted(tmp_path / "disk", "200k") as disk:
        with pytest.raises(CommandError, match=r"cannot be used: .*full.*another store") as caught:
            mlflow_runs.experiment(tracking.uri(disk.path), "care", disk.path)
        assert caught.value.code == 3
        assert list(contents(disk.path)) == [".mlflow.lock"]
