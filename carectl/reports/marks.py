"""What a reported number must not be read without: its preset, its leaks, its changed settings.

All of it is derived from the runs' own specs, never from what somebody says they were.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from care_core.spec import PretrainSpec, fidelity
from carectl.runs import Run

SHOWN = 6  # changed settings that are told one by one


def of_runs(pretrain: Run, probe: Run, asked: str) -> tuple[str, tuple[str, ...]]:
    """The preset that a measurement followed, and what let test images or a bug into it.

    The evaluation counts as it was done: an encoder can be probed by another protocol than the
    one that its own spec names. Where nothing is measured it is the preset asked for.
    """
    if not probe.result:
        return asked, ()
    trained, probed = pretrain.record.get("spec") or {}, probe.record.get("spec") or {}
    values = {**trained, **({"probe": probed["probe"]} if "probe" in probed else {})}
    if probe.result.get("linear_report") == "best":
        linear = fidelity.value_of(values, "probe.linear") or {}
        values["probe"] = {"linear": {**linear, "report": "best"}}
    found = [f"{choice.leak} ({choice.number})" for choice in fidelity.leaks(values)]
    return str(trained.get("fidelity", "paper")), tuple(dict.fromkeys(found))


def changes(spec: PretrainSpec, recipe: PretrainSpec) -> tuple[str, ...]:
    """The settings that determine a result in which a spec is not its recipe."""
    from carectl.tracking import flatten

    asked, given = (flatten({**s.determining(), "probe": _probe(s)}) for s in (spec, recipe))
    return tuple(
        f"{key} {_shown(asked.get(key))} (recipe {_shown(given.get(key))})"
        for key in sorted(asked.keys() | given.keys())
        if asked.get(key) != given.get(key) and key not in ("seed", "name")
    )


def warning(preset: str, marks: Iterable[str]) -> str:
    """Why numbers cannot be put beside others; empty if they can."""
    told = ", ".join(marks)
    return f"{preset} preset: {told}: not comparable" if told else ""


def preset(name: str) -> str:
    """Which preset was followed."""
    return f"Fidelity preset: {name}."


def changed(settings: Iterable[str]) -> str:
    """Which settings are not the recipes'; empty if all are."""
    told = list(settings)
    more = f" and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
    return f"Not the recipes' settings: {', '.join(told[:SHOWN])}{more}." if told else ""


def joined(presets: Iterable[str]) -> str:
    """'paper', 'official', or both."""
    return " and ".join(sorted(dict.fromkeys(presets), reverse=True)) or "paper"


def _probe(spec: PretrainSpec) -> dict[str, Any]:
    return spec.probe.model_dump(mode="json")


def _shown(value: Any) -> str:
    return "-" if value is None else fidelity.word(value)
