"""The local queue: in order, one job a slot, nothing twice, nothing lost, whoever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import FAST, Project, tiny, wait_until

from care_core.files import read_json
from care_core.spec import PretrainSpec
from carectl import processes, runs
from carectl.backends import slots, tickets
from carectl.errors import CommandError
from carectl.runs import Run


def quick(epochs: int) -> PretrainSpec:
    """Epochs of five steps, some 25 of which take a second."""
    return tiny(**{**FAST, "training": {"epochs": epochs, "batch_size": 256}})


def states(project: Project) -> dict[str, str]:
    return {run.id: runs.status(run).state for run in runs.listing(project.runs)}


def test_jobs_wait_in_line_for_the_one_slot_and_run_in_order(project: Project) -> None:
    name = project.write(quick(2))
    for seed in range(3):
        project.carectl("pretrain", name, "-o", f"seed={seed}", "--detach")
    seen = set()

    def done() -> bool:
        now = list(states(project).values())
        seen.add(now.count("running"))
        return now == ["done"] * 3

    wait_until(done)
    assert seen <= {0, 1}
    since = [
        read_json(p)["since"] for p in sorted(project.path.glob("runs/*/attempts/1/handle.json"))
    ]
    assert since == sorted(since)


def test_two_shells_at_once_submit_a_run_once(project: Project) -> None:
    name = project.write(quick(2))
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: project.json("pretrain", name), range(3)))
    assert sorted(answer["plan"][0]["action"] for answer in found) == ["new", "running", "running"]
    assert len(list(project.path.glob("runs/*/attempts/*"))) == 1
    assert {answer["runs"][0]["state"] for answer in found} == {"done"}


def test_a_killed_queue_is_replaced_by_the_next_command_and_its_job_goes_on(
    project: Project,
) -> None:
    name = project.write(quick(12))
    project.carectl("pretrain", name, "--detach")
    project.carectl("pretrain", name, "-o", "seed=1", "--detach")
    wait_until(project.steps)
    project.kill_queue()
    project.carectl("pretrain", name, "-o", "seed=1")
    wait_until(lambda: set(states(project).values()) == {"done"})
    assert len(list(project.path.glob("runs/*/attempts/*"))) == 2


def test_after_everything_is_killed_the_same_commands_finish_everything(project: Project) -> None:
    name = project.write(quick(12))
    waiting = [project.start("pretrain", name, "-o", f"seed={seed}") for seed in range(2)]
    wait_until(project.steps)
    for process in waiting:
        process.kill()
        process.communicate()
    project.kill_queue()
    project.kill_jobs()
    wait_until(lambda: "running" not in states(project).values())
    assert sorted(states(project).values()) == ["lost", "queued"]
    for seed in range(2):
        project.carectl("pretrain", name, "-o", f"seed={seed}")
    assert set(states(project).values()) == {"done"}


@pytest.mark.long
def test_what_hangs_on_a_failed_run_is_blocked_and_goes_on_once_that_is_mended(
    project: Project,
) -> None:
    grid = ["reproduce", "table1", "--profile", "smoke", "--only", "CARE-SimCLR"]
    plan = project.json(*grid, "--dry-run")["plan"]
    pretrain, probe = (run["run"] for run in plan)
    assert plan[1]["depends"] == [pretrain]
    blocker = project.runs / pretrain / "checkpoints"
    blocker.parent.mkdir(parents=True)
    blocker.write_text("a file where a folder has to be")
    failed = project.carectl(*grid, code=1)
    assert "cannot write" in failed.stderr
    assert states(project) == {pretrain: "failed", probe: "blocked"}
    blocker.unlink()
    project.carectl(*grid)
    assert states(project) == {pretrain: "done", probe: "done"}


def test_a_queued_job_can_be_cancelled_and_taken_up_again(project: Project) -> None:
    name = project.write(quick(2))
    (slot,) = slots.names()
    held = slots.take(slot)
    project.carectl("pretrain", name, "--detach")
    (run,) = runs.listing(project.runs)
    assert runs.status(run).state == "queued"
    assert "cancelled" in project.carectl("cancel", run.id).stdout
    assert runs.status(run).state == "cancelled"
    assert not tickets.waiting(project.runs)
    os.close(held)
    assert project.json("pretrain", name)["plan"][0]["action"] == "retry"
    assert runs.status(run).state == "done"


def test_a_run_whose_submission_was_cut_off_is_lost_and_not_queued_for_ever(
    project: Project,
) -> None:
    run = Run(project.runs / "x-000000000000")
    run.new_attempt()
    assert runs.status(run).state == "lost"
    tickets.write(project.runs, tickets.Ticket(run.id, 1, [], ["cpu-0"], 1))
    assert runs.status(run).state == "queued"


def test_the_tickets_of_many_runs_are_listed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        tickets.write(tmp_path, tickets.Ticket(f"x-{number}", 1, [], ["cpu-0"], 1))
    os.utime(tickets.folder(tmp_path), (0, 0))  # nothing has changed there for long
    listed: list[object] = []
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(path) or listdir(path))
    assert all(len(tickets.of(tmp_path, f"x-{number}")) == 1 for number in range(20))
    assert listed == [tickets.folder(tmp_path)]
    new = tickets.write(tmp_path, tickets.Ticket("y-0", 1, [], ["cpu-0"], 1))
    assert tickets.of(tmp_path, "y-0") == [new]
    new.unlink()
    assert tickets.of(tmp_path, "y-0") == []


def test_a_recycled_pid_is_neither_alive_nor_signalled(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    mine = processes.describe(child.pid)
    assert processes.alive(mine)
    for change in ({"started_ticks": mine["started_ticks"] - 1}, {"boot": "x"}, {"host": "x"}):
        other = {**mine, **change}
        assert not processes.alive(other)
        assert not processes.signal_group(other, signal.SIGKILL)
    time.sleep(0.1)
    assert child.poll() is None
    child.kill()
    child.wait()
    assert not processes.alive(mine)


def stub_gpus(folder: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """A machine that says it has some GPUs."""
    folder.mkdir()
    script = folder / "nvidia-smi"
    script.write_text(f"#!/bin/sh\nseq 0 {count - 1}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_the_slots_are_the_gpus_within_what_is_visible_and_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    stub_gpus(tmp_path / "bin", monkeypatch, 4)
    assert slots.names() == ["gpu-0", "gpu-1", "gpu-2", "gpu-3"]
    assert slots.names("2,3") == ["gpu-2", "gpu-3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    assert slots.names() == ["gpu-1", "gpu-2"]
    with pytest.raises(CommandError, match="GPU 3 is not here"):
        slots.names("2,3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert slots.names() == ["cpu-0"]


@pytest.mark.usefixtures("cold")  # a fork's environment is not in /proc
def test_a_job_sees_the_gpu_of_its_slot(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    stub_gpus(tmp_path / "bin", monkeypatch, 4)
    name = project.write(quick(4))
    commands = [("seed=0", "2,3"), ("seed=1", "2,3")]
    for seed, devices in commands:
        project.carectl("pretrain", name, "-o", seed, "--devices", devices, "--detach")
    wait_until(lambda: len(project.handles()) == 2)
    seen = set()
    for handle in project.handles():
        lines = Path(f"/proc/{handle['pid']}/environ").read_bytes().split(b"\0")
        (visible,) = (x.partition(b"=")[2] for x in lines if x.startswith(b"CUDA_VISIBLE_DEVICES"))
        assert handle["slots"] == [f"gpu-{visible.decode()}"]
        seen.add(visible)
    assert seen == {b"2", b"3"}
    wait_until(lambda: set(states(project).values()) == {"done"})


def test_two_cpu_slots_run_two_jobs_at_once_or_one_of_two_ranks(project: Project) -> None:
    name = project.write(quick(24))
    for seed in range(2):
        project.carectl("pretrain", name, "-o", f"seed={seed}", "--devices", "cpu:2", "--detach")
    wait_until(lambda: list(states(project).values()) == ["running"] * 2)
    wait_until(lambda: set(states(project).values()) == {"done"})
    ranks = ["--gpus", "2", "--devices", "cpu:2", "-o", "training.epochs=2"]
    (run,) = project.json("pretrain", name, *ranks)["runs"]
    assert run["state"] == "done"
    folder = project.runs / run["run"] / "attempts/1"
    handles = [read_json(folder / f"handle{rank}.json") for rank in ("", "-1")]
    assert [(h["rank"], h["ranks"], h["slots"]) for h in handles] == [
        (0, 2, ["cpu-0", "cpu-1"]),
        (1, 2, ["cpu-0", "cpu-1"]),
    ]


def test_cancel_reaches_every_rank(project: Project) -> None:
    name = project.write(quick(1000))
    project.carectl("pretrain", name, "--gpus", "2", "--devices", "cpu:2", "--detach")
    wait_until(project.steps)
    (run,) = runs.listing(project.runs)
    handles = [read_json(path) for path in run.attempts[-1].glob("handle*.json")]
    assert sum(map(processes.alive, handles)) == 2
    assert "cancelled" in project.carectl("cancel", run.id).stdout
    assert not any(map(processes.alive, handles))
    assert runs.status(run).state == "cancelled"


def test_retry_failed_runs_what_failed_and_nothing_else(project: Project) -> None:
    good = project.write(quick(1))
    project.carectl("pretrain", good)
    assert project.json("retry", "--failed")["plan"] == []
    run = Run(project.runs / project.json("pretrain", good, "--dry-run")["plan"][0]["run"])
    before = run.path.joinpath("result.json").stat().st_mtime_ns
    project.carectl("pretrain", good, "-o", "seed=1", "--detach")
    other = next(r for r in runs.listing(project.runs) if r.id != run.id)
    wait_until(project.handles)
    wait_until(lambda: project.kill_jobs() or runs.status(other).state in ("lost", "done"))
    wait_until(lambda: runs.status(other).state in ("lost", "done"))
    other.path.joinpath("result.json").unlink(missing_ok=True)
    again = project.json("retry", "--failed")
    assert [planned["run"] for planned in again["plan"]] == [other.id]
    assert runs.status(other).state == "done"
    assert run.path.joinpath("result.json").stat().st_mtime_ns == before


def test_a_lost_run_is_put_right_in_mlflow_by_the_next_look(project: Project) -> None:
    from mlflow import MlflowClient

    name = project.write(quick(1000))
    project.carectl("pretrain", name, "--detach")
    wait_until(project.steps)
    (run,) = runs.listing(project.runs)
    tracking = run.job["tracking"]
    client = MlflowClient(tracking["uri"])
    assert client.get_run(tracking["run_id"]).info.status == "RUNNING"
    project.kill_jobs()
    wait_until(lambda: runs.status(run).state == "lost")
    assert project.json("status")["runs"][0]["state"] == "lost"
    assert client.get_run(tracking["run_id"]).info.status == "FAILED"


def test_a_queue_that_cannot_work_is_told_and_not_waited_for(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project.path / "file").write_text("")
    name = project.write(quick(2))
    done = project.carectl("pretrain", name, code=3, CARECTL_SLOTS_DIR=str(project.path / "file"))
    assert "the queue process dies as it starts" in done.stderr
    assert "queue.log" in done.stderr
