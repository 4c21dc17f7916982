"""How long a planned run may take, judged by the runs here that did the same work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
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
    known: dict[str, list[dict[str, Any]]] = {}
    for run in runs.listing(runs_dir):
        result = run.result
        if run.record.get("kind") == "pretrain" and result and result.get("images_per_s"):
            known.setdefault(_work(run.record["spec"]), []).append(result)
    found = {}
    for planned in plan:
        if not isinstance(planned.spec, PretrainSpec) or planned.action not in ("new", "retry"):
            continue
        done = known.get(_work(planned.spec.model_dump(mode="json")), [])
        # how many images a folder has only its files can tell, or a run that read them
        size = DATASETS[planned.spec.data.name].pretrain_images or (
            done[0].get("images") if done else None
        )
        if done and size:
            speed = fmean(result["images_per_s"] for result in done)
            batch = planned.spec.training.batch_size
            hours = planned.spec.training.epochs * (size // batch) * batch / speed / 3600
            found[planned.run_id] = Estimate(hours * planned.spec.launch.ranks, len(done))
    return found


def _work(spec: dict[str, Any]) -> str:
    """What the speed of a step depends on. A record of an older spec has fewer settings."""
    launch, term, method = spec.get("launch", {}), spec["equivariance"], spec["method"]
    return repr(
        [
            spec["data"],
            spec["model"],
            method["name"],
            method.get("base", {}).get("name"),
            term["weight"] > 0 and (term["batch"] or "all"),
            spec.get("bn"),
            spec["training"]["batch_size"],
            launch.get("gpus"),
            launch.get("nodes"),
        ]
    )
