"""Table 1 as a document: what is within the tolerance, what is a gap, and what a script is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import finished
import pytest
from conftest import Project

from carectl import reproduce, targets
from carectl.console.output import Output
from carectl.flow import Options
from carectl.reports import tolerance
from carectl.reports.document import Cell, DataTable, Document, Mark
from carectl.reports.summary import Line
from carectl.targets import table1
from carectl.targets.context import Answer, Context

GRID = """
title: Table 1
question: q
source: the paper
columns: [digits]
profiles:
  paper: {datasets: [digits], seeds: [0, 1, 2]}
  digits: {datasets: [digits], seeds: [0]}
rows:
  SimCLR: {digits: {recipe: digits/simclr, mean: 90.0, sd: 0.1}}
  CARE-SimCLR: {digits: {recipe: digits/care-simclr, mean: 92.0, uncertain: true}}
  BYOL: {digits: {mean: 90.44, cited: true}}
"""


@pytest.fixture
def paper(project: Project) -> Project:
    """A project whose paper profile is of digits, which need no files."""
    (project.path / "table1").write_text(GRID)
    return project


def measured(**means: float) -> finished.Measure:
    """Results a tenth apart between seeds, of the rows that are named."""

    def measure(answer: Answer) -> dict[str, object] | None:
        mean = means.get(answer.cell.row.replace("-", "_"))
        return None if mean is None else finished.probe_result([mean + 0.1 * answer.cell.seed])

    return measure


def made(context: Context) -> Document:
    return table1.document(context)


def table(document: Document, key: str) -> DataTable:
    return next(table for table in document.tables if table.key == key)


def field(table: DataTable, row: str, column: str) -> Cell:
    at = [c.title for c in table.columns].index(column)
    return next(cells[at] for cells in table.rows if cells[0].text == row)


def line(delta: float, n: int = 3, sd: float | None = 0.1, **other: object) -> Line:
    fields = {"mean": 90 + delta, "paper": 90.0, "delta": delta, "sd": sd, "values": (90.0,) * n}
    return Line("SimCLR", "cifar10", "linear, backbone", **{**fields, **other})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "changed", "mark"),
    [
        (line(-0.99), False, Mark.WITHIN),
        (line(1.0), False, Mark.WITHIN),
        (line(-1.01), False, Mark.OUTSIDE),
        (line(-1.9, sd=0.8, paper_sd=0.6), False, Mark.WITHIN),  # 2·√(0.64 + 0.36) = 2
        (line(-2.1, sd=0.8, paper_sd=0.6), False, Mark.OUTSIDE),
        (line(-9.0, n=2), False, Mark.FEW),
        (line(-9.0, n=1, sd=None), False, Mark.FEW),
        (line(-9.0), True, Mark.OTHER),
        (line(-9.0, marks=("selected on the test set (11)",)), False, Mark.OTHER),
        (line(-9.0, paper_note="uncertain"), False, Mark.UNCERTAIN),
        (line(-9.0, paper_note="cited"), False, Mark.OUTSIDE),
        (line(-9.0, paper=None), False, Mark.NONE),
    ],
)
def test_the_tolerance_is_a_point_or_two_combined_deviations_from_three_seeds_on(
    found: Line, changed: bool, mark: Mark
) -> None:
    assert tolerance.judge(found, changed)[0] is mark


def test_cells_say_what_they_are_beside_the_paper(paper: Project) -> None:
    measure = measured(SimCLR=90.5, CARE_SimCLR=97.0)
    document = made(finished.table1(paper.runs, measure, "paper"))
    shown = table(document, "table1-digits")
    delta = field(shown, "SimCLR", "Δ")
    assert (delta.text, delta.mark) == ("+0.60", Mark.WITHIN) and "≤ 1.00" in delta.note
    assert field(shown, "CARE-SimCLR", "Δ").mark is Mark.UNCERTAIN
    assert field(shown, "CARE-SimCLR", "paper").text == "92.00†"
    assert field(shown, "BYOL", "Linear probe") == Cell("cited", mark=Mark.CITED)
    assert field(shown, "BYOL", "paper").text == "90.44‡"
    headline = field(shown, "SimCLR", "Linear probe")
    assert headline.text == "90.60 ± 0.10" and headline.n == 3 and len(headline.runs) == 3
    assert document.complete and not document.outside
    assert any("Tolerance" in told for told in document.setting)
    (gap,) = table(document, "differences").rows
    assert gap[1].strong and len(gap[1].runs) == 6


def test_one_seed_is_said_to_be_one_and_nothing_is_bold(paper: Project) -> None:
    measure = measured(SimCLR=50.0, CARE_SimCLR=99.0)
    document = made(finished.table1(paper.runs, measure, "digits"))
    shown = table(document, "table1-digits")
    assert field(shown, "SimCLR", "n").text == "1"
    assert not any(cell.strong for t in document.tables for row in t.rows for cell in row)
    assert "n = 1" in " ".join(document.findings) and "n = 1" in " ".join(document.setting)
    assert field(shown, "SimCLR", "Δ").mark is Mark.NONE  # there is no reference for digits


def told(
    capsys: pytest.CaptureFixture[str], *only: str, profile: str = "paper", seeds: str | None = None
) -> tuple[int, dict[str, object]]:
    """The exit code of a report, and its JSON."""
    request = reproduce.Request("table1", profile, only, seeds)
    code = reproduce.report(request, Options(as_json=True), Output(as_json=True))
    return code, json.loads(capsys.readouterr().out)


def test_exit_codes_tell_outside_failed_and_neither(
    paper: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    context = finished.table1(paper.runs, measured(SimCLR=80.0), "paper")
    assert told(capsys)[0] == 5
    assert told(capsys, "care")[0] == 0  # not asked for: neither outside nor missing
    assert told(capsys, seeds="0,1")[0] == 0  # too few seeds to say
    assert told(capsys, profile="digits")[0] == 0
    care = next(a for a in context.answers if a.cell.row == "CARE-SimCLR")
    finished.finish(care.trained, paper.runs, {})
    folder = paper.runs / care.trained.run_id
    (folder / "result.json").unlink()
    (folder / "attempts/1").mkdir(parents=True)
    (folder / "attempts/1/error.json").write_text('{"message": "the loss is nan"}')
    code, found = told(capsys)
    assert code == 4
    document = found["documents"]["table1"]  # type: ignore[index]
    assert document["complete"] is False
    assert told(capsys, "simclr", seeds="1,2")[0] == 0  # the failed seed was not asked for


def _tracked(project: Project) -> tuple[Any, list[Any]]:
    """The project's MLflow store, and its experiment."""
    from carectl import tracking

    store = tracking.client(tracking.uri(project.path))
    return store, [e for e in store.search_experiments() if e.name == "care"]


