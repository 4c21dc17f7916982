"""The SLURM backend on a real SLURM: arrays, devices, preemption, limits, and what goes wrong."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import FAST, Project, tiny, wait_until
from mlflow import MlflowClient

import care_core
from care_core.files import read_json
from care_core.spec.launch import Launch
from carectl import runs
from carectl.backends import squeue
from carectl.backends.base import Job
from carectl.backends.slurm import SlurmBackend
from carectl.runs import Run

from .cluster import Cluster

SLOW = {"epochs": 72, "batch_size": 128}  # longer than the 20 s or so until the warning
LONG = {"epochs": 20, "batch_size": 128}


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test looks more often than a person should."""
    monkeypatch.setenv("CARECTL_SQUEUE_EVERY_S", "0.5")
    monkeypatch.setattr(squeue, "EVERY_S", 0.5)


def slurm_spec(**changes: Any) -> Any:
    launch = {"threads": 1, "cpus": 1, "grace_s": 20, "time": 10, **changes.pop("launch", {})}
    return tiny(**{"data": FAST["data"], **changes}, launch=launch)


def states(project: Project) -> dict[str, str]:
    return {r["run"]: r["state"] for r in project.json("status")["runs"]}


def only(project: Project) -> Run:
    (run,) = runs.listing(project.runs)
    return run


def job_of(run: Run) -> str:
    return str(read_json(run.attempts[-1] / "submission.json")["job"])


def steps_logged(run: Run) -> list[int]:
    tracking = run.job["tracking"]
    client = MlflowClient(tracking["uri"])
    return [m.step for m in client.get_metric_history(tracking["run_id"], "loss")]


def test_a_pretraining_and_its_probe_run_one_after_the_other(
    cluster: Cluster, project: Project
) -> None:
    found = project.json("reproduce", "table1", "--profile", "smoke", "--backend", "slurm",
                         "-o", "launch.cpus=1", "-o", "launch.time=10")  # fmt: skip
    assert {s["state"] for s in found["states"].values()} == {"done"}
    after = {
        run.id: read_json(run.attempts[-1] / "submission.json")["after"]
        for run in runs.listing(project.runs)
    }
    probes = [after[name] for name in after if name.startswith("probe")]
    assert all(text.startswith("aftercorr:") for text in probes)
    assert len(set(probes)) == 1


def test_each_of_two_ranks_has_its_gpu_and_they_train_one_run(
    cluster: Cluster, project: Project
) -> None:
    name = project.write(slurm_spec(launch={"gpus": 2}))
    (run,) = project.json("pretrain", name, "--backend", "slurm")["runs"]
    assert run["state"] == "done"
    folder = only(project).attempts[-1]
    handles = [read_json(folder / "handle.json"), read_json(folder / "handle-1.json")]
    assert [(h["rank"], h["ranks"], h["device"]) for h in handles] == [(0, 2, "0"), (1, 2, "1")]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The weights of a long run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("undisturbed")
    result = care_core.pretrain(slurm_spec(training=LONG), folder, threads=1)
    return str(result["weights_sha256"])


def test_two_nodes_with_two_ranks_each_train_one_run(two_nodes: Cluster, project: Project) -> None:
    name = project.write(slurm_spec(launch={"gpus": 2, "nodes": 2}))
    (run,) = project.json("pretrain", name, "--backend", "slurm")["runs"]
    assert run["state"] == "done"
    folder = only(project).attempts[-1]
    others = [read_json(folder / f"handle-{rank}.json") for rank in (1, 2, 3)]
    assert [h["device"] for h in others] == ["1", "0", "1"]
    assert steps_logged(only(project)) == list(range(1, 23))


