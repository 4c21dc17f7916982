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

    @property
    def tensors(self) -> list[Tensor]:
        """All of its tensors, one after another."""
        lone = [one for one in (self.plain, self.parameters) if one is not None]
        return [*self.views, *self.pair, *lone]

    def of(self, tensors: list[Tensor]) -> Step:
        """The same step with others in the place of its `tensors`."""
        rest = iter(tensors)
        return Step(
            self.number,
            [next(rest) for _ in self.views],
            [next(rest) for _ in self.pair],
            None if self.plain is None else next(rest),
            None if self.parameters is None else next(rest),
        )
