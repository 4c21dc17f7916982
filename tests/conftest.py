"""Shared by all tests: a small spec, and a machine of their own (slots, MLflow, no telemetry)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from care_core.spec import PretrainSpec

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"


@pytest.fixture(autouse=True)
def own_machine(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests neither wait for another project's jobs nor write into somebody's MLflow."""
    monkeypatch.setenv("CARECTL_SLOTS_DIR", str(tmp_path_factory.mktemp("slots")))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("COLUMNS", "200")


def tiny(**changes: object) -> PretrainSpec:
    """CARE-SimCLR on digits, so small that an epoch takes a second."""
    fields: dict[str, object] = {
        "name": "tiny/care-simclr",
        "data": {"name": "digits"},
        "model": {"backbone": "small", "width": 4, "hidden": 16, "embedding": 8},
        "equivariance": {"weight": 0.1, "splits": 16},
        "optimizer": {"name": "adam", "lr": 1e-3},
        "training": {"epochs": 2, "batch_size": 128},
        "monitor": {"every_epochs": 1, "k": 20},
        "log": {"every_steps": 1},
        "probe": {"linear": {"epochs": 5, "seeds": [0, 1]}, "geometry": {"augmentations": 2}},
    }
    return PretrainSpec.model_validate({**fields, **changes})


@pytest.fixture
def spec() -> PretrainSpec:
    return tiny()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty project folder as the working directory; its queue is gone at the end."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for handle in tmp_path.glob("runs/*/attempts/*/handle.json"):
        import signal

        from care_core.files import read_json
        from carectl import processes

        processes.signal_group(read_json(handle), signal.SIGKILL)
