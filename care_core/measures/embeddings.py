"""Embeddings of augmented images by a frozen encoder.

One row of parameters acts on all images alike (the a of the paper's figures), a row an image on
each by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from care_core import augment
from care_core.augment import Params
from care_core.augment.jitter import HUE
from care_core.measures.features import Features, encode, frozen, pass_size, plain
from care_core.models import Encoder
from care_core.spec import Augment, ProbeSpec

if TYPE_CHECKING:
    from care_core.data import Images

#: `Augment` settings that leave an image as it is.
IDENTITY = {
    "crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "flip": 0.0, "jitter": 0.0, "gray": 0.0,
    "blur": 0.0,
}  # fmt: skip


def evenly_spaced(size: int, most: int) -> Tensor:
    """(min(size, most),) positions, evenly over a set that may be sorted by class."""
    count = min(size, most)
    return torch.arange(count) * size // count


def load_pixels(images: Images, encoder: Encoder, decoders: int | None) -> Tensor:
    """(n, 3, S, S) uint8: all images of a set, on the encoder's device."""
    parts = list(images.batches(pass_size(encoder, images.size), decoders))
    return torch.cat(parts).to(next(encoder.parameters()).device)


def embed(spec: ProbeSpec, encoder: Encoder, pixels: Tensor, *chain: Params) -> Features:
    """Both layers of f(… a'(a(x))): the augmentations of the chain act one after the other.

    Args:
        pixels: (n, 3, S, S) uint8, S being the spec's image size.
        chain: augmentations of one row each, or of as many as divide n, as in `augment.apply`.
    """
    chain = tuple(_row_per_image(params, len(pixels)) for params in chain)
    found, batch = [], pass_size(encoder, spec.image_size)
    with frozen(encoder):
        for start in range(0, len(pixels), batch):
            rows = slice(start, start + batch)
            part = [params if len(params.flip) == 1 else params.rows(rows) for params in chain]
            found.append(
                encode(encoder, _inputs(spec, encoder, pixels[rows], part), spec.probe.precision)
            )
    return Features(*(torch.cat(layer) for layer in zip(*found, strict=True)))


def augmented_inputs(spec: ProbeSpec, pixels: Tensor, params: Params) -> Tensor:
    """(n, 3, H, W) uint8 → (n, 3, S, S) fp32: augmented, and normalised as the encoder takes it."""
    mean, std = spec.normalization
    return augment.apply(
        pixels, params, size=spec.image_size, blur_kernel=spec.augment.blur_kernel,
        mean=mean, std=std,
    )  # fmt: skip


def augmented_pixels(spec: ProbeSpec, pixels: Tensor, params: Params) -> Tensor:
    """(n, 3, S, S) uint8 → (n, 3, S, S) uint8: augmented images, rounded to 8 bits."""
    unit = augment.apply(
        pixels, params, size=spec.image_size, blur_kernel=spec.augment.blur_kernel,
        mean=(0, 0, 0), std=(1, 1, 1),
    )  # fmt: skip
    return (unit * 255).round_().to(torch.uint8).contiguous()


def restricted(spec: Augment, **parts: float | tuple[float, float]) -> Augment:
    """The spec's distribution with no augmentation but those that `parts` give back to it."""
    return spec.model_copy(update={**IDENTITY, **parts})


def hue_shift(count: int, turns: Tensor | float = 0.0) -> Params:
    """`count` augmentations that shift the hue by so many turns, and do nothing else.

    Args:
        turns: (count,), or one number for all; whole turns do not count.
    """
    factors = torch.ones(count, 4)
    factors[:, HUE] = (torch.as_tensor(turns, dtype=torch.float32) + 0.5) % 1 - 0.5
    no = torch.zeros(count, dtype=torch.bool)
    return Params(
        crop=None, flip=no, jitter=~no, order=torch.arange(4).expand(count, 4), factors=factors,
        gray=no, blur=no, sigma=torch.ones(count),
    )  # fmt: skip


def describe(params: Params, number: int) -> dict[str, Any]:
    """One of several augmentations for a record: what of it acts, and how much; else null."""
    row = params.rows(slice(number, number + 1))
    factors = rounded(row.factors[0])
    names = ("brightness", "contrast", "saturation", "hue")
    return {
        "crop": None if row.crop is None else row.crop[0].tolist(),
        "flip": bool(row.flip),
        "jitter": dict(zip(names, factors, strict=True)) if row.jitter else None,
        "gray": bool(row.gray),
        "blur": round(float(row.sigma), 5) if row.blur else None,
    }


def rounded(values: Tensor) -> list[Any]:
    """A tensor's numbers for a record, as nested lists, to five decimals."""
    if values.ndim > 1:
        return [rounded(row) for row in values]
    return [round(value, 5) for value in values.tolist()]


def _row_per_image(params: Params, count: int) -> Params:
    rows = len(params.flip)
    return params if rows == 1 else params.rows(torch.arange(count) * rows // count)


def _inputs(spec: ProbeSpec, encoder: Encoder, pixels: Tensor, chain: list[Params]) -> Tensor:
    """(n, 3, S, S) normalised; between two augmentations pixels are rounded, as images are."""
    if not chain:
        return plain(encoder, pixels, spec.normalization)
    for params in chain[:-1]:
        pixels = augmented_pixels(spec, pixels, params)
    return augmented_inputs(spec, pixels, chain[-1])
