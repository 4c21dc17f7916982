"""`carectl spec diff`: the settings in which two specs or runs differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from carectl import records, runs, specs
from carectl.console import steps
from carectl.console.output import Output
from carectl.errors import CommandError
from carectl.tracking import flatten


def show(one: str, other: str, overrides: Sequence[str], runs_dir: Path, output: Output) -> None:
    """Print `key: left → right` for each difference; a dash where a side has no such setting.

    Args:
        overrides: put over the second, which must be a spec then.
    """
    left = flatten(_fields(one, (), runs_dir))
    right = flatten(_fields(other, overrides, runs_dir))
    keys = sorted(key for key in left.keys() | right.keys() if left.get(key) != right.get(key))
    lines = [f"{key}: {left.get(key, '-')} → {right.get(key, '-')}" for key in keys]
    output.line(Text("\n".join(lines) or "the same"))
    found = {key: [left.get(key), right.get(key)] for key in keys}
    output.emit("spec diff", one=one, other=other, differences=found)
    output.next(f"{_command(other, overrides, runs_dir)} shows all of the second", aside=True)


def _command(text: str, overrides: Sequence[str], runs_dir: Path) -> str:
    """What shows one side whole."""
    try:
        run = runs.find(runs_dir, text)
    except CommandError:
        return f"carectl spec show {steps.spec(text, overrides)}"
    return f"carectl status {run.id}{steps.places(runs_dir)}"


def _fields(text: str, overrides: Sequence[str], runs_dir: Path) -> dict[str, Any]:
    try:
        run = runs.find(runs_dir, text)
    except CommandError:
        return dict(specs.load(specs.find(text), overrides).model_dump(mode="json"))
    if overrides:
        raise CommandError(f"-o goes over a spec; {run.id} is a run, as it was asked; leave -o out")
    if why := records.wrong(run.path / "spec.json"):
        raise CommandError(f"{run.id}: {why}")
    identity, code = run.record.get("identity", {}), records.read(run.path / "code.json") or {}
    return {
        **run.record.get("spec", {}),
        "dataset content": identity.get("dataset"),
        "numerics": identity.get("numerics"),
        "git commit": code.get("commit"),
        "uncommitted changes": bool(code.get("diff")),
        "packages": code.get("packages", {}),
    }
