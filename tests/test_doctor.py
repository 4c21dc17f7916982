"""`carectl doctor`: every finding has a level, and what is wrong has a remedy."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Project

from carectl import doctor


def findings(project: Project, code: int = 0, **env: str) -> dict[str, dict[str, str]]:
    import json

    done = project.carectl("doctor", "--json", code=code, **env)
    return {f["subject"]: f for f in json.loads(done.stdout)["findings"]}


@pytest.fixture
def no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without SLURM's commands."""
    monkeypatch.setenv("PATH", "/nowhere")


@pytest.fixture
def server() -> Iterator[str]:
    """Something that answers over HTTP as an MLflow server does."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            return

    made = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()


def test_a_fit_machine_has_no_failure(project: Project, no_slurm: None) -> None:
    found = findings(project)
    for subject in ("python", "torch", "local slots", "slurm", "mlflow", "runs folder", "disk"):
        assert found[subject]["level"] in ("ok", "warn"), found[subject]
    assert found["digits"]["level"] == "ok"
    assert found["cifar10"]["level"] == "warn"
    assert found["cifar10"]["remedy"] == "`carectl data prepare cifar10 --data-dir data` gets it"


def test_a_folder_that_cannot_be_written_fails_with_the_remedy(
    project: Project, no_slurm: None
) -> None:
    project.runs.write_text("a file")
    found = findings(project, code=3)
    assert found["runs folder"]["level"] == "fail"
    assert "--runs-dir" in found["runs folder"]["remedy"]


def test_an_mlflow_server_is_asked_whether_it_answers(
    project: Project, no_slurm: None, server: str
) -> None:
    assert findings(project, MLFLOW_TRACKING_URI=server)["mlflow"]["level"] == "ok"
    away = findings(project, code=3, MLFLOW_TRACKING_URI="http://a:secret@127.0.0.1:9")["mlflow"]
    assert away["level"] == "fail"
    assert "unset MLFLOW_TRACKING_URI" in away["remedy"]
    assert "secret" not in away["said"]


def test_sqlite_on_a_network_file_system_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "file_system", lambda path: "nfs4")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (finding,) = doctor._mlflow(tmp_path / "runs")
    assert finding.level == "warn"
    assert "mlflow server" in finding.remedy


def test_the_file_system_of_a_path_is_that_of_its_deepest_mount(tmp_path: Path) -> None:
    assert doctor.file_system(Path("/proc/self")) == "proc"
    assert doctor.file_system(tmp_path / "not" / "there") == doctor.file_system(tmp_path)


def test_a_slurm_that_does_not_answer_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sbatch", "scancel", "scontrol", "squeue"):
        (tmp_path / name).write_text("#!/bin/sh\necho unable to contact controller >&2; exit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    found = {f.subject: f for f in doctor._slurm(tmp_path)}
    assert found["squeue"].level == "fail"
    assert "unable to contact controller" in found["squeue"].said
