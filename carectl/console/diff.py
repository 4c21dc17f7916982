"""`carectl spec diff`: the settings in which two specs or runs differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from care_core.files import read_json
from carectl import runs, specs
from carectl.errors import CommandError
from carectl.tracking import flatten


def show(one: str, other: str, runs_dir: Path) -> None:
    """Print `key: left → right` for each difference."""
    left, right = flatten(_fields(one, runs_dir)), flatten(_fields(other, runs_dir))
    lines = [
        f"{key}: {left.get(key, '-')} → {right.get(key, '-')}"
        for key in sorted(left.keys() | right.keys())
        if left.get(key) != right.get(key)
    ]
    print("\n".join(lines) if lines else "the same")


def _fields(text: str, runs_dir: Path) -> dict[str, Any]:
    try:
        run = runs.find(runs_dir, text)
    except CommandError:
        return dict(specs.load(specs.find(text)).model_dump(mode="json"))
    identity, code = run.record["identity"], read_json(run.path / "code.json") or {}
    return {
        **run.record["spec"],
        "dataset content": identity.get("dataset"),
        "numerics": identity.get("numerics"),
        "git commit": code.get("commit"),
        "uncommitted changes": bool(code.get("diff")),
        "packages": code.get("packages", {}),
    }
