"""The SLURM backend on a real SLURM: arrays, devices, preemption, limits, and what goes wrong."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Project, tiny, wait_until
from mlflow import MlflowClient

import care_core
from care_core.files import read_json
from carectl import runs
from carectl.runs import Run

from .cluster import Cluster

LONG = {"epochs": 40, "batch_size": 128}


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test looks more often than a person should."""
    monkeypatch.setenv("CARECTL_SQUEUE_EVERY_S", "0.5")


def slurm_spec(**changes: Any) -> Any:
    launch = {"threads": 1, "cpus": 1, "grace_s": 20, "time": 10, **changes.pop("launch", {})}
    return tiny(launch=launch, **changes)


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
