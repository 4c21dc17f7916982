"""What shape an embedding has: does an augmentation act on it as a rotation?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def wahba_error(f: Tensor, fa: Tensor) -> tuple[Tensor, Tensor]:
    """W_f = min over R in SO(d) of ‖F Rᵀ − F_a‖_F, and the rotation R (paper, Fig. 5).

    Solved by the SVD of M = F_aᵀ F = U Σ Vᵀ: R = U diag(1, …, 1, det U · det V) Vᵀ.

    Args:
        f, fa: (n, d), samples as rows, before and after the augmentation. In float64 an exact
            rotation gives about 1e-13.

    Returns:
        The error (0-d) and R (d, d) with det R = +1.
    """
    u, _, vt = torch.linalg.svd(fa.T @ f)
    flip = torch.ones(f.shape[1], dtype=f.dtype, device=f.device)
    flip[-1] = torch.linalg.det(u) * torch.linalg.det(vt)
    rotation = (u * flip.sign()) @ vt
    return (f @ rotation.T - fa).norm(), rotation


class Gamma(NamedTuple):
    """γ_f over pairs: its mean and median, the pairs left out, and the mean displacement."""

    mean: float
    median: float
    excluded: int
    displacement: float


def relative_rotational_equivariance(f: Tensor, fa: Tensor) -> Gamma:
    """γ_f over all pairs x ≠ x' (paper, section 5, Fig. 8):

    (‖f(ax') − f(ax)‖² − ‖f(x') − f(x)‖²)² / (‖f(ax') − f(x')‖² + ‖f(ax) − f(x)‖²)².

    0 for a rotation; unbounded near invariance, where the denominator vanishes. So the median
    and the mean displacement ‖f(ax) − f(x)‖ stand beside it: γ_f alone proves nothing.

    Args:
        f, fa: (n, d) rows of the same images before and after one augmentation.
    """
    f, fa = f.double(), fa.double()
    moved = (fa - f).square().sum(dim=1)
    row, column = torch.triu_indices(len(f), len(f), offset=1, device=f.device)
    numerator = (_squared_distances(fa) - _squared_distances(f))[row, column].square()
    denominator = (moved[row] + moved[column]).square()
    valid = denominator > 0
    ratio = numerator[valid] / denominator[valid]
    empty = ratio.numel() == 0
    return Gamma(
        mean=float("nan") if empty else float(ratio.mean()),
        median=float("nan") if empty else float(ratio.median()),
        excluded=int((~valid).sum()),
        displacement=float(moved.sqrt().mean()),
    )


def _squared_distances(z: Tensor) -> Tensor:
    squares = z.square().sum(dim=1)
    return squares[:, None] + squares[None, :] - 2 * z @ z.T
