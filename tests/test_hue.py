"""The hue of images, and its regression: what the features hold is found, and nothing else is."""

from __future__ import annotations

import math

import digit_files
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from care_core.measures import hue


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


def test_distances_go_the_shorter_way_around_the_circle() -> None:
    a, b = torch.tensor([0.1, 0.95, 0.0, 0.3]), torch.tensor([0.3, 0.05, 0.5, 1.3])
    torch.testing.assert_close(hue.distance(a, b), torch.tensor([0.2, 0.1, 0.5, 0.0]))
    torch.testing.assert_close(hue.distance(b, a), hue.distance(a, b))


def test_the_hue_of_a_tinted_digit_is_the_one_it_was_tinted_with() -> None:
    images = digit_files.digits("test", 200)
    assert images.hues is not None
    found, certainty = hue.of(images.images)
    assert float(hue.distance(found, images.hues).max()) < 0.01
    assert float(certainty.min()) > 0.99


def test_a_shift_of_the_hue_shifts_the_mean_hue_of_a_picture_of_many_by_as_much() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (20, 3, 6, 6), dtype=torch.uint8, generator=generator)
    pixels[:, 0] = pixels[:, 0] // 2 + 127  # rather red, so that there is a mean to speak of
    before, sure = hue.of(pixels)
    unit = TF.adjust_hue(pixels.double() / 255, 0.3)
    after, still_sure = hue.of((unit * 255).round().to(torch.uint8))
    assert float(hue.distance(after, before + 0.3).max()) < 0.01
    torch.testing.assert_close(sure, still_sure, atol=0.01, rtol=0)


def test_a_grey_picture_and_one_of_all_hues_have_none() -> None:
    gray = torch.randint(0, 256, (1, 1, 8, 8), dtype=torch.uint8).expand(1, 3, 8, 8)
    wheel = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=torch.uint8)
    assert float(hue.of(gray)[1]) == 0
    assert float(hue.of(wheel.T.reshape(1, 3, 1, 3))[1]) < 1e-3
