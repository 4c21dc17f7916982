"""The losses, tensors in and tensors out, outside autocast and in forms that do not cancel.

Inputs are (B, d) rows, on the unit sphere unless said otherwise; outputs are 0-d fp32 tensors.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from care_core.precision import widened


def info_nce(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """NT-Xent over two views (SimCLR; the L_InfoNCE of the paper, section 3).

    Each of the 2B rows has one positive, its other view, and 2B - 2 negatives. It is computed as
    softplus(logsumexp(negatives) - positive): the usual logsumexp(all) - positive loses every
    digit once the positive dominates (4e-3 relative at τ = 0.07 on nearly aligned views). Near
    collapse the gradient is a small difference of large sums, which fp32 loses to 1e-4 (samples
    within 0.1% of one direction); so the (2B)² logits are float64, a trifle beside the encoder.

    Args:
        z1, z2: (B, d) unit rows, B ≥ 2; row i of both comes from the same image.
        temperature: τ > 0.
    """
    with torch.autocast(z1.device.type, enabled=False):
        z = torch.cat([z1, z2]).double()
        half = z1.shape[0]
        logits = z @ z.T / temperature
        # By diagonals: writing at indices would make a GPU wait for the host.
        positive = torch.cat([logits.diagonal(half), logits.diagonal(-half)])
        excluded = torch.eye(half, dtype=torch.bool, device=z.device).repeat(2, 2)
        negatives = logits.masked_fill(excluded, float("-inf")).logsumexp(dim=1)
        return F.softplus(negatives - positive, threshold=1e9).mean().float()


def info_nce_queue(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """InfoNCE with the negatives of a queue (MoCo, equation 1), in the form of `info_nce`.

    Args:
        queries, keys: (B, d) unit rows; row i of both comes from the same image.
        queue: (K, d) unit rows, the negatives of every query.
        temperature: τ > 0.
    """
    with torch.autocast(queries.device.type, enabled=False):
        q, k, others = queries.double(), keys.double(), queue.double()
        positive = (q * k).sum(dim=1) / temperature
        negatives = (q @ others.T / temperature).logsumexp(dim=1)
        return F.softplus(negatives - positive, threshold=1e9).mean().float()


def barlow_twins(p1: Tensor, p2: Tensor) -> tuple[Tensor, Tensor]:
    """Σᵢ (1 − Cᵢᵢ)² and Σᵢ Σⱼ≠ᵢ Cᵢⱼ² of the views' cross-correlation C (Barlow Twins, equation 1).

    Args:
        p1, p2: (B, d) projections, of any length; each dimension is standardised over the batch,
            as a batch norm without scale and shift does (biased variance, ε = 1e-5).
    """
    with torch.autocast(p1.device.type, enabled=False):
        a, b = (_standardised(widened(rows)) for rows in (p1, p2))
        correlation = a.T @ b / len(a)
        diagonal = correlation.diagonal()
        on = (1 - diagonal).square().sum()
        off = correlation.square().sum() - diagonal.square().sum()
        return on.float(), off.float()


def equivariance(z1: Tensor, z2: Tensor, splits: int) -> Tensor:
    """CARE's L_equi at the official scale: (2/B) Σ_s ‖Z1ₛ Z1ₛᵀ − Z2ₛ Z2ₛᵀ‖²_F (paper, Alg. 1).

    Rows of one split are consecutive and share a pair of augmentations. The value is 2(b − 1)
    times the mean over the off-diagonal pairs of a split of b rows. With D = Z1 − Z2 and
    S = Z1 + Z2 the difference of the Gram matrices is ½(D Sᵀ + S Dᵀ): one product a split, and
    no subtraction of nearly equal matrices (which costs up to half of the loss in fp32). The
    products are summed in float64: they are small (B²d / splits), and near collapse fp32 would
    leave an error of 1e-6 and more.

    Args:
        z1, z2: (B, d) unit rows.
        splits: how many; divides B.

    Raises:
        ValueError: splits does not divide B.
    """
    batch, dim = z1.shape
    if batch % splits:
        raise ValueError(f"{splits} splits do not divide a batch of {batch}")
    with torch.autocast(z1.device.type, enabled=False):
        a = z1.double().reshape(splits, batch // splits, dim)
        b = z2.double().reshape(splits, batch // splits, dim)
        half = (a - b) @ (a + b).transpose(1, 2) / 2
        return ((half + half.transpose(1, 2)).square().sum() * (2 / batch)).float()


def alignment(z1: Tensor, z2: Tensor) -> Tensor:
    """L_inv = E ‖f(a(x)) − f(a'(x))‖, over (B, d) rows of two views (paper, section 3)."""
    with torch.autocast(z1.device.type, enabled=False):
        return (widened(z1) - widened(z2)).norm(dim=1).mean().float()


def uniformity(z: Tensor) -> Tensor:
    """L_unif = log E exp(f(x)ᵀ f(x')) over the pairs x ≠ x' of (B, d) rows (paper, section 3)."""
    with torch.autocast(z.device.type, enabled=False):
        rows = widened(z)
        count = rows.shape[0]
        same = torch.eye(count, dtype=torch.bool, device=z.device)
        pairs = (rows @ rows.T).masked_fill(same, -math.inf)
        return pairs.flatten().logsumexp(dim=0).float() - math.log(count * (count - 1))


def alignment_official(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """The official code's alignment, −E cos / τ: InfoNCE's numerator alone."""
    with torch.autocast(z1.device.type, enabled=False):
        return -(widened(z1) * widened(z2)).sum(dim=1).mean().float() / temperature


def uniformity_official(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """The official code's uniformity: E log Σ exp(cos / τ) over a row's 2B − 2 negatives.

    Neither its positive nor itself is in the sum, and the sum is no mean.
    """
    with torch.autocast(z1.device.type, enabled=False):
        z = torch.cat([widened(z1), widened(z2)])
        rows = torch.arange(len(z), device=z.device)
        same = (rows[:, None] - rows) % len(z1) == 0
        return (z @ z.T / temperature).masked_fill(same, -math.inf).logsumexp(dim=1).mean().float()


def _standardised(rows: Tensor) -> Tensor:
    """(B, d) with mean 0 and variance 1 a column."""
    centred = rows - rows.mean(dim=0)
    return centred * (centred.square().mean(dim=0) + 1e-5).rsqrt()
