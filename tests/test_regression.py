"""Regression from features: what they hold is found, and nothing else is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import RidgeCV
from torch import Tensor

from care_core.measures import regression


def noise(rows: int, columns: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def one(x: Tensor, target: Tensor, y: Tensor, truth: Tensor, *, products: bool = False) -> float:
    found = regression.r2(x, {"a": target}, y, {"a": truth}, products=products)
    return found["a"]


@pytest.mark.parametrize("products", [False, True])
def test_a_parameter_that_is_linear_in_the_features_is_read_and_noise_is_not(
    products: bool,
) -> None:
    x, y = 7 * noise(400, 6, 1) + 3, 7 * noise(200, 6, 2) + 3
    weights = noise(6, 2, 3)
    found = regression.r2(
        x, {"held": x @ weights + 5, "noise": noise(400, 1, 4)},
        y, {"held": y @ weights + 5, "noise": noise(200, 1, 5)}, products=products,
    )  # fmt: skip
    assert found["held"] > 0.999
    assert -0.1 < found["noise"] < 0.05


def test_how_far_a_point_was_turned_is_a_product_and_no_sum() -> None:
    def pairs(count: int, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        angle, turn = 2 * math.pi * torch.rand(2, count, generator=generator, dtype=torch.float64)
        ends = [angle.cos(), angle.sin(), (angle + turn).cos(), (angle + turn).sin()]
        return torch.stack(ends, dim=1), torch.stack([turn.cos(), turn.sin()], dim=1)

    (x, target), (y, truth) = pairs(600, 1), pairs(200, 2)
    assert abs(one(x, target, y, truth)) < 0.05
    assert one(x, target, y, truth, products=True) > 0.999


def test_the_penalty_is_the_one_that_leaving_one_out_prefers() -> None:
    x, y = noise(60, 40, 1), noise(50, 40, 2)
    weights = noise(40, 1, 3)
    target, truth = x @ weights + 8 * noise(60, 1, 4), y @ weights
    mean, std = x.mean(dim=0), x.std(dim=0)
    a, b = ((rows - mean) / std / math.sqrt(40) for rows in (x, y))
    size = float(torch.linalg.eigvalsh(a @ a.T).mean())
    ridge = RidgeCV(alphas=[size * 10.0**power for power in range(-5, 3)])
    guess = ridge.fit(a.numpy(), target[:, 0].numpy()).predict(b.numpy())
    residual = (truth[:, 0].numpy() - guess) ** 2
    wanted = 1 - residual.sum() / ((truth - truth.mean()) ** 2).sum().item()
    assert 1e-5 < ridge.alpha_ / size < 100  # neither end of what is tried
    assert one(x, target, y, truth) == pytest.approx(float(wanted), abs=1e-6)


def test_products_are_those_of_the_polynomial_kernel_with_an_intercept() -> None:
    x, y = noise(80, 3, 1), noise(40, 3, 2)
    target, truth = x[:, :1] * x[:, 1:2], y[:, :1] * y[:, 1:2]
    a, b = ((rows - x.mean(dim=0)) / x.std(dim=0) for rows in (x, y))
    shift = float(target.mean())
    fitted = KernelRidge(alpha=1e-6, kernel="polynomial", degree=2, gamma=1 / 3, coef0=1)
    guess = fitted.fit(a.numpy(), target.numpy() - shift).predict(b.numpy()) + shift
    assert np.allclose(guess, truth.numpy(), atol=1e-3)
    assert one(x, target, y, truth, products=True) > 0.999


def test_more_features_than_samples_are_no_trouble() -> None:
    x, y = noise(50, 200, 1), noise(30, 200, 2)
    x[:, 0], y[:, 0] = 4.0, 4.0
    weights = noise(200, 1, 3)
    assert 0 < one(x, x @ weights, y, y @ weights) < 0.9
    assert one(x, x @ weights, y, noise(30, 1, 4)) < 0.1


@pytest.mark.parametrize("products", [False, True])
def test_of_features_that_do_not_vary_the_mean_is_read(products: bool) -> None:
    same, target, truth = torch.ones(50, 5), noise(50, 1, 1), noise(30, 1, 2)
    off = (truth - target.mean()).square().sum() / (truth - truth.mean()).square().sum()
    found = one(same, target, same[:30], truth, products=products)
    assert found == pytest.approx(1 - float(off))


def test_of_what_does_not_vary_nothing_is_said() -> None:
    x, y = noise(20, 3, 1), noise(10, 3, 2)
    assert math.isnan(one(x, torch.ones(20, 1), y, torch.ones(10, 1)))
