"""What can be read from features by regression: R² on images that were not fitted."""

from __future__ import annotations

import torch
from torch import Tensor

#: Penalties that are tried, as shares of the kernel's mean eigenvalue.
_PENALTIES = tuple(10.0**power for power in range(-5, 3))


def ridge_guess(x: Tensor, goal: Tensor, y: Tensor, ridge: float) -> Tensor:
    """(M, t) float64 on the CPU: ridge regression of columns, with an intercept.

    Args:
        x, y: (N, D) and (M, D) features to fit and to read; standardised here, by x.
        goal: (N, t) float64 columns, on the CPU.
        ridge: penalty, as a share of the number of rows.
    """
    mean, std = x.mean(dim=0), x.std(dim=0).clamp_min(1e-6)
    x, y = (((rows - mean) / std).double().cpu() for rows in (x, y))
    centre = goal.mean(dim=0)
    penalty = ridge * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
    return centre + y @ torch.linalg.solve(x.T @ x + penalty, x.T @ (goal - centre))


def r2(
    x: Tensor, targets: dict[str, Tensor], y: Tensor, truths: dict[str, Tensor],
    *, products: bool = False,
) -> dict[str, float]:  # fmt: skip
    """R² of ridge regressions from standardised features, each with an intercept.

    The penalty is chosen for each column by the leave-one-out error of the fitted samples, which
    is exact and needs no refitting; what is read chooses nothing. All is float64.

    Args:
        x, y: (N, D) and (M, D) features to fit and to read.
        targets, truths: by name (N, c) and (M, c) columns, of which R² is of all c together: a
            point on the circle has two.
        products: of the features' products of degree 2 too, by the kernel (1 + ⟨u, v⟩ / D)².
            With R f(x) = f(a(x)) what turned is a product of both, and no sum.

    Returns:
        By name 1 − Σ(truth − guess)² / Σ(truth − mean)²: 1 where all is read, about 0 where
        nothing is, and below for a guess that is worse than their mean. nan where there is nothing
        to read, as all truths are equal.
    """
    mean, std = x.mean(dim=0), x.std(dim=0).clamp_min(1e-6)
    x, y = ((rows - mean).double() / std.double() for rows in (x, y))
    goal = torch.cat([part.double().to(x.device) for part in targets.values()], dim=1)
    truth = torch.cat([part.double().to(x.device) for part in truths.values()], dim=1)
    residual = (truth - _guess(x, goal, y, products)).square().sum(dim=0)
    total = (truth - truth.mean(dim=0)).square().sum(dim=0)
    found, start = {}, 0
    for name, part in targets.items():
        columns = slice(start, start := start + part.shape[1])
        whole = float(total[columns].sum())
        found[name] = 1 - float(residual[columns].sum()) / whole if whole > 0 else float("nan")
    return found


def _guess(x: Tensor, goal: Tensor, y: Tensor, products: bool) -> Tensor:
    """(M, t): kernel ridge regression of (N, t) columns, by an eigendecomposition of the kernel.

    Centred in the space of features, so that the intercept bears no penalty. With the kernel's
    eigenvectors Q and eigenvalues s, the fit is 1/N + Q diag(s / (s + λ)) Qᵀ, and the error of
    leaving a sample out is its residual over one minus its entry of the diagonal.
    """
    kernel, across = _kernel(x, x, products), _kernel(y, x, products)
    column = kernel.mean(dim=0)
    across = across - across.mean(dim=1, keepdim=True) - column + column.mean()
    kernel = kernel - column - column[:, None] + column.mean()
    values, vectors = torch.linalg.eigh(kernel)
    values = values.clamp_min(0)
    centre = goal.mean(dim=0)
    inner = vectors.T @ (goal - centre)  # (N, t)
    best, weights = None, torch.zeros_like(inner)
    for penalty in _PENALTIES:
        shrunk = 1 / (values + penalty * values.mean().clamp_min(1e-12))
        kept = 1 / len(x) + vectors.square() @ (values * shrunk)
        left = goal - centre - vectors @ ((values * shrunk)[:, None] * inner)
        error = (left / (1 - kept).clamp_min(1e-9)[:, None]).square().sum(dim=0)
        better = torch.ones_like(error, dtype=torch.bool) if best is None else error < best
        best = error if best is None else torch.where(better, error, best)
        weights = torch.where(better, shrunk[:, None] * inner, weights)
    return centre + across @ (vectors @ weights)


def _kernel(x: Tensor, y: Tensor, products: bool) -> Tensor:
    inner = x @ y.T / x.shape[1]
    return (1 + inner).square() if products else inner
