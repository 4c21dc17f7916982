"""Nearest neighbours before and after an augmentation (paper, Figs. 9 and 21)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from care_core.measures import hue, knn


def nearest(queries: Tensor, bank: Tensor, k: int) -> Tensor:
    """(n, k) positions of the nearest rows by cosine, the nearest first, never a query's own.

    Args:
        queries: (n, d), row i being of the same image as row i of the bank.
        bank: (n, d) embeddings of the images as they are.
        k: at most n − 1.
    """
    queries, bank = F.normalize(queries, dim=1), F.normalize(bank, dim=1)
    found, start = [], 0
    for part in knn.chunks(queries, bank):
        cosines = part @ bank.T
        own = torch.arange(len(part), device=part.device)
        cosines[own, start + own] = -torch.inf
        found.append(cosines.topk(k, dim=1).indices)
        start += len(part)
    return torch.cat(found)


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """(n, k) and (n, k) neighbours → (n,): the share of the former that is among the latter."""
    return (a[:, :, None] == b[:, None, :]).any(dim=2).float().mean(dim=1)


class Neighbours(NamedTuple):
    """(n, k) positions of the neighbours of f(x) and of f(a(x)) among all f(x)."""

    still: Tensor
    moved: Tensor


def judge(
    found: Neighbours, labels: Tensor, hues: Tensor, definite: Tensor, shift: float
) -> dict[str, float]:
    """What the neighbours have in common with each other and with the image that asks.

    Args:
        labels, hues: (n,) of the images, hues in turns.
        definite: (n,) bool: of which images the hue is to be spoken of, as query and as neighbour.
        shift: of the hue by a, in turns.

    Returns:
        `agreement`, the mean share of common neighbours; `same_class_still` and `…_moved`, the
        share that has the query's class; and mean distances of hues in turns:
        `hue_gap_still` of the neighbours of f(x) from x,
        `hue_gap_moved` of the neighbours of f(a(x)) from a(x), the shifted hue: small where the
        embedding follows the colour,
        `hue_gap_stayed` of the same neighbours from x, the hue before: small where it does not
        notice and knows the colour all the same, and 0.25 as they all are where it is colour-blind
        and hues are even.
    """

    def gap(neighbours: Tensor, goal: Tensor) -> float:
        spoken_of = definite[:, None] & definite[neighbours]
        return float(hue.distance(hues[neighbours], goal[:, None])[spoken_of].mean())

    return {
        "agreement": float(overlap(found.still, found.moved).mean()),
        "same_class_still": float((labels[found.still] == labels[:, None]).float().mean()),
        "same_class_moved": float((labels[found.moved] == labels[:, None]).float().mean()),
        "hue_gap_still": gap(found.still, hues),
        "hue_gap_moved": gap(found.moved, hues + shift),
        "hue_gap_stayed": gap(found.moved, hues),
    }


def hue_gap_by_chance(hues: Tensor, shift: float) -> float:
    """The mean distance of any image's hue from any other's that is shifted, in turns."""
    gaps = hue.distance(hues[:, None], hues + shift)
    count = len(hues)
    others = float(gaps.sum()) - float(gaps.diagonal().sum())
    return others / (count * (count - 1)) if count > 1 else float("nan")
