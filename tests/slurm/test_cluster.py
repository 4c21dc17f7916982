"""What the tests' own SLURM does as a big one would: GPUs, arrays, signals, requeue, preemption."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import wait_until

from .cluster import Cluster, ClusterError

TASK = "echo $SLURM_PROCID $SLURM_LOCALID $SLURMD_NODENAME gpus=$CUDA_VISIBLE_DEVICES"


def sbatch(cluster: Cluster, *options: str, wrap: str) -> str:
    """Submit a line of shell; the job's id."""
    return cluster.run(
        "sbatch", "--parsable", "--output=/dev/null", *options, f"--wrap={wrap}"
    ).stdout.strip()  # fmt: skip


def lines(text: str) -> list[str]:
    return sorted(text.splitlines())


def test_tasks_of_a_node_share_its_gpus_or_get_one_each(cluster: Cluster) -> None:
    srun = ["srun", "--nodes=1", "--ntasks-per-node=2"]
    shared = ["0 0 127.0.0.1 gpus=0,1", "1 1 127.0.0.1 gpus=0,1"]
    for asked in ("--gpus-per-node=2", "--gres=gpu:2"):
        assert lines(cluster.run(*srun, asked, "bash", "-c", TASK).stdout) == shared
    own = ["0 0 127.0.0.1 gpus=0", "1 1 127.0.0.1 gpus=1"]
    for asked in (["--gpus-per-task=1"], ["--gpus-per-node=2", "--gpu-bind=single:1"]):
        assert lines(cluster.run(*srun, *asked, "bash", "-c", TASK).stdout) == own


def test_jobs_and_code_in_the_test_see_the_cluster_and_the_environment_of_the_tests(
    cluster: Cluster,
) -> None:
    assert os.environ["SLURM_CONF"] == cluster.env["SLURM_CONF"]
    found = subprocess.run(
        ["srun", "python", "-c", "import carectl, sys; print(sys.prefix)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.strip() == sys.prefix


def test_an_array_runs_as_many_elements_at_once_as_there_are_gpus(
    cluster: Cluster, tmp_path: Path
) -> None:
    wrap = f"echo $CUDA_VISIBLE_DEVICES > {tmp_path}/$SLURM_ARRAY_TASK_ID; sleep 1"
    job = sbatch(cluster, "--array=0-2", "--gpus-per-node=1", wrap=wrap)
    cluster.wait(f"{job}_0", "RUNNING")
    states = {row["id"]: row["state"] for row in cluster.squeue() if row["array"] == job}
    assert states == {f"{job}_0": "RUNNING", f"{job}_1": "RUNNING", f"{job}_2": "PENDING"}
    for index in range(3):
        cluster.wait(f"{job}_{index}", "COMPLETED")
    assert sorted((tmp_path / f"{i}").read_text().strip() for i in range(2)) == ["0", "1"]


def test_a_signal_sent_by_scancel_reaches_every_task(cluster: Cluster, tmp_path: Path) -> None:
    task = (
        f"trap 'touch {tmp_path}/got-$SLURM_PROCID; exit 0' USR2;"
        f" touch {tmp_path}/up-$SLURM_PROCID; while :; do sleep 0.1; done"
    )
    job = sbatch(cluster, "--ntasks=2", wrap=f'srun bash -c "{task}"'.replace("$", "\\$"))
    wait_until(lambda: len(list(tmp_path.glob("up-*"))) == 2, 15)
    cluster.run("scancel", "--signal=USR2", job)
    cluster.wait(job, "COMPLETED")
    assert len(list(tmp_path.glob("got-*"))) == 2


def test_a_requeued_job_runs_again_under_its_id(cluster: Cluster, tmp_path: Path) -> None:
    job = sbatch(cluster, wrap=f"echo ${{SLURM_RESTART_COUNT:-0}} >> {tmp_path}/runs; sleep 60")
    runs = tmp_path / "runs"
    wait_until(runs.exists, 15)
    began = time.monotonic()
    cluster.run("scontrol", "requeue", job)
    wait_until(lambda: runs.read_text() == "0\n1\n", 20)
    assert time.monotonic() - began < 15
    assert cluster.wait(job, "RUNNING")["restarts"] == "1"


def test_an_urgent_job_preempts_one_that_then_runs_again(cluster: Cluster, tmp_path: Path) -> None:
    job = sbatch(
        cluster, "--gpus-per-node=2", "--open-mode=append",
        wrap=f"echo ${{SLURM_RESTART_COUNT:-0}} >> {tmp_path}/runs; sleep 60",
    )  # fmt: skip
    runs = tmp_path / "runs"
    wait_until(runs.exists, 15)
    cluster.run("srun", "--partition=urgent", "--gpus-per-node=2", "true")
    wait_until(lambda: runs.read_text() == "0\n1\n", 20)
    assert cluster.wait(job, "RUNNING")["restarts"] == "1"


def test_a_child_of_a_failed_job_is_cancelled_when_asked_for(cluster: Cluster) -> None:
    parent = sbatch(cluster, wrap="sleep 0.5; exit 3")
    after = f"--dependency=afterok:{parent}"
    child = sbatch(cluster, after, "--kill-on-invalid-dep=yes", wrap="true")
    waits = sbatch(cluster, after, wrap="true")
    cluster.wait(parent, "FAILED")
    cluster.wait(child, "CANCELLED")
    row = cluster.job(waits)
    assert (row["state"], row["reason"]) == ("PENDING", "DependencyNeverSatisfied")


def test_jobs_run_on_while_the_controller_restarts(cluster: Cluster, tmp_path: Path) -> None:
    job = sbatch(cluster, wrap=f"until test -e {tmp_path}/go; do sleep 0.1; done")
    cluster.wait(job, "RUNNING")
    cluster.restart_controller()
    row = cluster.job(job)
    assert (row["state"], row["restarts"]) == ("RUNNING", "0")
    (tmp_path / "go").touch()
    cluster.wait(job, "COMPLETED")


def test_two_nodes_run_two_tasks_each_beside_another_cluster(
    cluster: Cluster, two_nodes: Cluster
) -> None:
    done = two_nodes.run(
        "srun", "--nodes=2", "--ntasks-per-node=2", "--gpus-per-task=1", "bash", "-c", TASK
    )
    assert lines(done.stdout) == [
        "0 0 127.0.0.1 gpus=0",
        "1 1 127.0.0.1 gpus=1",
        "2 0 127.0.0.2 gpus=0",
        "3 1 127.0.0.2 gpus=1",
    ]
    assert os.environ["SLURM_CONF"] == two_nodes.env["SLURM_CONF"]
    assert len(cluster.run("sinfo", "-h", "-N", "-p", "debug").stdout.splitlines()) == 1


def test_a_stopped_cluster_leaves_neither_process_nor_folder(two_nodes: Cluster) -> None:
    job = sbatch(two_nodes, wrap="trap '' TERM; env -i setsid sleep 300 & srun sleep 300")
    two_nodes.wait(job, "RUNNING")
    wait_until(lambda: len(two_nodes.processes()) > 6, 15)
    two_nodes.stop()
    assert not two_nodes.processes()
    assert not two_nodes.folder.exists()


def test_a_failed_start_says_why_and_leaves_nothing(need_slurm: None) -> None:
    made = Cluster()
    with pytest.raises(ClusterError, match="NoSuchKey"):
        made.start(extra="NoSuchKey=1")
    assert not made.processes()
    assert not made.folder.exists()
