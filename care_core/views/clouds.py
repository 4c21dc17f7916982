"""Point clouds as they are trained on: rotated, uniformly over SO(3), and nothing else.

A rotation takes the place of an image's augmentation: each of a step's two views has one a cloud,
and CARE's pair has one a split, as the feed of images does it (and as equivariance.shared_by says).
It is made of the first of the numbers that are drawn for an augmentation anyway.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from care_core.data.base import ImageSet
from care_core.data.clouds import CloudSet
from care_core.data.files import FileSet
from care_core.distributed import World
from care_core.spec import PretrainSpec
from care_core.views.feed import Feed
from care_core.views.step import Step


def rotations(u: Tensor) -> Tensor:
    """(N, k ≥ 3) uniform numbers → (N, 3, 3) float64 rotations, uniform over SO(3).

    By a uniform unit quaternion (Shoemake, Graphics Gems III, 1992).
    """
    share, first, second = u[:, :3].double().unbind(1)
    a, b = (1 - share).sqrt(), share.sqrt()
    first, second = 2 * math.pi * first, 2 * math.pi * second
    return _matrix(torch.stack([b * second.cos(), a * first.sin(), a * first.cos(),
                                b * second.sin()], dim=1))  # fmt: skip


def about(axis: int, angles: Tensor) -> Tensor:
    """(n,) angles in radians → (n, 3, 3) float64 rotations about the axis x (0), y (1) or z (2)."""
    half = angles.double() / 2
    quaternions = torch.zeros(len(angles), 4, dtype=torch.float64)
    quaternions[:, 0], quaternions[:, 1 + axis] = half.cos(), half.sin()
    return _matrix(quaternions)


def rotate(clouds: Tensor, turns: Tensor) -> Tensor:
    """(B, points, 3) clouds, each turned about its centroid at 0, in fp32 also under autocast.

    Args:
        turns: (N, 3, 3) with B % N == 0; turn r holds for the clouds r·B/N to (r+1)·B/N - 1.
    """
    count, batch = len(turns), len(clouds)
    if count == 0 or batch % count:
        raise ValueError(f"{batch} clouds cannot be shared out evenly to {count} rotations")
    turns = turns.to(clouds.device, clouds.dtype, non_blocking=True)
    with torch.autocast(clouds.device.type, enabled=False):
        points = clouds.reshape(count, -1, 3)  # of all clouds that share a rotation
        return (points @ turns.transpose(1, 2)).view_as(clouds)


class CloudFeed(Feed):
    """A rank's steps of clouds in memory: as `Feed`, with rotations for augmentations."""

    def __init__(
        self, spec: PretrainSpec, images: ImageSet | FileSet, world: World, device: torch.device
    ) -> None:
        super().__init__(spec, images, world, device)
        assert isinstance(images, CloudSet)
        self.skipped = images.skipped

    def _from_memory(self, number: int) -> Step:
        plan = self.planner.at(number)
        assert self.pixels is not None
        clouds = self.pixels[self._send(plan.images)]
        fed = clouds[self._send(plan.fed)]
        return Step(
            number,
            [rotate(clouds, rotations(u)) for u in plan.views],
            [rotate(fed, rotations(u)) for u in plan.pair],
        )


def feed_of(
    spec: PretrainSpec, images: ImageSet | FileSet, world: World, device: torch.device
) -> Feed:
    """The feed of what a spec trains on: of images, or of clouds."""
    return (CloudFeed if spec.data.clouds else Feed)(spec, images, world, device)


def _matrix(quaternions: Tensor) -> Tensor:
    """(N, 4) unit quaternions (w, x, y, z) → (N, 3, 3)."""
    w, x, y, z = quaternions.unbind(1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
