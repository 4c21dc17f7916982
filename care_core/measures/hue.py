"""The hue of images, and how much an embedding knows of it, which an invariant one forgets."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from care_core.measures.regression import r_squared, ridge_predict

#: Images that are looked at together.
_CHUNK = 64

#: Mean chroma below which an image counts as grey.
_GREY = 0.02


def r2(
    x_train: Tensor, hues_train: Tensor, x_test: Tensor, hues_test: Tensor, ridge: float = 1e-3
) -> float:
    """R² of a ridge regression of the hue, as a point on the circle, from standardised features.

    Args:
        x_train, x_test: (N, n) and (M, n) features to fit and to read.
        hues_train, hues_test: (N,) and (M,) hues in turns, on the CPU.
        ridge: penalty, as a share of the number of rows.
    """
    predicted = ridge_predict(x_train, circle(hues_train), x_test, ridge)
    return r_squared(circle(hues_test), predicted)


def circle(hues: Tensor) -> Tensor:
    """(N,) hues in turns → (N, 2) points on the unit circle, float64."""
    angle = 2 * math.pi * hues.double()
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def distance(a: Tensor, b: Tensor) -> Tensor:
    """How far apart two hues in turns lie on the circle, in turns: 0 to 0.5, by chance 0.25."""
    return ((a - b + 0.5) % 1 - 0.5).abs()


def of(images: Tensor) -> tuple[Tensor, Tensor]:
    """The mean hue of images, and how much there is to it.

    The mean of its pixels' hues (HSV) on the circle, each weighted by its chroma, so that what is
    dark or grey says nothing. A shift of all hues shifts it by just as much.

    Args:
        images: (n, 3, H, W) uint8.

    Returns:
        (n,) hues in turns from 0 to 1, and (n,) their certainty: the length of that mean, which is
        1 where all pixels have one hue and near 0 where they have all; less for greyish images.
    """
    means, certainties = zip(*(_of(part) for part in images.split(_CHUNK)), strict=True)
    return torch.cat(means), torch.cat(certainties)


def _of(images: Tensor) -> tuple[Tensor, Tensor]:
    x = images.float() / 255
    r, g, b = x.unbind(1)
    least, most = torch.aminmax(x, dim=1)
    chroma = most - least
    divisor = chroma.clamp_min(1e-12)
    sixths = torch.where(
        most == r,
        (g - b) / divisor,
        torch.where(most == g, (b - r) / divisor + 2, (r - g) / divisor + 4),
    )
    angle = math.pi / 3 * sixths
    mean = torch.stack([chroma * angle.cos(), chroma * angle.sin()]).mean(dim=(2, 3))
    certainty = mean.norm(dim=0) / chroma.mean(dim=(1, 2)).clamp_min(_GREY)
    return torch.atan2(mean[1], mean[0]) / (2 * math.pi) % 1, certainty
