"""`digits`: scikit-learn's 1,797 real handwritten digits, enlarged to 16×16, each with a hue.

It needs no download, and it has what the paper is about: a colour that an invariant embedding
forgets and an equivariant one keeps. Labels are the digit and the hue. The split is fixed: 1,437
images to train on, 360 to test on, stratified by digit.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from care_core.data.base import ImageSet, resized
from care_core.data.embedded import digits_csv

SIZE = 16
TEST_IMAGES = 360


def load(split: str, size: int) -> ImageSet:
    """One part of the fixed split; `pretrain` and `train` are the same 1,437 images."""
    table = np.loadtxt(digits_csv().decode().splitlines(), delimiter=",", dtype=np.float32)
    labels = torch.from_numpy(table[:, 64].astype(np.int64))
    strokes = torch.from_numpy(table[:, :64] / 16).reshape(-1, 1, 8, 8)
    generator = np.random.Generator(np.random.PCG64(20240507))
    hues = torch.from_numpy(generator.random(len(labels), dtype=np.float32))
    test = _stratified(labels.numpy(), TEST_IMAGES, generator)
    chosen = torch.from_numpy(test if split == "test" else ~test).nonzero()[:, 0]
    bright = F.interpolate(strokes, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    images = (_tint(bright, hues) * 255).round().to(torch.uint8)
    return ImageSet(resized(images[chosen], size), labels[chosen], 10, hues[chosen])


def _tint(bright: Tensor, hues: Tensor) -> Tensor:
    """(N, 1, H, W) brightness and (N,) hues in turns → (N, 3, H, W) RGB at full saturation."""
    offsets = torch.tensor([5.0, 3.0, 1.0])  # HSV to RGB as one formula a channel
    k = (offsets + hues[:, None] * 6) % 6
    share = torch.minimum(k, 4 - k).clamp(0, 1)
    return bright * (1 - share)[:, :, None, None]


def _stratified(
    labels: npt.NDArray[np.int64], count: int, generator: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """A mask of `count` positions, each class by its share, the largest remainders rounded up."""
    classes, sizes = np.unique(labels, return_counts=True)
    exact = sizes * count / len(labels)
    quota = np.floor(exact).astype(int)
    for index in np.argsort(quota - exact, kind="stable")[: count - quota.sum()]:
        quota[index] += 1
    mask = np.zeros(len(labels), dtype=bool)
    for label, wanted in zip(classes, quota, strict=True):
        mask[generator.permutation(np.flatnonzero(labels == label))[:wanted]] = True
    return mask
