"""What shape an embedding has: does an augmentation act on it as a rotation?

Tensors in, numbers out. A measure says little alone: beside each stand what doing nothing (R = I)
and what pairing each sample with another one's image (`shuffled`) would have given.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from care_core import draws

#: Displacements up to so many rounding errors of a number near 1 count as none.
_ROUNDING = 4


def wahba_error(f: Tensor, fa: Tensor) -> tuple[Tensor, Tensor]:
    """W_f = min over R in SO(d) of ‖F Rᵀ − F_a‖_F, and the rotation R (paper, Fig. 5).

    Args:
        f, fa: (n, d), samples as rows, before and after the augmentation. In float64 an exact
            rotation of unit rows gives about 1e-13, also where they hardly leave a subspace.

    Returns:
        The error (0-d) and R (d, d) with det R = +1.
    """
    rotation = _rotation(f, fa)
    return (f @ rotation.T - fa).norm(), rotation


def _rotation(f: Tensor, fa: Tensor) -> Tensor:
    """The SVD of M = F_aᵀ F = U Σ Vᵀ gives R = U diag(1, …, 1, det U · det V) Vᵀ.

    M has the squares of what the rows have, so directions in which they are faint drown in its
    rounding. The rest of the rotation is sought among these alone, which can only bring F nearer.
    """
    u, s, vt = torch.linalg.svd(fa.T @ f)
    signs = torch.ones_like(s)
    signs[-1] = (torch.linalg.det(u) * torch.linalg.det(vt)).sign()
    rotation = (u * signs) @ vt
    faint = u[:, s <= math.sqrt(torch.finfo(s.dtype).eps) * s[0]]
    if not 1 < faint.shape[1] < len(s):
        return rotation
    within = _rotation(f @ (rotation.T @ faint), fa @ faint)
    within.diagonal().sub_(1)
    return rotation + faint @ within @ (faint.T @ rotation)


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
    and the mean displacement ‖f(ax) − f(x)‖ stand beside it: γ_f alone proves nothing. Pairs that
    move by no more than the rounding of their numbers are left out, and counted.

    The difference of the squares is never taken, as it would cancel where little moves. With
    d = f(ax) − f(x) and s = f(ax) + f(x), it is exactly (d' − d)·(s' − s).

    Args:
        f, fa: (n, d) rows of the same images before and after one augmentation.
    """
    rounding = _ROUNDING * torch.finfo(f.dtype).eps
    f, fa = f.double(), fa.double()
    d, s = fa - f, fa + f
    moved = d.square().sum(dim=1)
    row, column = torch.triu_indices(len(f), len(f), offset=1, device=f.device)
    product = d @ s.T
    own = product.diagonal()
    change = (own[:, None] + own[None, :] - product - product.T)[row, column]
    size = f.square().sum(dim=1)
    denominator = moved[row] + moved[column]
    valid = denominator > rounding**2 * (size[row] + size[column])
    ratio = (change[valid] / denominator[valid]).square()
    empty = ratio.numel() == 0
    return Gamma(
        mean=float("nan") if empty else float(ratio.mean()),
        median=float("nan") if empty else float(ratio.median()),
        excluded=int((~valid).sum()),
        displacement=float(moved.sqrt().mean()),
    )


def shuffled(rows: Tensor) -> Tensor:
    """(n, d) rows in a fixed order that has nothing to do with the images: a control."""
    order = torch.randperm(len(rows), generator=draws.generator(0, "shuffled pairing"))
    return rows[order.to(rows.device)]


#: Bins of a histogram of cosines over [−1, 1], the same for all encoders.
COSINE_BINS = 100


def cosine_counts(f: Tensor, fa: Tensor) -> Tensor:
    """(COSINE_BINS,) int64: how many of the n cosines of f(x) and f(a(x)) lie in each bin
    (paper, Figs. 6 and 10). The bins are of one width over [−1, 1], which the last includes.

    Args:
        f, fa: (n, d) rows, of any length.
    """
    cosines = F.cosine_similarity(f.double(), fa.double(), dim=1).clamp(-1, 1).cpu()
    return torch.histc(cosines, bins=COSINE_BINS, min=-1, max=1).long()


#: Embeddings of different images whose mean cosine is above this are in one place; see `Spread`.
COLLAPSED = 0.9


class Spread(NamedTuple):
    """How much of the sphere the embeddings of different images take up.

    L_equi vanishes where all embeddings are one point, so by itself it leads there (paper,
    Fig. 10). A mean cosine of 0.9 says that they lie within 18° of one direction, root mean square.
    The exact bound matters little: on digits CARE and SimCLR to the sphere in 128 dimensions had
    0.0 to 0.4, equivariance alone 0.98 and 0.99. Networks begin at 0.95 to 0.97, so one that has
    not been trained counts as collapsed, and so does one that tells augmentations apart and images
    not: all of them are under one augmentation.
    """

    mean_cosine: float  #: over the pairs x ≠ x'; 0 where they are uniform, 1 in one point
    sd: float  #: root mean square distance of an embedding from their mean
    effective_rank: float  #: e to the entropy of the shares of squared length; from 1 to d

    @property
    def collapsed(self) -> bool:
        """Whether all embeddings lie within a small distance of one point."""
        return self.mean_cosine > COLLAPSED


