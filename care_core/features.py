"""What a frozen encoder makes of images that are not augmented. Streams: few images at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from care_core import augment
from care_core.models import Encoder
from care_core.sections import Channels

if TYPE_CHECKING:
    from care_core.data import Images


class Features(NamedTuple):
    """Both layers that are probed, fp32: the backbone's (N, n), the unit projections (N, d)."""

    backbone: Tensor
    projection: Tensor


@torch.no_grad()
def extract(
    encoder: Encoder,
    images: Images,
    normalization: tuple[Channels, Channels],
    *,
    batch: int = 512,
    drift: bool = False,
    decoders: int | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Features:
    """The features of all images of a set, in order, on the encoder's device.

    Args:
        normalization: mean and std of what the encoder was trained on, in units of [0, 1].
        drift: batch norm normalises by each batch, and its statistics move (`frozen`).
        decoders: processes that decode image files; default: a core each.
        tick: called after each batch.

    Raises:
        DataError: names an image file that cannot be decoded.
    """
    found = []
    with frozen(encoder, drift=drift):
        for pixels in images.batches(batch, decoders):
            found.append(encode(encoder, plain(encoder, pixels, normalization)))
            tick()
    return Features(*(torch.cat(layer) for layer in zip(*found, strict=True)))


def plain(encoder: Encoder, pixels: Tensor, normalization: tuple[Channels, Channels]) -> Tensor:
    """(B, 3, S, S) uint8 → the encoder's input, on its device."""
    mean, std = normalization
    here = pixels.to(next(encoder.parameters()).device, non_blocking=True)
    return augment.normalize(here, size=here.shape[-1], mean=mean, std=std)


@torch.no_grad()
def encode(encoder: Encoder, inputs: Tensor) -> Features:
    """(B, 3, S, S) normalised images → both layers."""
    found = encoder.backbone(inputs)
    return Features(found.float(), encoder.project(found))


@contextmanager
def frozen(encoder: Encoder, *, drift: bool = False) -> Iterator[None]:
    """Within, the encoder is in eval mode; with `drift` its batch norm alone is in train mode.

    Each module's mode is as it was afterwards, and without drift every weight and statistic too.
    """
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    for module, _ in modes:
        if drift and isinstance(module, _BatchNorm):
            module.training = True
    try:
        yield
    finally:
        for module, was_training in modes:
            module.training = was_training