@pytest.mark.parametrize("how", ["USR2", "preempted"])
def test_a_preempted_run_goes_on_under_its_id_and_ends_bitwise_the_same(
    cluster: Cluster, project: Project, undisturbed: str, how: str
) -> None:
    spec = slurm_spec(training=LONG)
    name = project.write(spec)
    project.carectl("pretrain", name, "--backend", "slurm", "--detach")
    run = only(project)
    job = job_of(run)
    wait_until(lambda: run.progress.get("step", 0) > 30)
    assert runs.status(run).state == "running"
    if how == "USR2":
        cluster.run("scancel", "--signal=USR2", job)
    else:  # all eight pretend CPUs for somebody more urgent
        cluster.run("sbatch", "-p", "urgent", "-n8", "--wrap", "sleep 1")
    wait_until(lambda: int(cluster.job(job)["restarts"]) == 1, 60)
    assert runs.status(run).state in ("queued", "running")
    done = project.json("pretrain", name)["runs"][0]
    assert done["state"] == "done"
    assert done["attempts"] == 1
    assert job_of(run) == job
    assert done["result"]["weights_sha256"] == undisturbed
    assert steps_logged(run) == list(range(1, 221))


@pytest.mark.long
def test_a_run_outlives_its_time_limit_by_requeueing_itself(
    cluster: Cluster, project: Project
) -> None:
    spec = slurm_spec(training=SLOW, launch={"time": 1, "grace_s": 50})
    name = project.write(spec)
    done = project.json("pretrain", name, "--backend", "slurm")["runs"][0]
    assert done["state"] == "done"
    run = only(project)
    assert len(read_json(run.attempts[-1] / "requeues.json")) >= 1
    assert steps_logged(run) == list(range(1, 793))


def test_requeueing_has_a_limit_and_the_run_then_fails_with_its_state_saved(
    cluster: Cluster, project: Project
) -> None:
    name = project.write(slurm_spec(training=LONG, launch={"max_requeues": 0}))
    project.carectl("pretrain", name, "--backend", "slurm", "--detach")
    run = only(project)
    wait_until(lambda: run.progress.get("step", 0) > 12)
    cluster.run("scancel", "--signal=USR2", job_of(run))
    wait_until(lambda: runs.status(run).state == "failed")
    assert list((run.path / "checkpoints").glob("*.pt"))
    plan = project.json("retry", "--failed", "--dry-run")["plan"]
    assert [planned["action"] for planned in plan] == ["retry"]


def test_a_probe_of_a_failed_pretraining_is_blocked_and_retry_runs_both(
    cluster: Cluster, project: Project
) -> None:
    grid = ["reproduce", "table1", "--profile", "smoke", "--only", "CARE-SimCLR",
            "--backend", "slurm", "-o", "launch.cpus=1", "-o", "launch.time=10"]  # fmt: skip
    pretrain, probe = (run["run"] for run in project.json(*grid, "--dry-run")["plan"])
    (project.runs / pretrain).mkdir(parents=True)
    (project.runs / pretrain / "checkpoints").write_text("in the way")
    project.carectl(*grid, code=1)
    assert states(project) == {pretrain: "failed", probe: "blocked"}
    (project.runs / pretrain / "checkpoints").unlink()
    again = project.json("retry", "--failed")
    assert {run["action"] for run in again["plan"]} == {"retry"}
    assert states(project) == {pretrain: "done", probe: "done"}


def test_cancel_ends_the_job_and_what_waited_for_it(cluster: Cluster, project: Project) -> None:
    grid = ["reproduce", "table1", "--profile", "smoke", "--only", "CARE-SimCLR", "--detach",
            "--backend", "slurm", "-o", "launch.cpus=1", "-o", "training.epochs=300"]  # fmt: skip
    pretrain, probe = (run["run"] for run in project.json(*grid)["plan"])
    wait_until(lambda: states(project)[pretrain] == "running")
    assert "blocked" in project.carectl("cancel", pretrain).stdout
    assert states(project) == {pretrain: "cancelled", probe: "blocked"}
    cluster.wait_idle()


