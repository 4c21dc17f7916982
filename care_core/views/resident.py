"""Augmenting images that lie on a GPU, recorded: one call a step instead of a thousand launches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from care_core import augment
from care_core.augment import Params, masked
from care_core.graphs import Recorded
from care_core.spec import PretrainSpec

#: Pixels of a step's views up to which every operation on every image is the faster way.
SMALL = 2**22


def suits(spec: PretrainSpec, device: torch.device) -> bool:
    """Whether a spec's steps are augmented so, where its images lie on `device`."""
    pixels = 2 * spec.training.batch_size * spec.image_size**2
    return device.type == "cuda" and spec.launch.cuda_graphs and pixels <= SMALL


class Resident:
    """The views of a step, of images that lie on the device. On a CPU nothing is recorded."""

    def __init__(self, spec: PretrainSpec, pixels: Tensor, plain: bool) -> None:
        """`pixels`: uint8 (images, 3, H, W); `plain`: whether steps have unaugmented ones too."""
        self.spec, self.pixels, self.plain = spec, pixels, plain
        self.mean, self.std = (
            augment.per_channel(values, pixels.device) for values in spec.data.normalization
        )
        self.recorded = Recorded(self._launch, pixels.device, pixels.is_cuda)

    def views(
        self, images: Tensor, fed: Tensor, views: Sequence[Params], pair: Sequence[Params]
    ) -> tuple[list[Tensor], list[Tensor], Tensor | None]:
        """The two views of all images, the pair of those that are fed to the term, the plain ones.

        Args:
            images: (B,) positions among the pixels.
            fed: (E,) positions among `images`.
            views, pair: what is drawn for each view; of the pair perhaps nothing.
        """
        self.cropped = bool(pair) and pair[0].crop is not None
        given = [images, *_joined(views)]
        given += [fed, *_joined(pair)] if pair else []
        made = iter(self.recorded(given))
        found = list(next(made).chunk(2))
        return found, list(next(made).chunk(2)) if pair else [], next(made, None)

    def _launch(self, given: list[Tensor]) -> list[Tensor]:
        rest = iter(given)
        pixels = self.pixels[next(rest)]
        made = [self._both(pixels, _taken(rest, True))]
        if (fed := next(rest, None)) is not None:
            made.append(self._both(pixels[fed], _taken(rest, self.cropped)))
        if self.plain:
            size = self.spec.image_size
            made.append(augment.normalize(pixels, size=size, mean=self.mean, std=self.std))
        return made

    def _both(self, pixels: Tensor, params: Params) -> Tensor:
        """Two views of the same images, one after the other."""
        return masked.apply(
            pixels.repeat(2, 1, 1, 1), params, size=self.spec.image_size,
            blur_kernel=self.spec.augment.blur_kernel, mean=self.mean, std=self.std,
        )  # fmt: skip


def _joined(both: Sequence[Params]) -> list[Tensor]:
    """The parameters of two views, of one after the other, without what there is none of."""
    return [torch.cat(values) for values in zip(*both, strict=True) if values[0] is not None]


def _taken(values: Iterator[Tensor], cropped: bool) -> Params:
    """Parameters again of what `_joined` made."""
    crop = next(values) if cropped else None
    return Params(crop, *(next(values) for _ in Params._fields[1:]))