def spread(f: Tensor) -> Spread:
    """Of (n, d) unit rows, n ≥ 2."""
    f = f.double()
    count, mean = len(f), f.mean(dim=0)
    together = float((count * mean).square().sum() - f.square().sum())
    share = torch.linalg.svdvals(f).square()
    share = share / share.sum()
    return Spread(
        mean_cosine=together / (count * (count - 1)),
        sd=float((f - mean).square().sum(dim=1).mean().sqrt()),
        effective_rank=float(torch.special.entr(share).sum().exp()),
    )


class Plane(NamedTuple):
    """The plane through the mean of some rows, along their first two principal components."""

    mean: Tensor  #: (d,) float64
    directions: Tensor  #: (d, 2) float64, orthonormal
    share: float  #: of the rows' variance, within the plane; nan if they are one point

    def coordinates(self, rows: Tensor) -> Tensor:
        """(…, d) → (…, 2) float64: where rows lie within the plane."""
        return (rows.double() - self.mean) @ self.directions


def principal_plane(rows: Tensor) -> Plane:
    """Of (n, d) rows, n ≥ 2 and d ≥ 2: the plane that keeps most of their variance."""
    mean = rows.double().mean(dim=0)
    _, values, directions = torch.linalg.svd(rows.double() - mean, full_matrices=False)
    total = float(values.square().sum())
    share = float(values[:2].square().sum()) / total if total > 0 else float("nan")
    return Plane(mean, directions[:2].T, share)


def held_out_error(f: Tensor, fa: Tensor) -> float:
    """‖F Rᵀ − F_a‖_F / √m on every other sample, for the rotation R fitted on the rest.

    The Wahba error of few samples in many dimensions is small for any pairing; this one is not.

    Args:
        f, fa: (n, d), n ≥ 2, samples as rows, before and after the augmentation.
    """
    rotation = wahba_error(f[::2], fa[::2])[1]
    return float((f[1::2] @ rotation.T - fa[1::2]).norm()) / math.sqrt(len(f) // 2)


class Composition(NamedTuple):
    """How far ρ(a'∘a) = ρ(a') ρ(a) fails on held-out samples. R_{a'} R_a = I would give error 1."""

    error: float  #: ‖(R_{a'∘a} − R_{a'} R_a) f‖ / ‖(R_{a'∘a} − I) f‖
    shuffled: float  #: the same from rotations that were fitted to shuffled pairings
    displacement: float  #: mean over samples of ‖(R_{a'∘a} − I) f‖: near 0 the error says nothing
    rank: int  #: dimensions of the subspace in which the rotations are fitted
    held: float  #: share of the held-out samples' squared length within that subspace


def composition(
    f: Tensor, fa: Tensor, fb: Tensor, fba: Tensor, held_out: Tensor, *, share: float = 0.999
) -> Composition:
    """Whether two augmentations in a row act as the product of their rotations.

    L_equi = 0 on samples that span the space implies it: ρ(a'∘a) = ρ(a') ρ(a).

    A fitted rotation is determined only where there are embeddings. So R_a, R_{a'} and R_{a'∘a}
    are fitted (`wahba_error`) in the principal subspace of all training embeddings, about the
    origin, and compared on held-out samples: the norms are Frobenius norms over these.

    Args:
        f: (n, d) embeddings f(x) of the training samples.
        fa, fb, fba: (n, d) f(a(x)), f(a'(x)) and f(a'(a(x))) of the same samples.
        held_out: (m, d) f(x) of other samples.
        share: the subspace has the fewest dimensions (at least 2) that hold this share of the
            training embeddings' squared length. What lies outside adds to the error where little
            moves: exact rotations of an untrained encoder's embeddings gave 0.26 at 0.999 (26 of
            32 dimensions), and 3e-13 at 1.

    Returns:
        See `Composition`. The error is nan where R_{a'∘a} = I exactly.
    """
    parts = [part.double() for part in (f, fa, fb, fba)]
    _, values, directions = torch.linalg.svd(torch.cat(parts), full_matrices=False)
    length = values.square().cumsum(dim=0)
    fewest = int((length < share * length[-1]).sum()) + 1
    rank = min(max(2, fewest), len(directions))
    basis = directions[:rank].T
    plain, *moved = (part @ basis for part in parts)
    samples = held_out.double() @ basis

    def misfit(*images: Tensor) -> tuple[Tensor, Tensor]:
        a, b, ba = (wahba_error(plain, image)[1] for image in images)
        return samples @ (ba - b @ a).T, samples @ (ba - torch.eye(rank).to(ba)).T

    gap, step = misfit(*moved)
    blind, blind_step = misfit(*(shuffled(image) for image in moved))
    return Composition(
        error=float(gap.norm() / step.norm()),
        shuffled=float(blind.norm() / blind_step.norm()),
        displacement=float(step.norm(dim=1).mean()),
        rank=rank,
        held=float(samples.square().sum() / held_out.double().square().sum()),
    )
