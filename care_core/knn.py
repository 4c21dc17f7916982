"""Weighted k-nearest-neighbour classification on features (Wu et al., 2018)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from care_core import draws
from care_core.data.base import ImageSet
from care_core.facts import DATASETS
from care_core.features import extract
from care_core.models import Encoder
from care_core.spec import PretrainSpec


def predict(
    bank: Tensor, labels: Tensor, queries: Tensor, *, k: int, temperature: float, classes: int
) -> Tensor:
    """(Q,) predicted classes by the votes of the k nearest rows, weighted by exp(cos / τ).

    Args:
        bank: (N, n) features with (N,) labels; queries: (Q, n). Rows need not have unit length.
        k: neighbours, at most N.
    """
    bank, queries = F.normalize(bank, dim=1), F.normalize(queries, dim=1)
    found = []
    for part in queries.split(1024):
        nearest = (part @ bank.T).topk(min(k, len(bank)), dim=1)
        votes = torch.zeros(len(part), classes, device=bank.device)
        votes.scatter_add_(1, labels[nearest.indices], (nearest.values / temperature).exp())
        found.append(votes.argmax(dim=1))
    return torch.cat(found)


def hold_out(images: ImageSet, share: int = 10, most: int = 20_000) -> tuple[ImageSet, ImageSet]:
    """A fixed tenth of the labelled training images as queries, the others as the bank."""
    order = torch.randperm(len(images), generator=draws.generator(0, "hold-out"))[:most]
    cut = max(1, len(order) // share)
    return images.take(order[cut:]), images.take(order[:cut])


def check(encoder: Encoder, bank: ImageSet, queries: ImageSet, *, spec: PretrainSpec) -> float:
    """Accuracy in per cent on held-out training images; the test set is never read."""
    classes = DATASETS[spec.data.name].classes
    known, _ = extract(encoder, bank.images, spec)
    asked, _ = extract(encoder, queries.images, spec)
    guess = predict(
        known, bank.labels.to(known.device), asked, k=spec.monitor.k,
        temperature=spec.monitor.temperature, classes=classes,
    )  # fmt: skip
    return 100 * float((guess.cpu() == queries.labels).float().mean())