def test_while_the_controller_is_away_nothing_is_called_lost(
    cluster: Cluster, project: Project
) -> None:
    name = project.write(slurm_spec(training=LONG))
    project.carectl("pretrain", name, "--backend", "slurm", "--detach")
    run = only(project)
    wait_until(lambda: run.progress.get("step", 0) > 5)
    cluster.stop_controller()
    wait_until(lambda: squeue.look(project.runs.resolve()).problem)
    assert runs.status(run).state in ("running", "stale", "done")
    assert project.json("status")["runs"][0]["state"] in ("running", "stale", "done")
    cluster.start_controller()
    wait_until(lambda: runs.status(run).state == "done")


def counted(folder: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> Path:
    """A log of how often some commands are called."""
    folder.mkdir()
    log = folder / "calls"
    log.touch()
    for name in names:
        (folder / name).write_text(
            f'#!/bin/sh\necho {name} >> {log}\nPATH="${{PATH#*:}}" exec {name} "$@"\n'
        )
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return log


def test_five_hundred_queued_runs_are_one_array_and_a_look_is_one_query(
    cluster: Cluster, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = counted(tmp_path / "bin", monkeypatch, "sbatch", "squeue", "sacct")
    launch = Launch(cpus=1, time=1, sbatch={"hold": True})
    jobs = []
    for number in range(500):
        run = Run(project.runs / f"x-{number:012x}")
        run.path.mkdir(parents=True)
        (run.path / "spec.json").write_text('{"kind": "pretrain", "name": "x"}')
        jobs.append(Job(run, (), launch))
    SlurmBackend(project.runs).submit(jobs)
    assert log.read_text().split() == ["sbatch"]
    log.write_text("")
    found = project.json("status")["runs"]
    assert [run["state"] for run in found] == ["queued"] * 500
    assert {run["reason"] for run in found} == {"JobHeldUser"}
    assert log.read_text().split() == ["squeue"]
    for run in runs.listing(project.runs):  # as if SLURM had forgotten them all
        note = read_json(run.attempts[-1] / "submission.json")
        note |= {"job": f"9{note['job']}", "at": 0}
        (run.attempts[-1] / "submission.json").write_text(json.dumps(note))
    log.write_text("")
    squeue.forget(project.runs.resolve())
    assert {run["state"] for run in project.json("status")["runs"]} == {"lost"}
    assert sorted(log.read_text().split()) == ["sacct", "squeue"]


def test_a_hostile_value_stays_a_value(cluster: Cluster, project: Project) -> None:
    comment = "a b'; touch pwned; #\"$(touch pwned)` --mem=1"
    spec = slurm_spec(
        launch={"sbatch": {"comment": comment}}, training={"epochs": 1, "batch_size": 128}
    )
    done = project.json("pretrain", project.write(spec), "--backend", "slurm")["runs"][0]
    assert done["state"] == "done"
    shown = cluster.run("scontrol", "show", "job", job_of(only(project))).stdout
    assert f"Comment={comment}" in shown
    assert not list(project.path.rglob("pwned"))


def test_a_dry_run_shows_the_sbatch_text_and_leaves_slurm_alone(
    cluster: Cluster, project: Project
) -> None:
    before = cluster.squeue()
    plan = project.json("reproduce", "table1", "--profile", "smoke", "--backend", "slurm",
                        "--dry-run", "-o", "launch.partition=debug")  # fmt: skip
    first, second = plan["sbatch"]
    assert "#SBATCH --partition=debug" in first
    assert "#SBATCH --signal=USR2@120" in first  # the warning before the time limit
    assert re.search(r"^srun .*--cpus-per-task=4 ", first, re.M)
    assert re.search(r"#SBATCH --array=0-1%2$", first, re.M)
    assert "#SBATCH --dependency=aftercorr:JOB1" in second
    assert "#SBATCH --kill-on-invalid-dep=yes" in second
    assert cluster.squeue() == before
