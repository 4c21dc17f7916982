"""Secrets stay out of what is kept and shown, and texts from files never steer a terminal."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Project, tiny
from rich.live import Live
from rich.table import Table
from rich.text import Text

from care_core.files import read_json, write_json
from care_core.spec.launch import Launch
from carectl import doctor, mlflow_runs, provenance, redaction, runs, submission, tracking
from carectl.backends.base import Job
from carectl.console import errors, tables
from carectl.console.clean import PlainConsole, clean
from carectl.errors import CommandError
from carectl.flow import Options
from carectl.plan import Planner
from carectl.runs import Run

ESCAPES = "a\x1b]0;title\x07b\x1b[2Jc\x9b31md\u202ee\ud800f\rg"
HARMLESS = (
    "TOKENIZERS_PARALLELISM=false", "tokens: int = 5", "token = self.next()", "password: str",
    "sorted(rows, key=len)", "export X_TOKEN=$(cat ~/.token)", "https://host:5000/#/runs/2",
    "git+https://github.com/a/b@main", "sqlite:////data/a/mlflow.db", "equivariance.weight=0.1",
    "one_pass=True", "sig=3",
)  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [
        "http://me:hunter2@host/x", "postgresql://me:hun@ter2@db/x", "mysql://me:a/hunter2@db/x",
        "https://hunter2@host", "password=hunter2", "db?user=me&password=hunter2&y=1",
        "+WANDB_API_KEY=hunter2", "API_KEY='hunter2'", '"client_secret": "hunter2"',
        "secret_key: hunter2hunter2", "Authorization: Bearer hunter2hunter2",
        "--db-password hunter2 --epochs 3", "hf_hunter2hunter2hunter2", "ghp_hunter2hunter2hunter2",
        "-----BEGIN OPENSSH PRIVATE KEY-----\n+hunter2\n+-----END OPENSSH PRIVATE KEY-----",
        "Authorization: token hunter2hunter2", "Authorization: ApiKey hunter2hunter2",
        "SMTP_PASS=hunter2", "token=f'hunter2'", 'password = b"hunter2"',
        'password=\\"hunter2\\"',
        "https://x.blob.core.windows.net/c?sv=1&sig=hunter2", "AIzahunter2hunter2hunter2",
        "https://s3.amazonaws.com/x?X-Amz-Signature=hunter2&y=1", "xapp-hunter2hunter2hunter2",
    ],
)  # fmt: skip
def test_a_secret_is_not_told(words: str) -> None:
    told = redaction.text(f"before {words} after")
    assert "hunter2" not in told and "ter2" not in told
    assert redaction.MASK in told and told.startswith("before ")


@pytest.mark.parametrize(
    "part",
    ["://", "https://a:", "--password-", "--", "token = ", "token='", "eyJaaaaaaaa-", "basic ",
     "eyJaaaaaaaa.", "authorization: a ", "access_key", "-----BEGIN PRIVATE KEY-----", "key: a"],
)  # fmt: skip
def test_no_text_takes_long_to_be_searched(part: str) -> None:
    """A received run's error may be any text; some patterns tried each place to the text's end."""
    began = time.process_time()
    redaction.text(part * (200_000 // len(part)))
    assert time.process_time() - began < 10  # a second at most; it was minutes


@pytest.mark.parametrize("words", HARMLESS)
def test_what_is_none_stays_as_it_is(words: str) -> None:
    assert redaction.text(words) == words


def test_values_of_the_environment_are_not_told_wherever_they_turn_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "correct horse")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:staple@tery@host")
    assert redaction.text("it said: correct horse, staple@tery") == "it said: ***, ***"
    assert tracking.first_line(ValueError("bad correct horse")) == "bad ***"
    assert redaction.text(str(Path.cwd())) == str(Path.cwd())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:sta%2Fple%40x@host")
    monkeypatch.setenv("DB_PASS", "correct/horse")
    for shown in ("sta/ple@x", "sta%2Fple%40x", "correct/horse", "correct%2Fhorse"):
        assert redaction.text(f"for {shown}.") == "for ***."


def test_a_command_line_is_kept_without_what_its_options_hold() -> None:
    command = ["carectl", "x", "--api-key", "hunter2", "--tag", "token=hunter2", "-o", "seed=1"]
    assert redaction.arguments(command) == [
        "carectl", "x", "--api-key", "***", "--tag", "token=***", "-o", "seed=1",
    ]  # fmt: skip


def test_the_kept_diff_is_of_tracked_files_without_those_that_hold_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "repository"
    (root / "carectl").mkdir(parents=True)
    names = (
        "carectl/a.py",
        ".env",
        "deploy/.env.local",
        "deploy/server.pem",
        "my_credentials.json",
    )

    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True)

    def write(text: str) -> None:
        for name in names:
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_text(f"{text}\n")

    git("init", "-q")
    git("config", "diff.external", "echo ran")
    write("old")
    git("add", "-A")
    git("-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "x")
    write("new\nAPI_TOKEN=hunter2")
    (root / "untracked.txt").write_text("hunter2")
    monkeypatch.setattr(provenance, "__file__", str(root / "carectl" / "provenance.py"))
    diff = provenance.collect()["diff"]
    assert "+new" in diff and "+API_TOKEN=***" in diff and "a/carectl/a.py" in diff
    assert "hunter2" not in diff and "untracked" not in diff
    assert not any(name in diff for name in names[1:])


class Kept:
    """A backend that starts nothing."""

    def check(self, jobs: list[Job]) -> None:
        pass

    preview = submit = check  # type: ignore[assignment]

    def ensure(self) -> None:
        pass

    def threads(self, launch: Launch) -> int:
        return 1


def test_nothing_of_a_run_holds_the_password_of_its_tracking_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[object] = []
    address = "http://me:hunter2@mlflow.example.org"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setattr(sys, "argv", ["carectl", "--tag", "token=hunter2", f"--x={address}"])
    monkeypatch.setattr(mlflow_runs, "experiment", lambda *_: "1")
    monkeypatch.setattr(mlflow_runs, "make_run", lambda *all_: given.extend(all_[1:]) or "ab")
    options = Options(runs_dir=tmp_path / "runs", tags=("token=hunter2", f"place={address}"))
    planner = Planner(options.runs_dir, tmp_path / "data")
    planner.pretrain(tiny())
    (planned,) = submission.submit(planner, Kept(), options.place())
    run = Run(options.runs_dir / planned.run_id)
    assert {"job.json", "code.json", "spec.json"} <= {path.name for path in run.path.iterdir()}
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert b"hunter2" not in path.read_bytes(), path
    assert given and "hunter2" not in repr(given)
    assert tracking.complete(run.job["tracking"]["uri"]) == address  # for its job
    assert "hunter2" not in repr(tables.status_values(run, runs.status(run)))
    assert run.job["tracking"]["uri"] == "http://***@mlflow.example.org"


def test_what_the_doctor_finds_at_a_server_with_a_password_tells_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@127.0.0.1/x")
    found = [*doctor._mlflow(tmp_path / "runs")]
    assert [finding.level for finding in found] == ["fail"]
    assert not any("hunter2" in word for finding in found for word in finding)


def test_an_error_is_told_without_secrets_and_without_escapes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = errors.explain(CommandError(f"{ESCAPES} at http://me:hunter2@host"))
    said = capsys.readouterr().err
    assert code == 2 and "hunter2" not in said and not set(said) & set("\x1b\x07\x9b\u202e\r")


def test_a_console_shows_neither_escapes_nor_markup_nor_emoji_of_what_it_is_given() -> None:
    table = Table("head\x1b[2J")
    table.add_row(ESCAPES)
    table.add_row(Text(ESCAPES, style="red"))
    table.add_row("[red]x[/blue] :warning:")
    out = io.StringIO()
    console = PlainConsole(width=100)
    console.file = out
    console.print(table)
    told = out.getvalue()
    assert not set(told) & set("\x1b\x07\x9b\u202e\ud800\r")
    assert "[red]x[/blue] :warning:" in told and "a\ufffd]0;title" in told


def test_a_live_view_steers_the_terminal_itself_and_lets_nothing_else() -> None:
    out = io.StringIO()
    console = PlainConsole(width=100)
    console.file, console._force_terminal, console.is_interactive = out, True, True
    with Live(console=console, auto_refresh=False, transient=True) as live:
        live.update(Text("x\x1b]0;title\x07"), refresh=True)
    assert "\x1b]0" not in out.getvalue() and "x\ufffd]0;title" in out.getvalue()
    assert "\x1b[" in out.getvalue()  # its own


def test_status_and_logs_of_a_run_with_hostile_texts_steer_no_terminal(tmp_path: Path) -> None:
    project = Project(tmp_path)
    run = project.runs / "x-000000000000"
    (run / "attempts" / "1").mkdir(parents=True)
    (project.runs / "bad\x1b[2J-000000000001").mkdir()
    write_json(project.runs / "bad\x1b[2J-000000000001" / "spec.json", {"kind": "pretrain"})
    write_json(run / "spec.json", {"kind": "pretrain", "name": f"[/red]{ESCAPES}", "sha256": "0"})
    write_json(run / "attempts" / "1" / "error.json", {"message": f"[/red]{ESCAPES}", "at": 1.0})
    (run / "attempts" / "1" / "7_0_log.out").write_bytes(b"one\x1b]0;t\x07\xff\x9b2Jtwo\n")
    for command in (["status"], ["status", "x"], ["logs", "x"], ["status", "--json"]):
        done = project.carectl(*command)
        told = done.stdout + done.stderr
        assert not set(told) & set("\x1b\x07\x9b\u202e"), command
        assert "bad" not in told
    assert read_json(run / "spec.json")["name"].startswith("[/red]")
    assert "two" in project.carectl("logs", "x").stdout


def test_clean_keeps_lines_tabs_and_every_letter() -> None:
    assert clean("λ τ\n\t±√ é 日本 🙂\xa0") == "λ τ\n\t±√ é 日本 🙂\xa0"
