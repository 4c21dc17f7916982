"""Writes commands.md from the command line itself: `python docs/commands.py > docs/commands.md`.

What a command prints with --json is said here, once; a test asks each command for its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import typer

from carectl.app import app

PLAN = "of each run: run, kind, action, reason, depends, gpu_hours, gpu_hours_by, sha256"
RUNS = (
    "of each run: run, kind, name, sha256, state, reason, attempts, progress, result, mlflow, path"
)
DRY = {"dry_run": "true, with --dry-run", "sbatch": "with --dry-run: the batch files for SLURM"}
REPORT = {
    "profile": "which one",
    "report": "paths of the first target's files; for all, of the page",
    "reports": "by target: paths of html, csv, json, pictures and so on",
    "documents": "by target: tables, figures, findings, and what differs, as values",
    "left_out": "of all: why, by target, for those that have nothing of what is asked",
}

#: Top-level keys beside version and command. `logs`, `ui`, `spec schema`, `data prepare` and `data
#: verify` have no --json.
JSON: dict[str, dict[str, str]] = {
    "pretrain": {"plan": PLAN, "runs": RUNS, "detached": "true after Ctrl-C", **DRY},
    "eval": {"plan": PLAN, "runs": RUNS, "plots": "with --plots: paths", **DRY},
    "reproduce": {**REPORT, "plan": PLAN, "states": "by run: state and reason", **DRY},
    "report": REPORT,
    "status": {"as_of": "seconds since 1970", "runs": RUNS},
    "cancel": {"runs": "of each run: run, cancelled, blocked (the runs that waited for it)"},
    "retry": {"plan": PLAN, "runs": RUNS, **DRY},
    "import": {
        "checkpoint": "the file that was written",
        "source": "file, sha256, layout",
        "epoch": "of the file, if it says so",
        "official_knn": "accuracy that the file tells, %",
        "chosen_on_test": "whether the file was chosen by it",
        "left_out": "names of weights that encode nothing",
        "assumed": "sentences: what the file does not say",
        "spec": "the spec that it became",
    },
    "export": {
        "folder": "where to",
        "files": "their names",
        "description": "what NAME.json says of them",
    },
    "doctor": {"findings": "of each: level (ok, warn, fail), subject, said, remedy"},
    "bench": {
        "measured": "of each spec: times, floors, phases, memory",
        "projected": "by recipe: hours, and by which bench",
        "kept": "files below the runs folder",
        "scaling": "with --scaling, and then alone",
    },
    "spec check": {"spec": "its name", "good": "true"},
    "spec show": {
        "spec": "every setting",
        "preset": "what the preset chose",
        "official": "what the recipe's official section set",
    },
    "spec diff": {"one": "as given", "other": "as given", "differences": "by key: [left, right]"},
    "data list": {"datasets": "of each: name, present, path, detail"},
}

INTRO = """\
<!-- Written by docs/commands.py; a test holds it to the command line. -->
# Commands

SPEC is a YAML file or the name of a shipped recipe; RUN is a run's id, a unique prefix of it, or
its name. `-o key=value` goes over a spec, in every command that reads one. Results go to stdout,
progress to stderr. Each command ends with one next step, `Next: …`, which is on stderr where stdout
is to be kept in a file (`logs`, `spec show`, `spec schema`, `spec diff`); an error names it.

With `--json` a command prints one object on stdout and nothing else there. It always has `version`
(1) and `command`; below, each command has the keys that come beside them. An error is
`{"version": 1, "error": {"message", "exit_code", "problems"}}`, where problems of a spec have file,
line, column and message. The exit codes are in [runs](runs.md#exit-codes).
"""


def commands() -> Iterator[tuple[str, Any]]:
    """Every command's name, without `carectl`, and its context, from which it can be parsed."""
    root: Any = typer.main.get_command(app)
    at = root.context_class(root, info_name="carectl", terminal_width=96, max_content_width=96)
    for name, command in root.commands.items():
        context = command.context_class(command, info_name=name, parent=at)
        if not hasattr(command, "commands"):
            yield name, context
        for inner, deeper in getattr(command, "commands", {}).items():
            yield f"{name} {inner}", command.context_class(deeper, info_name=inner, parent=context)


def page() -> str:
    """The whole of commands.md."""
    parts = [INTRO]
    for name, context in commands():
        text = inspect.cleandoc(context.get_help())
        lines = "\n".join(line.rstrip() for line in text.splitlines())
        parts.append(f"\n## carectl {name}\n\n```text\n{lines}\n```\n")
        if name in JSON:
            rows = "\n".join(f"| `{key}` | {said} |" for key, said in JSON[name].items())
            parts.append(f"\n| JSON | |\n|---|---|\n{rows}\n")
    return "".join(parts)


if __name__ == "__main__":
    print(page(), end="")
