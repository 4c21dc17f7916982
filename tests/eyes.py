"""Encoders whose embedding is known exactly, for tests of what is measured of embeddings."""

from __future__ import annotations

from typing import Any

import torch
from conftest import tiny
from torch import Tensor, nn

from care_core.measures import hue
from care_core.models import Encoder
from care_core.spec import ProbeSpec
from care_core.spec.sections import Data

#: Shifts of the hue by up to half a turn and nothing else: each turns `Circle` as a whole.
HUE = {
    "crop_scale": [1, 1], "crop_ratio": [1, 1], "flip": 0, "jitter": 1, "brightness": 0,
    "contrast": 0, "saturation": 0, "hue": 0.5, "gray": 0, "blur": 0,
}  # fmt: skip


class Eye(Encoder):
    """Its backbone is `see`, of images in [0, 1], and its projector hands that on."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.backbone, self.projector = _Seeing(self.see), nn.Identity()
        self.register_parameter("none", nn.Parameter(torch.zeros(1)))

    def see(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, n)."""
        raise NotImplementedError


class _Seeing(nn.Module):
    def __init__(self, see: Any) -> None:
        super().__init__()
        self.see = see

    def forward(self, images: Tensor) -> Tensor:
        mean, std = (
            torch.tensor(part)[:, None, None] for part in Data(name="digits").normalization
        )
        found: Tensor = self.see(images * std + mean)
        return found


class Circle(Eye):
    """The image's mean hue as a point of the circle: a shift of the hue is a rotation of it."""

    def see(self, images: Tensor) -> Tensor:
        hues, _ = hue.of((images * 255).round().clamp(0, 255).to(torch.uint8))
        return hue.circle(hues).float()


class Blind(Eye):
    """The brightest channel of each pixel (HSV's value), to which the hue is nothing."""

    def see(self, images: Tensor) -> Tensor:
        return ((images.amax(dim=1) * 255).round() / 255).flatten(1)


class Constant(Eye):
    """The same for all images."""

    def see(self, images: Tensor) -> Tensor:
        return torch.ones(len(images), 4)


def spec(**probe: Any) -> ProbeSpec:
    """A probe of digits under shifts of the hue."""
    return ProbeSpec.model_validate(
        {"name": "eye", "source": "0" * 64, "data": tiny().data, "augment": HUE,
         "probe": {"geometry": {"augmentations": 3}, **probe}}
    )  # fmt: skip
