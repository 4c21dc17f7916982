"""How much an embedding knows of an image's hue, which an invariant one forgets."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def r2(x: Tensor, hues: Tensor, y: Tensor, truth: Tensor, ridge: float = 1e-3) -> float:
    """R² of a ridge regression of the hue, as a point on the circle, from standardised features.

    Args:
        x, y: (N, n) and (M, n) features to fit and to read; hues, truth: their hues in turns.
        ridge: penalty, as a share of the number of rows.
    """
    mean, std = x.mean(dim=0), x.std(dim=0).clamp_min(1e-6)
    x, y = ((x - mean) / std).double().cpu(), ((y - mean) / std).double().cpu()
    target, goal = circle(hues), circle(truth)
    centre = target.mean(dim=0)
    penalty = ridge * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(x.T @ x + penalty, x.T @ (target - centre))
    residual = (goal - centre - y @ weights).square().sum()
    return float(1 - residual / (goal - goal.mean(dim=0)).square().sum())


def circle(hues: Tensor) -> Tensor:
    """(N,) hues in turns → (N, 2) points on the unit circle, float64."""
    angle = 2 * math.pi * hues.double()
    return torch.stack([angle.cos(), angle.sin()], dim=1)
