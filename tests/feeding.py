"""What a feed gives, for tests: images made so that an augmentation can be read off them."""

from __future__ import annotations

from typing import Any

import torch
from conftest import tiny
from torch import Tensor

from care_core.data.base import ImageSet
from care_core.data.files import FileSet
from care_core.distributed import ALONE, World
from care_core.methods import Step
from care_core.spec import PretrainSpec
from care_core.spec.facts import DATASETS
from care_core.views.feed import Feed

#: Every pixel stays as it is.
PLAIN: dict[str, Any] = {
    "crop_scale": [1, 1], "crop_ratio": [1, 1], "flip": 0, "jitter": 0, "gray": 0, "blur": 0
}  # fmt: skip
#: No two draws give the same image.
JITTER: dict[str, Any] = {"jitter": 1, "brightness": 0.8}


def spec_of(batch: int = 64, **changes: Any) -> PretrainSpec:
    return tiny(training={"epochs": 2, "batch_size": batch}, **changes)


def image_set(images: Tensor) -> ImageSet:
    return ImageSet(images, torch.zeros(len(images), dtype=torch.int64), 1)


def identical(count: int = 128) -> ImageSet:
    """One image so many times: all differences come from the augmentation."""
    generator = torch.Generator().manual_seed(0)
    one = torch.randint(0, 256, (1, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return image_set(one.repeat(count, 1, 1, 1))


def numbered(count: int) -> ImageSet:
    """Each image is of one colour, which is its number."""
    number = torch.arange(count)
    colour = torch.stack([number % 256, number // 256, torch.zeros(count)], dim=1)
    pixels = colour.to(torch.uint8)[:, :, None, None]
    return image_set(pixels.expand(count, 3, 16, 16).contiguous())


def numbers(images: Tensor) -> list[int]:
    """Which of `numbered` they are."""
    red, green, _ = (unstandardised(images)[:, :, 8, 8] * 255).round().long().unbind(1)
    return (red + 256 * green).tolist()


def unstandardised(images: Tensor, dataset: str = "digits") -> Tensor:
    """The intensities, in [0, 1]."""
    facts = DATASETS[dataset]
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in (facts.mean, facts.std))
    return images * std + mean


def given(
    spec: PretrainSpec, images: ImageSet | FileSet, steps: int = 1, world: World = ALONE,
    first: int = 0,
) -> list[Step]:  # fmt: skip
    """Steps of a rank."""
    return list(Feed(spec, images, world, torch.device("cpu")).steps(first, first + steps))


def apart(images: Tensor) -> Tensor:
    """(N, N): the largest difference of any two images."""
    flat = images.flatten(1)
    return (flat[:, None] - flat[None]).abs().amax(dim=2)


def distinct(images: Tensor) -> bool:
    return bool((apart(images) + torch.eye(len(images)) > 1e-3).all())


def alike(images: Tensor) -> bool:
    """One image all over, up to rounding."""
    return bool((apart(images) < 1e-4).all())
