"""A report goes to MLflow when it is another than the one that is there, and only then."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from carectl import mlflow_runs
from carectl.console.output import Output
from carectl.flow import Options
from carectl.reports import tracked


def test_a_report_that_is_as_it_was_is_not_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []

    def store(address: str, *names: object) -> str:
        sent.append(address)
        Path("mlflow.db").write_text("")
        return "its id"

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mlflow_runs, "store_report", store)
    page = tmp_path / "index.html"
    page.write_text("91.0")
    document: Any = SimpleNamespace(profile="digits", runs=[SimpleNamespace(state="done")])

    def report(experiment: str = "care") -> int:
        options = Options(experiment=experiment)
        told = tracked.store("table1", [document], tmp_path, [page], options, Output(False))
        assert told == "its id"
        return len(sent)

    assert (report(), report()) == (1, 1)
    page.write_text("95.0")
    assert (report(), report()) == (2, 2)
    assert report("other") == 3
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@127.0.0.1:9")
    assert (report(), report()) == (4, 4)
    assert "hunter2" not in (tmp_path / tracked.NOTE).read_text()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert report() == 5
    Path("mlflow.db").rename("lost.db")
    assert report() == 6
