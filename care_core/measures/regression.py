"""What can be read from features by regression: R² on images that were not fitted."""

from __future__ import annotations

import torch
from torch import Tensor

#: Penalties that are tried, as shares of the kernel's mean eigenvalue.
_PENALTIES = tuple(10.0**power for power in range(-5, 3))


def ridge_predict(x_train: Tensor, y_train: Tensor, x_test: Tensor, ridge: float) -> Tensor:
    """(M, t) float64 predictions on the CPU: ridge regression of columns, with an intercept.

    Args:
        x_train, x_test: (N, D) and (M, D) features; standardised here, by those of training.
        y_train: (N, t) float64 targets, on the CPU.
        ridge: penalty, as a share of the number of rows.
    """
    mean, std = x_train.mean(dim=0), x_train.std(dim=0).clamp_min(1e-6)
    x, x_test = (((rows - mean) / std).double().cpu() for rows in (x_train, x_test))
    centre = y_train.mean(dim=0)
    penalty = ridge * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
    return centre + x_test @ torch.linalg.solve(x.T @ x + penalty, x.T @ (y_train - centre))


def r_squared(truth: Tensor, predicted: Tensor) -> float:
    """R² = 1 − Σ(truth − predicted)² / Σ(truth − mean)² of (M, t) predictions, over all columns.

    1 where all is read, about 0 where nothing is, and below for a guess that is worse than the mean
    of the truths. nan where there is nothing to read, as all truths are equal.
    """
    total = float((truth - truth.mean(dim=0)).square().sum())
    return 1 - float((truth - predicted).square().sum()) / total if total > 0 else float("nan")


def r2(
    x_train: Tensor, y_train: dict[str, Tensor], x_test: Tensor, y_test: dict[str, Tensor],
    *, products: bool = False,
) -> dict[str, float]:  # fmt: skip
    """R² of ridge regressions from standardised features, each with an intercept.

    The penalty is chosen for each column by the leave-one-out error of the fitted samples, which
    is exact and needs no refitting; what is read chooses nothing. All is float64.

    Args:
        x_train, x_test: (N, D) and (M, D) features to fit and to read.
        y_train, y_test: by name (N, c) and (M, c) targets, of which R² is of all c columns
            together: a point on the circle has two.
        products: of the features' products of degree 2 too, by the kernel (1 + ⟨u, v⟩ / D)².
            With R f(x) = f(a(x)) what turned is a product of both, and no sum.

    Returns:
        `r_squared` by name.
    """
    mean, std = x_train.mean(dim=0), x_train.std(dim=0).clamp_min(1e-6)
    x, x_test = ((rows - mean).double() / std.double() for rows in (x_train, x_test))
    targets = torch.cat([columns.double().to(x.device) for columns in y_train.values()], dim=1)
    predicted = _kernel_ridge(x, targets, x_test, products)
    widths = [columns.shape[1] for columns in y_train.values()]
    return {
        name: r_squared(y_test[name].double().to(x.device), columns)
        for name, columns in zip(y_train, predicted.split(widths, dim=1), strict=True)
    }


def _kernel_ridge(x: Tensor, targets: Tensor, x_test: Tensor, products: bool) -> Tensor:
    """(M, t): kernel ridge regression of (N, t) targets, by an eigendecomposition of the kernel.

    Centred in the space of features, so that the intercept bears no penalty. With the kernel's
    eigenvectors Q and eigenvalues s, the fit is 1/N + Q diag(s / (s + λ)) Qᵀ, and the error of
    leaving a sample out is its residual over one minus its entry of the diagonal.
    """
    kernel, across = _kernel(x, x, products), _kernel(x_test, x, products)
    column = kernel.mean(dim=0)
    across = across - across.mean(dim=1, keepdim=True) - column + column.mean()
    kernel = kernel - column - column[:, None] + column.mean()
    values, vectors = torch.linalg.eigh(kernel)
    values = values.clamp_min(0)
    centre = targets.mean(dim=0)
    inner = vectors.T @ (targets - centre)  # (N, t)
    best, weights = None, torch.zeros_like(inner)
    for penalty in _PENALTIES:
        shrunk = 1 / (values + penalty * values.mean().clamp_min(1e-12))
        kept = 1 / len(x) + vectors.square() @ (values * shrunk)
        left = targets - centre - vectors @ ((values * shrunk)[:, None] * inner)
        error = (left / (1 - kept).clamp_min(1e-9)[:, None]).square().sum(dim=0)
        better = torch.ones_like(error, dtype=torch.bool) if best is None else error < best
        best = error if best is None else torch.where(better, error, best)
        weights = torch.where(better, shrunk[:, None] * inner, weights)
    return centre + across @ (vectors @ weights)


def _kernel(a: Tensor, b: Tensor, products: bool) -> Tensor:
    """(n, D) and (m, D) rows → (n, m): ⟨u, v⟩ / D, or with products (1 + ⟨u, v⟩ / D)²."""
    inner = a @ b.T / a.shape[1]
    return (1 + inner).square() if products else inner
