"""What scripts and editors rely on is written down in tests/surface/: a change to it is a decision.

`CARE_FREEZE=1 pytest -n 0 tests/test_surface.py` writes it anew.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from carectl import scaling, specs
from carectl.app import app, main

FROZEN = Path(__file__).parent / "surface"
RENEW = "is another than tests/surface has; if that is decided: CARE_FREEZE=1 pytest -n 0 {}"
RUN = {"run": "digits-care-simclr-s0-0123456789ab", "sha256": "0123456789ab" * 5 + "0123"}


def held(name: str, found: Any) -> None:
    """That something is as it was written down; with CARE_FREEZE it is written."""
    path = FROZEN / f"{name}.json"
    now = json.loads(json.dumps(found))
    if os.environ.get("CARE_FREEZE"):
        path.write_text(json.dumps(now, indent=1, ensure_ascii=False) + "\n")
    assert now == json.loads(path.read_text()), f"{name} {RENEW.format('tests/test_surface.py')}"


def _parameter(param: Any) -> dict[str, Any]:
    default = param.default
    return {
        "names": [*param.opts, *param.secondary_opts],
        "value": None if getattr(param, "is_flag", False) else param.metavar,
        "default": str(default) if isinstance(default, Path) else default,
        "required": param.required,
        "many": bool(getattr(param, "multiple", False) or param.nargs != 1),
    }


def _commands(group: Any, prefix: str = "") -> dict[str, Any]:
    found = {}
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found |= _commands(command, f"{name} ")
        else:
            kinds: dict[str, list[Any]] = {"argument": [], "option": []}
            for param in command.params:
                kinds[param.param_type_name].append(_parameter(param))
            found[f"{prefix}{name}"] = {
                "arguments": kinds["argument"],
                "options": sorted(kinds["option"], key=lambda option: option["names"]),
            }
    return found


def test_commands_arguments_options_and_defaults() -> None:
    held("commands", _commands(typer.main.get_command(app)))


def test_the_schema_of_a_spec() -> None:
    held("spec", specs.schema())


def shape(value: Any) -> Any:
    """The keys of objects and the types of values; of a list its first item."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value[:1]]
    return (
        "number"
        if isinstance(value, int | float) and value is not True
        else str(type(value).__name__)
    )


@pytest.mark.parametrize(
    "asked",
    [
        "spec check digits/care-simclr", "spec show digits/care-simclr",
        "spec diff digits/simclr digits/care-simclr", "data list", "status",
        "pretrain digits/care-simclr --dry-run", "cancel digits-care-simclr",
        "pretrain digits/care-simclr -o seed=-1", "status none",
    ],
)  # fmt: skip
def test_the_shapes_of_json_outputs(
    asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    scaling.fill(tmp_path / "runs", [{**RUN, "kind": "pretrain"}])
    monkeypatch.setattr(sys, "argv", ["carectl", *asked.split(), "--json"])
    with pytest.raises(SystemExit):
        main()
    found = json.loads(capsys.readouterr().out)
    assert found["version"] == 1
    held(f"json/{asked.replace('/', '-').replace(' ', '_')}", shape(found))
