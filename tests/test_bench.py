"""`carectl bench`: what it says of a step hangs together, and is found again by a dry run."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from conftest import Project, tiny
from rich.console import Console

from care_core import methods
from care_core.bench import flops_per_image, measure
from care_core.bench.engine import PHASES, Engine
from care_core.bench.work import matrix_peak, passes
from care_core.distributed import ALONE
from care_core.spec import PretrainSpec
from care_core.views.feed import Feed
from carectl.console.bench import subject


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """A tiny spec, measured twice."""
    return measure([tiny()], 2, threads=1)[0]


def test_the_ratios_are_of_the_seconds_beside_them(found: dict[str, Any]) -> None:
    for kind in ("floor", "pooled_floor"):
        assert found[f"step_over_{kind}"] == pytest.approx(found["step_s"] / found[f"{kind}_s"])
    assert found["images_per_s"] == pytest.approx(128 / found["step_s"])
    assert found["flops_per_s"] == pytest.approx(found["flops_per_image"] * found["images_per_s"])
    assert found["share_of_peak"] == pytest.approx(
        found["flops_per_s"] / found["matrix_peak_flops_per_s"]
    )
    assert all(times["repeats"] == 2 for times in found["times"].values())
    assert all(0 < times["min_s"] <= times["median_s"] for times in found["times"].values())


def test_every_step_bears_its_share_of_what_is_recorded(found: dict[str, Any]) -> None:
    step = found["times"]["step"]["median_s"] + found["phases_s"]["record"]  # log.every_steps: 1
    assert found["step_s"] == pytest.approx(step)


def test_it_says_on_what_it_was_measured(found: dict[str, Any]) -> None:
    assert {key: found[key] for key in ("backbone", "batch", "precision", "image_size")} == {
        "backbone": "small", "batch": 128, "precision": "fp32", "image_size": 16,
    }  # fmt: skip
    assert found["device"]["kind"] in ("cpu", "cuda") and found["device"]["name"]
    assert found["device"]["torch"] == str(torch.__version__)
    assert set(found["phases_s"]) == {*PHASES, "record"}
    assert all(value > 0 for value in found["memory"].values())
    json.dumps(found)  # plain values


def test_two_precisions_are_measured_in_the_same_turns() -> None:
    lower = tiny(training={"epochs": 2, "batch_size": 128, "precision": "bf16"})
    both = measure([tiny(), lower], 1, threads=1)
    assert [one["precision"] for one in both] == ["fp32", "bf16"]
    assert both[0]["flops_per_image"] == both[1]["flops_per_image"]


def test_the_measured_step_is_the_one_that_trains(tmp_path: Any) -> None:
    """The same weights come out as of the engine's parts, put together here once more."""
    spec = tiny()
    engine = Engine(spec, torch.device("cpu"), tmp_path)
    feed = Feed(spec, engine.feed.images, ALONE, torch.device("cpu"))
    method = methods.build(spec, ALONE)
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-3, weight_decay=0.0)
    for step in feed.steps(0, 2):
        engine.step()
        loss, _ = method(step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for ours, theirs in zip(engine.stepper.method.parameters(), method.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_step_of_point_clouds_is_measured_as_it_trains() -> None:
    """Through the same feed as training; of a deepset's operations nothing is a convolution's."""
    spec = tiny(data={"name": "chains"}, model={"backbone": "deepset", "width": 8, "hidden": 16})
    found = measure([spec], 1, threads=1)[0]
    assert found["passes"] == 4
    assert found["flops_per_image"] > 0
    assert found["step_over_floor"] == pytest.approx(found["step_s"] / found["floor_s"])


def test_phases_are_parts_of_a_step_and_leave_the_method_as_it_was(tmp_path: Any) -> None:
    engine = Engine(tiny(), torch.device("cpu"), tmp_path)
    before = dict(vars(engine.stepper.method))
    phases = engine.phases()
    assert tuple(phases) == PHASES and all(seconds >= 0 for seconds in phases.values())
    assert vars(engine.stepper.method).keys() == before.keys()
    engine.step()
    assert engine.done == 2


def test_image_files_are_decoded_where_the_dataset_has_them(tmp_path: Any) -> None:
    spec = tiny(
        data={"name": "flowers102", "image_size": 16}, launch={"threads": 1, "workers": 0},
        training={"epochs": 1, "batch_size": 32},
    )  # fmt: skip
    engine = Engine(spec, torch.device("cpu"), tmp_path)
    engine.step()
    engine.close()
    assert engine.terms["loss"].isfinite()
    assert engine.feed.data_bound() is not None


@pytest.mark.parametrize(
    ("changes", "trained", "followed"),
    [
        ({"equivariance": {"weight": 0}}, 2, 0),
        ({}, 4, 0),
        ({"equivariance": {"weight": 0.1, "splits": 16, "batch": 64}}, 3, 0),
        ({"method": {"name": "moco", "queue": 1024}, "equivariance": {"weight": 0}}, 1, 1),
        ({"method": {"name": "byol"}, "equivariance": {"weight": 0}}, 2, 2),
        ({"method": {"name": "equimod"}, "equivariance": {"weight": 0}}, 3, 0),
        (
            {
                "method": {"name": "equimod", "base": {"name": "byol"}},
                "equivariance": {"weight": 0},
            },
            3,
            2,
        ),
    ],
)
def test_passes_are_what_goes_through_the_networks(
    changes: dict[str, Any], trained: float, followed: float
) -> None:
    spec = tiny(**changes)
    assert passes(spec) == (trained, followed)
    method, seen = methods.build(spec, ALONE), {True: 0, False: 0}
    networks = {id(method.encoder.backbone)}
    through = method.through

    def counted(network: Any, views: list[torch.Tensor]) -> list[torch.Tensor]:
        if next(iter(views)).ndim == 4:
            seen[id(network) in networks] += sum(len(view) for view in views)
        return through(network, views)

    for part in (method, getattr(method, "base", method)):
        part.through = counted
    from care_core.bench.engine import made_up

    images = made_up(spec, None)  # type: ignore[arg-type]
    method(next(Feed(spec, images, ALONE, torch.device("cpu")).steps(0, 1)))
    assert (seen[True] / 128, seen[False] / 128) == (trained, followed)


def test_operations_are_those_of_convolutions_and_products() -> None:
    """A ResNet-18 of 32 pixels has 0.5556e9 multiplications a pass, as papers count them."""
    spec = PretrainSpec.model_validate(
        {"name": "x", "data": {"name": "cifar10"}, "model": {"backbone": "resnet18"}}
    )
    forward = 2 * 0.5556e9
    assert flops_per_image(spec) == pytest.approx(2 * 3 * forward, rel=0.01)
    care = spec.model_copy(update={"equivariance": tiny().equivariance})
    assert flops_per_image(care) == pytest.approx(2 * flops_per_image(spec))


def test_a_matrix_product_has_a_speed_at_each_precision() -> None:
    for precision in ("fp32", "bf16", "fp16"):
        assert matrix_peak(torch.device("cpu"), precision, 64) > 0


def test_what_was_measured_is_kept_and_found_by_a_dry_run(project: Project) -> None:
    file = project.write(tiny(training={"epochs": 3, "batch_size": 128}))
    told = project.json("bench", file, "--repeats", "1", "--threads", "1")
    (measured,) = told["measured"]
    assert [(project.path / path).exists() for path in told["kept"]] == [True]
    (planned,) = project.json("pretrain", file, "--dry-run")["plan"]
    hours = 3 * (1437 // 128) * 128 / measured["images_per_s"] / 3600
    assert planned["gpu_hours"] == pytest.approx(hours)
    assert planned["gpu_hours_by"].startswith("a bench of the same work on ")
    other = project.json("pretrain", file, "--dry-run", "-o", "model.hidden=32")["plan"][0]
    assert other["gpu_hours_by"].startswith("projection from a bench of small, batch 128, fp32 on")
    assert told["projected"]["digits/simclr"]["hours"] > 0


def test_the_tables_fit_a_terminal(project: Project) -> None:
    file = project.write(tiny())
    told = project.carectl("bench", file, "--repeats", "1", "--threads", "1", COLUMNS="80").stdout
    assert "floor: the same passes on ready tensors" in told
    assert "CARE-SimCLR" in told and "imagenet100" in told
    kept = [line for line in told.splitlines() if not line.startswith(("by ", "Next: "))]
    assert max(map(len, kept)) <= 80


def test_phases_that_do_not_add_up_to_the_step_are_doubted(found: dict[str, Any]) -> None:
    def told(factor: float) -> str:
        phases = {"forward": 0.4 * factor * found["step_s"], "backward": 0.6 * found["step_s"]}
        console = Console(width=200)
        with console.capture() as captured:
            console.print(subject({**found, "phases_s": phases}))
        return captured.get()

    assert "disturbed" not in told(1.0) and "disturbed" not in told(1.3)
    assert "add up to 1.20 of the step: the machine was disturbed" in told(1.5)
    assert "add up to 0.80 of" in told(0.5)
