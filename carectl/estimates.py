"""How long a planned run may take, judged by the runs here that did the same work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from care_core.facts import DATASETS
from care_core.spec import PretrainSpec
from carectl import runs
from carectl.plan import Planned


class Estimate(NamedTuple):
    """Hours on all GPUs of a run together, and how many runs that is known from."""

    gpu_hours: float
    measured: int


def gpu_hours(runs_dir: Path, plan: Sequence[Planned]) -> dict[str, Estimate]:
    """By run id, for pretrainings still to be done whose speed is known from done ones."""
    known: dict[str, list[float]] = {}
    for run in runs.listing(runs_dir):
        result = run.result
        if result and result.get("images_per_s"):
            known.setdefault(_work(run.record["spec"]), []).append(result["images_per_s"])
    found = {}
    for planned in plan:
        if not isinstance(planned.spec, PretrainSpec) or planned.action not in ("new", "retry"):
            continue
        speeds = known.get(_work(planned.spec.model_dump(mode="json")))
        if speeds:
            spec = planned.spec
            size, batch = DATASETS[spec.data.name].pretrain_images, spec.training.batch_size
            images = spec.training.epochs * (size // batch) * batch
            hours = images / (sum(speeds) / len(speeds)) / 3600
            found[planned.run_id] = Estimate(hours * spec.launch.ranks, len(speeds))
    return found


def _work(spec: dict[str, Any]) -> str:
    """What the speed of a step depends on."""
    launch, term = spec.get("launch", {}), spec["equivariance"]
    return repr(
        [
            spec["data"],
            spec["model"],
            spec["method"]["name"],
            term["weight"] > 0 and (term["batch"] or "all"),
            spec["training"]["batch_size"],
            launch.get("gpus"),
            launch.get("nodes"),
        ]
    )
