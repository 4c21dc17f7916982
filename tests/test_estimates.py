"""Hours of a plan: done runs before benches, benches of the same work before projections."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny

from care_core.bench import flops_per_image
from care_core.spec import PretrainSpec
from carectl import estimates, wording
from carectl.estimates import Bench, Estimate
from carectl.identity import Identity
from carectl.plan import Planned


def measured(spec: PretrainSpec, images_per_s: float, kind: str = "cpu") -> dict[str, Any]:
    """What `carectl bench` finds of a spec, as far as estimates read it."""
    return {
        "device": {"kind": kind, "name": f"a {kind}", "threads": 2, "torch": "2.11"},
        "backbone": spec.model.backbone,
        "batch": spec.training.batch_size,
        "precision": spec.training.precision,
        "images_per_s": images_per_s,
        "flops_per_image": flops_per_image(spec),
    }


def bench(spec: PretrainSpec, images_per_s: float, kind: str = "cpu") -> Bench:
    found = measured(spec, images_per_s, kind)
    return Bench(spec.model_dump(mode="json"), found, "2026-01-01")


def estimate(runs_dir: Path, spec: PretrainSpec) -> Estimate | None:
    identity = Identity({}, "0" * 64, "new")
    planned = Planned("pretrain", "x", identity, spec, "", spec.launch, run_id="new")
    return estimates.gpu_hours(runs_dir, [planned]).get("new")


def hours(spec: PretrainSpec, images_per_s: float) -> float:
    images = 1437 // 128 * 128
    return spec.training.epochs * images / images_per_s / 3600


def test_a_done_run_is_believed_before_a_bench_and_a_bench_before_a_projection(
    tmp_path: Path,
) -> None:
    asked, wider = tiny(), tiny(model={"backbone": "small", "width": 8, "hidden": 16})
    assert estimate(tmp_path, asked) is None
    estimates.keep(tmp_path, wider, measured(wider, 100.0))
    projected = estimate(tmp_path, asked)
    speed = 100.0 * flops_per_image(wider) / flops_per_image(asked)
    assert projected and projected.source == "projection"
    assert projected.gpu_hours == pytest.approx(hours(asked, speed))
    estimates.keep(tmp_path, asked, measured(asked, 70.0))
    same = estimate(tmp_path, asked)
    assert same and same.source == "bench" and same.gpu_hours == pytest.approx(hours(asked, 70))
    assert same.words.startswith("about 0.0") and "CPU-hours by a bench of the same" in same.words
    (tmp_path / "run").mkdir()
    record = {"kind": "pretrain", "spec": asked.model_dump(mode="json")}
    (tmp_path / "run" / "spec.json").write_text(json.dumps(record))
    (tmp_path / "run" / "result.json").write_text(json.dumps({"images_per_s": 50.0}))
    done = estimate(tmp_path, asked)
    assert done and done.source == "done" and done.origin == "1 done"
    assert done.gpu_hours == pytest.approx(hours(asked, 50))


def test_measuring_again_replaces_what_was_measured(tmp_path: Path) -> None:
    first = estimates.keep(tmp_path, tiny(), measured(tiny(), 10.0))
    assert estimates.keep(tmp_path, tiny(seed=1), measured(tiny(), 20.0)) == first
    assert [kept.found["images_per_s"] for kept in estimates.kept(tmp_path)] == [20.0]
    lower = tiny(training={"epochs": 2, "batch_size": 128, "precision": "bf16"})
    assert estimates.keep(tmp_path, lower, measured(lower, 30.0)) != first
    assert estimates.keep(tmp_path, tiny(), measured(tiny(), 30.0, "cuda")) != first


def test_a_projection_is_from_the_same_precision_then_the_nearest_network() -> None:
    asked = tiny(model={"backbone": "small", "width": 6, "hidden": 16})
    lower = tiny(training={"epochs": 2, "batch_size": 128, "precision": "bf16"})
    large = tiny(model={"backbone": "small", "width": 64, "hidden": 16})
    found = estimates.by_bench(asked, [bench(lower, 1.0), bench(large, 2.0), bench(tiny(), 3.0)])
    speed = 3.0 * flops_per_image(tiny()) / flops_per_image(asked)
    assert found and found.gpu_hours == pytest.approx(hours(asked, speed))
    assert found.origin == "projection from a bench of small, batch 128, fp32 on a cpu, 2 threads"


def test_a_gpu_s_bench_counts_unless_the_spec_asks_for_no_gpu() -> None:
    both = [bench(tiny(), 5.0), bench(tiny(), 500.0, "cuda")]
    on_gpu = estimates.by_bench(tiny(), both)
    assert on_gpu and on_gpu.gpu_hours == pytest.approx(hours(tiny(), 500))
    assert "GPU-hours" in on_gpu.words and not on_gpu.on_cpu
    without = estimates.by_bench(tiny(launch={"gpus": 0, "threads": 1}), both)
    assert without and without.on_cpu


def test_hours_are_written_without_exponents() -> None:
    assert [wording.number(x) for x in (0.0421, 3.44, 18.2, 99.6, 1934.0)] == [
        "0.042", "3.4", "18", "100", "1,900",
    ]  # fmt: skip
