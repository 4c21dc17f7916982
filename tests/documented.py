"""What the documentation shows: its blocks, the commands in them, and how each is tried.

A line of a command that ends in `# needs REASON` cannot be tried here and is parsed alone; the
reasons are counted (test_docs.py). What trains or submits is given --dry-run.
"""

from __future__ import annotations

import argparse
import importlib
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from carectl import runs
from carectl.app import app

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
PROGRAMS = ("carectl", "make", "python", "pip", "git", "mlflow", "export")

#: What trains, waits or submits: tried with --dry-run.
SUBMITS = ("pretrain", "eval", "reproduce", "retry")
#: What takes minutes by itself, wherever it is shown: parsed alone.
LONG = ("bench",)
#: The run that RUN stands for on a page, where not the usual one.
RUN = {"pointclouds.md": "pointcloud-equivariance-uniformity"}


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.name}:{self.line}"


class Shown(NamedTuple):
    """A command as a page shows it; `needs` is why it cannot be tried here."""

    place: str
    page: str
    words: list[str]
    needs: str


def blocks(*languages: str) -> list[Block]:
    """Of all pages, in order; a block without a language has the language ''."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```$", text, re.M | re.S):
            line = text[: match.start()].count("\n") + 2
            found.append(Block(page, line, match[1], match[2]))
    return [block for block in found if block.language in languages]


def commands() -> list[Shown]:
    """Every line of a block that is a command of one of the `PROGRAMS`."""
    found = []
    for block in blocks("bash", "console", "sh", ""):
        for number, line in enumerate(block.text.splitlines()):
            line = line.removeprefix("$ ").removeprefix(".venv/bin/")
            program = line.split(" ")[0]
            if program not in PROGRAMS:
                unknown = block.language and line.strip() and not line.lstrip().startswith("#")
                assert not unknown, f"{block.place}: not a command that is tried: {line}"
                continue
            needs = re.search(r"# needs ([^:]+)", line)
            words = shlex.split(line.split(" > ")[0], comments=True)
            place = f"{block.page.name}:{block.line + number}"
            found.append(Shown(place, block.page.name, words, needs[1].strip() if needs else ""))
    return found


def contexts() -> dict[str, Any]:
    """The command line's own contexts by command, as docs/commands.py has them."""
    made = runpy.run_path(str(DOCS / "commands.py"))
    return dict(made["commands"]())


def command_of(words: list[str]) -> tuple[str, list[str]]:
    """`carectl spec check x` → spec check, [x]."""
    count = 3 if words[1] in ("spec", "data") else 2
    return " ".join(words[1:count]), words[count:]


def attempt(shown: Shown, known: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse a command as its program does and, unless it needs what is not here, run it."""
    program, *rest = shown.words
    if program == "carectl":
        name, given = command_of(shown.words)
        command = known[name].command
        command.make_context(name, list(given), parent=known[name].parent)
        if not shown.needs and name not in LONG:
            _run(shown, name, given)
    elif program == "make":
        targets = [word for word in rest if "=" not in word]
        done = subprocess.run(["make", "-n", *targets], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    elif program == "python":
        _parsed(rest, monkeypatch)
    elif program == "mlflow":
        from mlflow.cli import cli

        command = cli.get_command(cli.context_class(cli), rest[0])
        command.make_context(rest[0], list(rest[1:]))
    elif program == "pip":
        extras = re.findall(r"care-lab\[(\w+)\]", " ".join(rest))
        assert rest[0] == "install" and extras
        assert all(re.search(rf"^{extra} = \[", _project(), re.M) for extra in extras)
    elif program == "git":
        assert rest[0] == "apply" and (ROOT / rest[1]).exists()
    else:
        assert re.fullmatch(r"[A-Z_]+=\S+", rest[0])


def invoke(arguments: list[str]) -> tuple[int, str, str]:
    """Run a command in this process: its exit code, stdout, and what went wrong."""
    done = CliRunner().invoke(app, arguments)
    wrong = "" if isinstance(done.exception, SystemExit | None) else repr(done.exception)
    return done.exit_code, done.stdout, wrong or done.stderr


def _run(shown: Shown, name: str, given: list[str]) -> None:
    chosen = RUN.get(shown.page, "digits-care-simclr")
    given = [runs.find(Path("runs"), chosen).id if word == "RUN" else word for word in given]
    if "--epoch" in given:  # the one that the test's run has
        given[given.index("--epoch") + 1] = "1"
    extra = ["--dry-run"] if name in SUBMITS and "--dry-run" not in given else []
    code, _, wrong = invoke([*name.split(), *given, *extra])
    # what a doctor finds is this machine's, not the documentation's
    assert code in ((0, 3) if name == "doctor" else (0,)), wrong


def _parsed(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`python FILE …`: its own parser takes the arguments."""
    path = ROOT / words[0]
    assert path.exists()
    if path.parent.name != "benchmarks":
        return

    class Parsed(Exception):
        pass

    def parse(parser: argparse.ArgumentParser) -> None:
        assert parser.parse_known_args()[1] == []
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(Parsed):
        importlib.import_module(path.stem).main()


def _project() -> str:
    return (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def patched(folder: Path, name: str) -> int:
    """Copy the engine to a folder and apply docs/examples/NAME.patch; the lines that it adds."""
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "care_core", folder / "care_core", ignore=skip)
    patch = DOCS / "examples" / f"{name}.patch"
    subprocess.run(["git", "apply", str(patch)], cwd=folder, check=True)
    lines = patch.read_text(encoding="utf-8").splitlines()
    return sum(line.startswith("+") and not line.startswith("+++") for line in lines)
