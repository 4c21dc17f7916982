"""Optimisers and learning rates: each a formula, followed by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FAST, tiny
from ranks import newest, rows
from torch import Tensor, nn

from care_core import methods, pretrain
from care_core.distributed import ALONE
from care_core.optim import build_optimizer, learning_rate
from care_core.spec import Optimizer, Schedule


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"name": "constant"}, {0: 1, 3.5: 1, 7.9: 1}),
        ({"name": "cosine"}, {0: 1, 2: (1 + math.sqrt(0.5)) / 2, 4: 0.5, 8: 0}),
        ({"name": "cosine", "warmup_epochs": 4},
         {0: 0.2, 1: 0.4, 1.5: 0.5, 3: 0.8, 4: 1, 5: (1 + math.sqrt(0.5)) / 2, 6: 0.5, 8: 0}),
        ({"name": "constant", "warmup_epochs": 1}, {0: 0.5, 0.5: 0.75, 1: 1, 7: 1}),
        ({"name": "multistep", "milestones": [3, 5]},
         {0: 1, 2.99: 1, 3: 0.1, 4.99: 0.1, 5: 0.01, 7: 0.01}),
        ({"name": "multistep", "milestones": [3], "gamma": 0.5, "warmup_epochs": 3},
         {0: 0.25, 2: 0.75, 3: 0.5}),
    ],
)  # fmt: skip
def test_the_learning_rate_follows_its_schedule(
    schedule: dict[str, Any], expected: dict[float, float]
) -> None:
    plan = Schedule.model_validate(schedule)
    for base in (1.0, 3e-4):
        for epoch, share in expected.items():
            found = learning_rate(plan, base, epoch, 8)
            assert found == pytest.approx(base * share, rel=1e-12, abs=1e-15)


def test_a_run_trains_at_the_rates_of_its_schedule(tmp_path: Path) -> None:
    plan = {"name": "cosine", "warmup_epochs": 1}
    spec = tiny(**FAST, schedule=plan, optimizer={"name": "sgd", "lr": 0.1, "momentum": 0.5})
    pretrain(spec, tmp_path, threads=1)
    found = [value for key, value, _ in rows(tmp_path) if key == "lr"]
    assert found == [learning_rate(spec.schedule, 0.1, step / 5, 3) for step in range(15)]
    assert found[:5] == pytest.approx([0.05, 0.06, 0.07, 0.08, 0.09])
    (group,) = newest(tmp_path)["optimizer"]["param_groups"]
    assert (group["lr"], group["momentum"]) == (found[-1], 0.5)


def steps_taken(spec: Optimizer) -> tuple[Tensor, list[Tensor]]:
    """A parameter's start, and its values over four steps down (p³ + p).sum()."""
    layer = nn.Linear(3, 2, bias=False).double()
    start = layer.weight.detach().clone()
    optimizer = build_optimizer(spec, layer)
    found = []
    for _ in range(4):
        optimizer.zero_grad()
        (layer.weight**3 + layer.weight).sum().backward()
        optimizer.step()
        found.append(layer.weight.detach().clone())
    return start, found


def test_sgd_has_the_momentum_and_weight_decay_of_the_spec() -> None:
    start, found = steps_taken(Optimizer(name="sgd", lr=0.1, momentum=0.9, weight_decay=0.05))
    p, velocity = start, torch.zeros_like(start)
    for value in found:
        velocity = 0.9 * velocity + (3 * p**2 + 1 + 0.05 * p)
        p = p - 0.1 * velocity
        torch.testing.assert_close(value, p, rtol=1e-12, atol=0)


def test_adam_has_the_weight_decay_of_the_spec_as_an_l2_term() -> None:
    start, found = steps_taken(Optimizer(name="adam", lr=0.01, weight_decay=0.05))
    p, mean, square = start, torch.zeros_like(start), torch.zeros_like(start)
    for t, value in enumerate(found, 1):
        gradient = 3 * p**2 + 1 + 0.05 * p
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        p = p - 0.01 * (mean / (1 - 0.9**t)) / ((square / (1 - 0.999**t)).sqrt() + 1e-8)
        torch.testing.assert_close(value, p, rtol=1e-9, atol=0)


@pytest.mark.parametrize("decay", [0.3, 0.0])
def test_lars_follows_its_formula_and_leaves_biases_and_norms_as_sgd_does(decay: float) -> None:
    """v ← m v + η ‖p‖ / (‖g‖ + wd ‖p‖) · (g + wd p), p ← p − lr v; else v ← m v + g."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    network.double()
    spec = Optimizer(name="lars", lr=0.4, momentum=0.9, weight_decay=decay, trust=0.02)
    optimizer = build_optimizer(spec, network)
    images = torch.randn(8, 3, 4, 4, dtype=torch.float64)
    mine = {name: p.detach().clone() for name, p in network.named_parameters()}
    speed = {name: torch.zeros_like(p) for name, p in mine.items()}
    for _ in range(3):
        optimizer.zero_grad()
        network(images).square().mean().backward()
        optimizer.step()
        for name, parameter in network.named_parameters():
            p, gradient = mine[name], parameter.grad
            assert gradient is not None
            change = gradient
            if name in ("0.weight", "3.weight"):
                trust = 0.02 * p.norm() / (gradient.norm() + decay * p.norm())
                change = trust * (gradient + decay * p)
            speed[name] = 0.9 * speed[name] + change
            mine[name] = p - 0.4 * speed[name]
            # timm adds an ε of 1e-8 to the denominator
            torch.testing.assert_close(parameter.detach(), mine[name], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["adam", "sgd", "lars"])
def test_every_trained_parameter_is_in_one_group_and_no_other(name: str) -> None:
    spec = tiny(method={"name": "byol", "hidden": 8})
    method = methods.build(spec, ALONE)
    optimizer = build_optimizer(Optimizer.model_validate({"name": name}), method)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    wanted = {id(p) for part in (method.encoder, method.predictor) for p in part.parameters()}
    assert len(held) == len(set(held))
    assert set(held) == wanted


def test_all_groups_of_lars_follow_the_schedule(tmp_path: Path) -> None:
    optimizer = {"name": "lars", "lr": 0.1, "weight_decay": 0.1}
    pretrain(tiny(**FAST, schedule={"name": "cosine"}, optimizer=optimizer), tmp_path, threads=1)
    groups = newest(tmp_path)["optimizer"]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    last = [value for key, value, _ in rows(tmp_path) if key == "lr"][-1]
    assert 0 < last < 0.01
    assert [group["lr"] for group in groups] == [last, last]
