"""Shared by all tests: a small spec, and a machine of their own (slots, MLflow, no telemetry)."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from care_core.files import read_json
from care_core.spec import PretrainSpec
from carectl import processes

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"


#: Files of half a minute and more, the longest first: begun last, one would keep a worker alone.
LONGEST = (
    "test_slurm", "test_queue", "test_all_methods", "test_faults", "test_end_to_end",
    "test_mlflow_outage", "test_theory", "test_rank_loss", "test_pointcloud", "test_targets_colour",
    "test_parity", "test_finite", "test_precision", "test_storage", "test_import", "test_transfer",
    "test_export", "test_colour", "test_interruptions", "test_rank_training", "test_resuming",
    "test_bench", "test_leaks", "test_doctor", "test_data_files",
)  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Workers take files in the order of the items, not those of most tests first."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


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
        "launch": {"threads": 1},
    }
    return PretrainSpec.model_validate({**fields, **changes})


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """As in the ranks and jobs of the tests; where torch is imported at all."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


#: For `tiny`: 3 epochs of 5 steps, with a checkpoint after steps 5, 10 and 15.
FAST: dict[str, Any] = {
    "data": {"name": "digits", "image_size": 8},
    "training": {"epochs": 3, "batch_size": 256},
}


@pytest.fixture
def spec() -> PretrainSpec:
    return tiny()


@pytest.fixture(scope="session")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., list[int]]]:
    """Run a function of a test's module on so many ranks (see `ranks`)."""
    import ranks

    with ranks.serving(tmp_path_factory.mktemp("server") / "log") as ask:
        yield ask


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh MLflow store, made once: making one takes seconds."""
    from carectl import mlflow_runs, tracking

    folder = tmp_path_factory.mktemp("store")
    mlflow_runs.experiment(tracking.uri(folder), "unused", folder)
    return folder / "mlflow.db"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str | bytes], Path]:
    """Write a text as a spec file."""

    def put(text: str | bytes) -> Path:
        path = tmp_path / "spec.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return put


class Project:
    """A project folder, and `carectl` run in it as a person would."""

    def __init__(self, path: Path) -> None:
        self.path, self.runs = path, path / "runs"

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-c", "from carectl.app import main; main()", *arguments]

    def carectl(
        self, *arguments: str, code: int = 0, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; its exit code must be `code`."""
        done = subprocess.run(
            self.command(*arguments), cwd=self.path, env={**os.environ, **env},
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Begin a command in a session of its own."""
        return subprocess.Popen(
            self.command(*arguments), cwd=self.path, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            # a suite that was started in the background passes on that it ignores Ctrl-C
            preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip

    def json(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """The one object that a command with --json prints."""
        return dict(json.loads(self.carectl(*arguments, "--json", code=code).stdout))

    def write(self, spec: PretrainSpec, name: str = "spec.yaml") -> str:
        """A spec as a file of the project."""
        from carectl import specs

        (self.path / name).write_text(specs.dump(spec))
        return name

    def handles(self) -> list[dict[str, Any]]:
        """The processes of all jobs, dead ones included."""
        found = [read_json(p) for p in self.path.glob("runs/*/attempts/*/handle.json")]
        return [handle for handle in found if handle]

    def kill_jobs(self) -> int:
        """SIGKILL every job that is alive; how many there were."""
        return sum(processes.signal_group(handle, signal.SIGKILL) for handle in self.handles())

    def kill_queue(self) -> None:
        """SIGKILL the queue process of this folder."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = path.read_bytes().split(b"\0")
                if words[2:4] == [b"carectl.backends.queue", os.fsencode(self.runs)]:
                    os.kill(int(path.parent.name), signal.SIGKILL)

    def steps(self) -> list[int]:
        """How far each pretraining has come."""
        found = [read_json(p) for p in self.path.glob("runs/*/progress.json")]
        return [int(progress["step"]) for progress in found if progress]


def wait_until(what: Callable[[], object], seconds: float = 60) -> None:
    """Look until something is so; fail loudly when it never is."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which commands and jobs start warm (see `tests/warm`)."""
    from warm import serving

    with serving(tmp_path_factory.mktemp("warm")) as environment:
        yield environment


@pytest.fixture
def cold(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands and jobs of the project start as at home: a fresh Python, which imports all."""
    monkeypatch.delenv("CARE_WARM")


@pytest.fixture
def project(
    tmp_path: Path, empty_store: Path, warm: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Project]:
    """An empty project folder as the working directory; nothing of it runs on afterwards.

    Commands and jobs start warm in it, unless the test asks for `cold`.
    """
    for name, value in warm.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    made = Project(tmp_path)
    yield made
    made.kill_queue()
    made.kill_jobs()
