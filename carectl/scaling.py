"""How the cost of a plan, a status and a report grows with the runs: real commands on made runs."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from care_core.files import write_json
from carectl import specs
from carectl.runs import Run

SIZES = (10, 100, 1_000, 10_000)
_RECIPE, _ROW = "digits/care-simclr", "CARE-SimCLR"


class RunsCost(NamedTuple):
    """Wall-clock seconds of commands over so many runs, the start of the program included."""

    runs: int
    plan_s: float  #: a grid of new runs, planned in an empty folder
    planned_again_s: float  #: the same once all of them are done
    status_s: float
    report_s: float


def runs_costs(sizes: Sequence[int] = SIZES) -> Iterator[RunsCost]:
    """Time the commands over folders that are made for it; half of the runs are probes."""
    for size in sizes:
        with tempfile.TemporaryDirectory() as name:
            yield _at(Path(name), max(2, size // 2 * 2))


def _at(folder: Path, size: int) -> RunsCost:
    seeds = ",".join(str(seed) for seed in range(size // 2))
    grid = ["table1", "--profile", "digits", "--only", _ROW, "--seeds", seeds]
    plan = ["reproduce", *grid, "--dry-run", "--json"]
    repeats = 3 if size <= 1_000 else 1
    fresh, told = seconds(folder, *plan, repeats=repeats)
    fill(folder / "runs", json.loads(told)["plan"])
    again, _ = seconds(folder, *plan, repeats=repeats)
    status, _ = seconds(folder, "status", repeats=repeats)
    report, _ = seconds(folder, "report", *grid, repeats=repeats)
    return RunsCost(size, fresh, again, status, report)


def seconds(folder: Path, *arguments: str, repeats: int) -> tuple[float, str]:
    """The median wall-clock time of a command in a project folder, and what it printed."""
    command = [sys.executable, "-c", "from carectl.app import main; main()", *arguments]
    times, told = [], ""
    for _ in range(repeats):
        start = time.perf_counter()
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        times.append(time.perf_counter() - start)
        told = done.stdout
    return statistics.median(times), told


def fill(runs_dir: Path, plan: Sequence[dict[str, Any]]) -> None:
    """The folders of a plan's runs as they are once all are done."""
    spec = specs.load(specs.find(_RECIPE))
    values, determining = spec.model_dump(mode="json"), spec.determining()
    for number, planned in enumerate(plan):
        run = Run(runs_dir / planned["run"])
        (run.path / "attempts" / "1").mkdir(parents=True)
        record = {
            "sha256": planned["sha256"],
            "identity": {"spec": determining},
            "kind": planned["kind"],
            "name": spec.name,
            "spec": values if planned["kind"] == "pretrain" else {"probe": values["probe"]},
        }
        write_json(run.path / "spec.json", record, durable=False)
        write_json(run.path / "job.json", {"tracking": None}, durable=False)
        result: dict[str, Any] = {"images": 1437, "images_per_s": 1000.0, "metrics": {"loss": 4.2}}
        if planned["kind"] == "probe":
            scores = [90 + number % 7, 90.5 + number % 7]
            result = {"linear": {"backbone": scores}, "images": 360, "measured_on": "test"}
        write_json(run.path / "result.json", result, durable=False)
