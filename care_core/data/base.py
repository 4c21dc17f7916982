"""Images in memory, with their labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """(N, 3, H, W) uint8 images, (N,) int64 labels (-1: none), and hues in turns where known."""

    images: Tensor
    labels: Tensor
    classes: int
    hues: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> int:
        """Pixels a side, as `FileSet.size`."""
        return self.images.shape[-1]

    def take(self, index: Tensor) -> ImageSet:
        """The images at some positions, in that order."""
        hues = None if self.hues is None else self.hues[index]
        return ImageSet(self.images[index], self.labels[index], self.classes, hues)

    def batches(self, batch: int, workers: int | None = None) -> Iterator[Tensor]:
        """Consecutive (b, 3, H, W) uint8 parts, b = `batch` but for the last; no workers needed."""
        return iter(self.images.split(batch))


def resized(images: Tensor, size: int, chunk: int = 4096) -> Tensor:
    """(N, 3, H, W) uint8 → (N, 3, size, size) uint8, bilinear with antialiasing, as torchvision."""
    if images.shape[-2:] == (size, size):
        return images.contiguous()
    parts = [TF.resize(part, [size, size], antialias=True) for part in images.split(chunk)]
    return torch.cat(parts)
