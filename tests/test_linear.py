"""The linear probe's classifier: what it learns, by which seed, and what it reports."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from care_core import models
from care_core.measures import linear
from care_core.measures.features import Features
from care_core.measures.linear import Stored, classify
from care_core.spec import LinearProbe, Optimizer, Schedule


def clusters(count: int, seed: int) -> tuple[Features, Tensor]:
    """Three separable clouds in 5 dimensions; of the projection nothing is to be learnt."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    cloud = torch.eye(5)[labels] * 4 + torch.randn(count, 5, generator=generator) * 0.3
    return Features(cloud, torch.randn(count, 4, generator=generator)), labels


def stored(known: Features, labels: Tensor, asked: Features, batch: int, seed: int = 0) -> Stored:
    return Stored(known, labels, asked, seed=seed, batch_size=batch)


@pytest.mark.parametrize(
    ("name", "rate"), [("adam", 1e-2), ("sgd", 1.0), ("lars", 20.0)], ids=["adam", "sgd", "lars"]
)
def test_what_is_separable_is_separated_and_read_on_the_other_rows(name: str, rate: float) -> None:
    (x, labels), (y, truth) = clusters(300, 1), clusters(90, 2)
    probe = LinearProbe.model_validate(
        {"epochs": 40, "batch_size": 32, "optimizer": {"name": name, "lr": rate}}
    )
    found = classify(probe, 0, stored(x, labels, y, 32), truth, 3)
    assert found["backbone"].reported == 100
    assert 15 < found["projection"].reported < 60
    wrong = classify(probe, 0, stored(x, labels, y, 32), (truth + 1) % 3, 3)
    assert wrong["backbone"].reported == 0


def test_a_classifier_depends_on_its_seed_alone() -> None:
    (x, labels), (y, truth) = clusters(300, 1), clusters(90, 2)
    noise = torch.randn(300, 5, generator=torch.Generator().manual_seed(4))
    noisy = Features(x.backbone + 3 * noise, x.projection)
    probe = LinearProbe(epochs=1, batch_size=64, optimizer=Optimizer(lr=1e-2))

    def accuracies(outside: int, seeds: range) -> list[float]:
        torch.manual_seed(outside)
        found = [classify(probe, s, stored(noisy, labels, y, 64, s), truth, 3) for s in seeds]
        return [scores["backbone"].reported for scores in found]

    first = accuracies(1, range(6))
    assert accuracies(2, range(5, -1, -1)) == first[::-1]
    assert len(set(first)) > 1


def test_each_epoch_visits_every_image_once_with_its_label() -> None:
    features = Features(torch.arange(70.0)[:, None], torch.arange(70.0)[:, None] * 2)
    made = stored(features, torch.arange(70), features, 32)
    epochs = [list(made.epoch(number)) for number in range(2)]
    assert made.steps == len(epochs[0]) == 3
    for batches in epochs:
        seen = torch.cat([labels for _, labels in batches])
        assert sorted(seen.tolist()) == list(range(70))
        for (backbone, projection), labels in batches:
            assert torch.equal(backbone[:, 0], labels.float())
            assert torch.equal(projection[:, 0], 2 * labels.float())
    assert not torch.equal(epochs[0][0][1], epochs[1][0][1])


def test_best_is_the_highest_of_all_epochs_and_last_the_last() -> None:
    (x, labels), (y, truth) = clusters(90, 1), clusters(60, 2)
    flipped = torch.where(torch.arange(90) % 2 == 0, labels, (labels + 1) % 3)
    curve = {
        name: [
            classify(
                LinearProbe(epochs=n, batch_size=16, optimizer=Optimizer(name="sgd", lr=2.0)),
                0, stored(x, flipped, y, 16), truth, 3,
            )[name].reported
            for n in range(1, 9)
        ]
        for name in Features._fields
    }  # fmt: skip
    probe = LinearProbe(
        epochs=8, batch_size=16, optimizer=Optimizer(name="sgd", lr=2.0), report="best"
    )
    found = classify(probe, 0, stored(x, flipped, y, 16), truth, 3)
    for name, values in curve.items():
        assert found[name].best == found[name].reported == max(values)
        assert found[name].last == values[-1]
    assert any(max(values) > values[-1] for values in curve.values())


@pytest.mark.parametrize("name", ["constant", "cosine", "multistep"])
def test_the_schedule_is_followed_step_by_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    build = linear.build_optimizer

    def watched(*arguments: Any) -> torch.optim.Optimizer:
        optimizer = build(*arguments)
        optimizer.register_step_pre_hook(
            lambda opt, *_: rates.append(float(opt.param_groups[0]["lr"]))
        )
        return optimizer

    monkeypatch.setattr(linear, "build_optimizer", watched)
    (x, labels), (y, truth) = clusters(90, 1), clusters(60, 2)
    schedule = {"name": name, "milestones": (2, 3) if name == "multistep" else ()}
    probe = LinearProbe(
        epochs=4, batch_size=32, optimizer=Optimizer(name="sgd", lr=30.0),
        schedule=Schedule.model_validate(schedule),
    )  # fmt: skip
    classify(probe, 0, stored(x, labels, y, 32), truth, 3)
    wanted = {
        "constant": [30.0] * 12,
        "cosine": [15 * (1 + math.cos(math.pi * step / 12)) for step in range(12)],
        "multistep": [30.0] * 6 + [3.0] * 3 + [0.3] * 3,
    }
    assert rates == pytest.approx(wanted[name])


def test_the_first_step_is_that_of_softmax_regression(monkeypatch: pytest.MonkeyPatch) -> None:
    heads: list[nn.Module] = []
    build = linear.build_optimizer
    monkeypatch.setattr(
        linear,
        "build_optimizer",
        lambda spec, module: (heads.append(module), build(spec, module))[1],
    )
    (x, labels), (y, truth) = clusters(60, 1), clusters(30, 2)
    probe = LinearProbe(epochs=1, batch_size=60, optimizer=Optimizer(name="sgd", lr=0.5))
    with models.seeded(7, "classifier"):
        weight, bias = nn.Linear(5, 3).parameters()
    classify(probe, 7, stored(x, labels, y, 60, seed=7), truth, 3)
    error = F.softmax(x.backbone @ weight.T + bias, dim=1) - F.one_hot(labels, 3)
    trained = dict(heads[0].named_parameters())
    torch.testing.assert_close(trained["0.weight"], weight - 0.5 * error.T @ x.backbone / 60)
    torch.testing.assert_close(trained["0.bias"], bias - 0.5 * error.mean(dim=0))
