"""What a frozen encoder makes of images that are not augmented. Streams: a pass at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from care_core import augment
from care_core.models import Encoder, unit
from care_core.precision import autocast
from care_core.spec.sections import Channels

if TYPE_CHECKING:
    from care_core.data import Images


#: Images that batch norm sees at a time where it drifts: there the number is part of the function.
_DRIFT_BATCH = 512


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
    batch: int | None = None,
    precision: str = "fp32",
    drift: bool = False,
    decoders: int | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Features:
    """The features of all images of a set, in order, on the encoder's device.

    Args:
        normalization: mean and std of what the encoder was trained on, in units of [0, 1].
        batch: images a pass; default: as many as suit the device (`pass_size`), or 512 to drift.
        precision: of the encoder's passes (`encode`).
        drift: batch norm normalises by each batch, and its statistics move (`frozen`).
        decoders: processes that decode image files; default: a core each.
        tick: called after each batch.

    Raises:
        DataError: names an image file that cannot be decoded.
    """
    found = []
    if batch is None:
        batch = _DRIFT_BATCH if drift else pass_size(encoder, images.size)
    with frozen(encoder, drift=drift):
        for pixels in images.batches(batch, decoders):
            found.append(encode(encoder, plain(encoder, pixels, normalization), precision))
            tick()
    return Features(*(torch.cat(layer) for layer in zip(*found, strict=True)))


def pass_size(encoder: Encoder, size: int) -> int:
    """How many images of `size` pixels a side a frozen encoder best takes at a time.

    A GPU wants many, which take less than a step of training; a core wants its activations near.
    The number changes the rounding of the features alone, as the encoder is in eval mode.
    """
    if next(encoder.parameters()).device.type == "cpu":
        return 128 if size <= 96 else 32
    return 1024 if size <= 32 else 256


def plain(encoder: Encoder, pixels: Tensor, normalization: tuple[Channels, Channels]) -> Tensor:
    """(B, 3, S, S) uint8 → the encoder's input, on its device; point clouds are one as they are."""
    mean, std = normalization
    here = pixels.to(next(encoder.parameters()).device, non_blocking=True)
    if here.is_floating_point():
        return here
    return augment.normalize(here, size=here.shape[-1], mean=mean, std=std)


@torch.no_grad()
def encode(encoder: Encoder, inputs: Tensor, precision: str = "fp32") -> Features:
    """(B, 3, S, S) normalised images → both layers, fp32 whatever the precision of the passes.

    Args:
        precision: fp32, bf16 or fp16 (`care_core.precision.autocast`).
    """
    with autocast(inputs.device, precision):
        found = encoder.backbone(inputs)
        projected = encoder.projector(found)
    return Features(found.float(), unit(projected))


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
