"""What a rank sees at one step."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Step(NamedTuple):
    """A rank's images for one step, augmented and normalised, on its device."""

    number: int
    views: list[Tensor]  #: two (B, 3, H, W), augmented image by image
    pair: list[Tensor]  #: none, or two (E, 3, H, W), augmented split by split
    plain: Tensor | None = None  #: (B, 3, H, W), not augmented, where the method asks for them
    parameters: Tensor | None = None  #: (2, B, P): what each view's augmentations were