def test_every_report_of_a_target_and_profile_lies_in_one_run_of_mlflow(
    paper: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    finished.table1(paper.runs, measured(SimCLR=90.0, CARE_SimCLR=91.0), "paper")
    for seeds in (None, None, "0,1"):
        told(capsys, seeds=seeds)
    told(capsys, profile="digits")
    store, (place,) = _tracked(paper)
    found = store.search_runs([place.experiment_id], "tags.target = 'table1'")
    assert sorted(run.data.tags["profile"] for run in found) == ["digits", "paper"]
    whole = next(run for run in found if run.data.tags["profile"] == "paper")
    folders = [item.path for item in store.list_artifacts(whole.info.run_id)]
    assert folders == ["table1-paper", "table1-paper-seeds-0-1"]
    names = {Path(i.path).name for i in store.list_artifacts(whole.info.run_id, folders[0])}
    assert {"index.html", "table1.json", "table1.md", "table1.tex", "bars.svg"} <= names


def test_a_report_outlives_an_mlflow_that_is_away_and_tells_no_secret(
    paper: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finished.table1(paper.runs, measured(SimCLR=90.0), "digits")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    request = reproduce.Request("table1", "digits")
    assert reproduce.report(request, Options(), Output(as_json=False)) == 0
    said = capsys.readouterr()
    assert "warning: the report is in reports/table1-digits, but not in MLflow" in said.err
    assert "hunter2" not in said.err + said.out
    assert (paper.path / "reports/table1-digits/index.html").stat().st_size > 10_000


def test_all_is_every_target_in_one_plan_and_on_one_page(
    paper: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = targets.MODULES["table1"]
    monkeypatch.setattr(targets, "MODULES", {"table1": module, "again": module})
    (paper.path / "again").write_text(GRID.replace("  digits: {datasets", "  other: {datasets"))
    finished.table1(paper.runs, measured(SimCLR=90.0, CARE_SimCLR=91.0), "digits")
    request = reproduce.Request("all", "digits")
    assert reproduce.report(request, Options(as_json=True), Output(as_json=True)) == 0
    found = json.loads(capsys.readouterr().out)
    page = paper.path / found["report"]["html"]
    assert page.parent.name == "all-digits" and "Frozen encoders" in page.read_text()
    store, (place,) = _tracked(paper)
    (whole,) = store.search_runs([place.experiment_id], "tags.target = 'all'")
    assert [i.path for i in store.list_artifacts(whole.info.run_id, "all-digits")] == [
        "all-digits/index.html"
    ]
    assert set(found["reports"]) == set(found["documents"]) == {"table1"}
    again = (paper.path / "again").read_text().replace("  other: {datasets", "  digits: {datasets")
    (paper.path / "again").write_text(again)
    assert reproduce.report(request, Options(as_json=True), Output(as_json=True)) == 0
    found = json.loads(capsys.readouterr().out)
    text = (paper.path / found["report"]["html"]).read_text()
    assert set(found["reports"]) == {"table1", "again"}
    assert "<nav" in text and text.count('<tr id="run-') == 4  # the runs that both share
