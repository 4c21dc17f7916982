"""The hue regression: what the features hold is found, and nothing else is."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from care_core import hue


def noise(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def test_a_hue_that_the_features_hold_is_found_and_noise_explains_nothing() -> None:
    hues, truth = (torch.rand(n, generator=torch.Generator().manual_seed(n)) for n in (900, 300))

    def features(hues: Tensor, seed: int) -> Tensor:
        angle = 2 * math.pi * hues[:, None]
        plain = torch.cat([angle.cos(), angle.sin(), noise(len(hues), 3, seed)], dim=1)
        return plain @ noise(5, 5, 0) * 7 + 3

    assert hue.r2(features(hues, 1), hues, features(truth, 2), truth) > 0.9999
    blind = hue.r2(noise(900, 5, 3), hues, noise(300, 5, 4), truth)
    assert -0.05 < blind <= 0.01
    # A feature that is linear in the hue is not the hue: it jumps where red meets red.
    assert 0.1 < hue.r2(hues[:, None], hues, truth[:, None], truth) < 0.9


def test_the_hue_regression_is_scikit_learns_ridge_on_standardised_features() -> None:
    hues, truth = torch.rand(80), torch.rand(50)
    x, y = noise(80, 4, 5) * 3 + 1 + hues[:, None], noise(50, 4, 6) * 3 + 1 + truth[:, None]
    mean, std = x.mean(dim=0), x.std(dim=0)
    ridge = Ridge(alpha=0.1 * 80).fit((x - mean) / std, hue.circle(hues))
    guess, goal = torch.from_numpy(ridge.predict((y - mean) / std)), hue.circle(truth)
    wanted = 1 - (goal - guess).square().sum() / (goal - goal.mean(dim=0)).square().sum()
    assert hue.r2(x, hues, y, truth, ridge=0.1) == pytest.approx(float(wanted), abs=1e-5)


def test_a_feature_that_is_constant_does_not_spoil_the_hue_regression() -> None:
    hues = torch.rand(100)
    x = torch.cat([hue.circle(hues).float(), torch.full((100, 1), 7.0)], dim=1)
    assert hue.r2(x, hues, x, hues) > 0.99
