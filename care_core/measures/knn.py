"""Weighted k-nearest-neighbour classification on features (Wu et al., 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from care_core import draws
from care_core.measures.features import extract
from care_core.models import Encoder
from care_core.spec import PretrainSpec

if TYPE_CHECKING:
    from care_core.data import Images

#: Cosines that are held at a time: 256 MiB of them.
_COSINES = 2**26


def predict(
    bank: Tensor, labels: Tensor, queries: Tensor, *, k: int, temperature: float, classes: int
) -> Tensor:
    """(Q,) predicted classes by the votes of the k nearest rows, weighted by exp(cos / τ).

    Args:
        bank: (N, n) features with (N,) labels; queries: (Q, n). Rows need not have unit length.
        k: neighbours, at most N.
    """
    bank, queries = F.normalize(bank, dim=1), F.normalize(queries, dim=1)
    labels = labels.to(bank.device)
    found = []
    for part in chunks(queries, bank):
        nearest = (part @ bank.T).topk(min(k, len(bank)), dim=1, sorted=False)
        votes = torch.zeros(len(part), classes, device=bank.device)
        votes.scatter_add_(1, labels[nearest.indices], (nearest.values / temperature).exp())
        found.append(votes.argmax(dim=1))
    return torch.cat(found)


def chunks(queries: Tensor, bank: Tensor) -> tuple[Tensor, ...]:
    """The queries, so many rows at a time as have no more than `_COSINES` with all of the bank."""
    return queries.split(max(1, min(1024, _COSINES // len(bank))))


def hold_out(images: Images, share: int = 10, most: int = 20_000) -> tuple[Images, Images]:
    """A fixed tenth of the labelled training images as queries, the others as the bank.

    Args:
        share: one image in so many is a query.
        most: images that are taken at all, for a check that is cheap on large sets.

    Returns:
        The bank and the queries.
    """
    order = torch.randperm(len(images), generator=draws.generator(0, "hold-out"))[:most]
    cut = max(1, len(order) // share)
    return images.take(order[cut:]), images.take(order[:cut])


def check(
    encoder: Encoder, bank: Images, queries: Images, *, spec: PretrainSpec, train_mode: bool = False
) -> float:
    """Accuracy in per cent of the backbone's features, by `spec.monitor`.

    Args:
        bank, queries: labelled images; `hold_out` makes both of training images alone.
        train_mode: batch norm normalises by the batches of these images, and its statistics move:
            first over the bank, then over the queries. A leak where the queries are test images.
    """
    precision = spec.training.precision
    if precision == "fp16" and next(encoder.parameters()).device.type == "cpu":
        precision = "bf16"  # a CPU has no products of fp16
    bank_features, query_features = (
        extract(
            encoder, images, spec.data.normalization, precision=precision,
            drift=train_mode, decoders=spec.launch.decoders,
        ).backbone
        for images in (bank, queries)
    )  # fmt: skip
    predicted = predict(
        bank_features, bank.labels, query_features,
        k=spec.monitor.k, temperature=spec.monitor.temperature, classes=bank.classes,
    )  # fmt: skip
    return 100 * float((predicted.cpu() == queries.labels).float().mean())
