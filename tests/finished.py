"""Runs that look finished: the folders of a target's plan, with results that nobody computed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from care_core.files import write_json
from carectl import runs
from carectl.plan import Planned, Planner
from carectl.targets.context import Answer, Context

Measure = Callable[[Answer], dict[str, Any] | None]
CODE = {"commit": "0123456789abcdef0123", "diff": ""}


def probe_result(backbone: list[float], **other: Any) -> dict[str, Any]:
    """What a probe of digits leaves."""
    return {
        "kind": "probe", "measured_on": "test", "images": 360, "seconds": 3.25,
        "linear": {"backbone": backbone, "projection": [x - 3 for x in backbone]},
        "knn": {"backbone": backbone[0] - 2, "projection": backbone[0] - 5},
        "hue_r2": {"backbone": 0.93, "projection": 0.81},
        "geometry": {"gamma": 1.25, "wahba": 0.41}, **other,
    }  # fmt: skip


def finish(
    planned: Planned, runs_dir: Path, result: dict[str, Any], tracking: dict[str, str] | None = None
) -> None:
    """Make the folder of a planned run, as if it were done."""
    record = {
        "kind": planned.kind,
        "name": planned.name,
        "spec": planned.spec.model_dump(mode="json"),
    }
    run = runs.create(runs_dir, planned.identity, record, planned.yaml)
    write_json(run.path / "code.json", CODE)
    write_json(run.path / "job.json", {"source_run": planned.source_run, "tracking": tracking})
    (run.path / "result.json").write_text(json.dumps(result))


def table1(
    runs_dir: Path, measure: Measure, profile: str = "digits",
    tracking: dict[str, str] | None = None, **asked: Any,
) -> Context:  # fmt: skip
    """A context of Table 1 whose cells are done where `measure` gives a probe's result."""
    context = Context("table1", profile, Planner(runs_dir, runs_dir.parent / "data"), **asked)
    for answer in context.answers:
        found = measure(answer)
        if found is not None:
            done = {"kind": "pretrain", "seconds": 51.5}
            finish(answer.trained, runs_dir, done, tracking)
            finish(answer.probed, runs_dir, found, tracking)
    return context
