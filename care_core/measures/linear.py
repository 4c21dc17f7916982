"""The linear probe: a linear classifier learns from frozen features, and is read on other images.

Where the features come from is a `Source`: computed once (`Stored`), or of images that are
augmented anew each epoch (`care_core.measures.augmented`). Both layers learn from the same pass,
each with a classifier of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from care_core import draws
from care_core.measures.features import Features
from care_core.models import seeded
from care_core.optim import build_optimizer, learning_rate
from care_core.spec import LinearProbe


class Source(Protocol):
    """What one classifier seed learns from, and is read on."""

    @property
    def steps(self) -> int:
        """Batches an epoch; the last one may be short."""

    def epoch(self, number: int) -> Iterator[tuple[Features, Tensor]]:
        """An epoch's batches: features and (b,) int64 labels, on one device."""

    def test(self) -> Features:
        """Features of the images to be read on, by the encoder as it is now."""


class Stored:
    """Features that were computed once: the backbone is in eval mode and nothing is augmented."""

    def __init__(
        self, train: Features, labels: Tensor, test: Features, *, seed: int, batch_size: int
    ) -> None:
        self.train_features, self.test_features = train, test
        self.labels = labels.to(train.backbone.device)
        self.seed, self.batch_size = seed, batch_size

    @property
    def steps(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def epoch(self, number: int) -> Iterator[tuple[Features, Tensor]]:
        order = draws.epoch_order(self.seed, number, len(self.labels)).to(self.labels.device)
        for rows in order.split(self.batch_size):
            # index_select: four times as fast on a CPU as an index in brackets
            features = Features(*(layer.index_select(0, rows) for layer in self.train_features))
            yield features, self.labels.index_select(0, rows)

    def test(self) -> Features:
        return self.test_features


class Score(NamedTuple):
    """Accuracy in per cent after the last epoch, and the best of all epochs if it was asked for."""

    last: float
    best: float | None

    @property
    def reported(self) -> float:
        """What the spec's `report` is: the best is a leak, chosen on the images it is read on."""
        return self.last if self.best is None else self.best


def classify(
    spec: LinearProbe,
    seed: int,
    source: Source,
    test_labels: Tensor,
    classes: int,
    tick: Callable[[int], None] = lambda epoch: None,
) -> dict[str, Score]:
    """Train a classifier a layer, and read each on the source's test images.

    Args:
        seed: of the classifiers' first weights; the source has its own draws by the same seed.
        test_labels: (M,) of the source's test images.
        tick: called after each step, with the number of whole epochs done.

    Returns:
        A score by layer's name.
    """
    test = source.test()
    test_labels = test_labels.to(test.backbone.device)
    with seeded(seed, "classifier"):
        heads = nn.ModuleList(nn.Linear(layer.shape[1], classes) for layer in test)
    heads.to(test_labels.device)
    optimizer = build_optimizer(spec.optimizer, heads)
    accuracies: list[list[float]] = []  # of each epoch that is read, by layer
    for epoch in range(spec.epochs):
        for step, (features, labels) in enumerate(source.epoch(epoch)):
            rate = learning_rate(
                spec.schedule, spec.optimizer.lr, epoch + step / source.steps, spec.epochs
            )
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            for head, x in zip(heads, features, strict=True):
                F.cross_entropy(head(x), labels).backward()
            optimizer.step()
            tick(epoch)
        if spec.report == "best" or epoch + 1 == spec.epochs:
            accuracies.append(_accuracies(heads, source.test(), test_labels))
    best = [max(layer) for layer in zip(*accuracies, strict=True)]
    return {
        name: Score(last, high if spec.report == "best" else None)
        for name, last, high in zip(Features._fields, accuracies[-1], best, strict=True)
    }


@torch.no_grad()
def _accuracies(heads: nn.ModuleList, test: Features, labels: Tensor) -> list[float]:
    return [
        accuracy(head(layer).argmax(dim=1), labels) for head, layer in zip(heads, test, strict=True)
    ]


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Per cent of (M,) predicted classes that are right."""
    return 100 * float((predicted == labels).double().mean())
