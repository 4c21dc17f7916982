"""Point clouds in memory, with their labels: chains of points, centred and of one size."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from care_core.data.base import ImageSet

Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class CloudSet(ImageSet):
    """(N, points, 3) float32 clouds as `images`, so that whoever takes images takes clouds.

    Each has its centroid at 0 and a root mean square radius of 1. Labels are as of images.
    """

    skipped: int = 0  #: files left out because they cannot be read (data.unreadable: skip)

    @property
    def size(self) -> int:
        """Points of a cloud."""
        return self.images.shape[1]

    def take(self, index: Tensor) -> CloudSet:
        """The clouds at some positions, in that order."""
        return dataclasses.replace(self, images=self.images[index], labels=self.labels[index])


def resampled(trace: Floats, points: int) -> Floats:
    """(points, 3): a chain's trace (n, 3), n ≥ 2, at places that are evenly spaced along it.

    Between two residues the place is on the straight line; with n = points all are residues. So
    chains of any length become clouds of one size, from end to end.
    """
    place = np.linspace(0, len(trace) - 1, points)
    before = np.minimum(place.astype(int), len(trace) - 2)
    share = (place - before)[:, None]
    return np.asarray((1 - share) * trace[before] + share * trace[before + 1])


def standardised(cloud: Floats) -> Floats:
    """A cloud (…, points, 3) moved to its centroid and divided by its root mean square radius."""
    centred = cloud - cloud.mean(axis=-2, keepdims=True)
    radius = np.sqrt((centred**2).sum(axis=-1, keepdims=True).mean(axis=-2, keepdims=True))
    return np.asarray(centred / radius)


def as_set(clouds: Floats, labels: npt.NDArray[np.int64], classes: int, skipped: int) -> CloudSet:
    """A set of clouds (N, points, 3) that are standard already."""
    return CloudSet(
        torch.from_numpy(clouds.astype(np.float32)),
        torch.from_numpy(labels),
        classes,
        skipped=skipped,
    )
