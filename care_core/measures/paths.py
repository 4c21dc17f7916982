"""Images followed along paths of augmentations, from none of one to all of it (paper, Fig. 6)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from care_core.augment import Params
from care_core.augment.jitter import BRIGHTNESS
from care_core.measures import embeddings
from care_core.measures.embeddings import rounded
from care_core.models import Encoder
from care_core.spec import ProbeSpec


def follow(spec: ProbeSpec, encoder: Encoder, pixels: Tensor) -> dict[str, Any]:
    """By path, where images lie at each step, and how far from where they began.

    Args:
        pixels: (k, 3, S, S) uint8, the images to follow.

    Returns:
        For each path its `strength` (steps + 1 numbers from 0 to 1), its `value` (what is applied,
        in the path's `unit`), the mean `displacement` ‖f(a(x)) − f(x)‖ over images at each step,
        and of an encoder to the circle (d = 2) `angles`: a list an image of steps + 1 radians.
    """
    strength = torch.linspace(0, 1, spec.probe.geometry.path_steps + 1)
    found: dict[str, Any] = {}
    for name, unit, value, params in _paths(spec, strength):
        repeated = pixels.repeat(len(strength), 1, 1, 1)
        f = embeddings.embed(spec, encoder, repeated, params).projection
        f = f.view(len(strength), len(pixels), -1)
        found[name] = {
            "unit": unit,
            "strength": rounded(strength),
            "value": rounded(value),
            "displacement": rounded((f - f[0]).norm(dim=2).mean(dim=1)),
            "angles": rounded(angles(f).T) if f.shape[2] == 2 else None,
        }
    return found


def angles(f: Tensor) -> Tensor:
    """(…, 2) points of the circle → (…,) radians in (−π, π]."""
    return torch.atan2(f[..., 1], f[..., 0])


def _paths(spec: ProbeSpec, strength: Tensor) -> Iterator[tuple[str, str, Tensor, Params]]:
    """Name, unit, values and augmentations (a row a step) of each path.

    The hue goes once around, so that its path ends where it began; the crop closes in on the
    middle down to the smallest area of the spec, and the image darkens to the spec's least
    brightness (a brighter one would be cut off at white).
    """
    count, size = len(strength), spec.image_size
    yield "hue", "turns", strength, embeddings.hue_shift(count, strength)

    area = 1 - strength * (1 - spec.augment.crop_scale[0])
    side = (area.sqrt() * size).round().clamp(min=1).long()
    start = (size - side) // 2
    still = embeddings.hue_shift(count)
    yield (
        "crop",
        "share of the area",
        (side / size).square(),
        still._replace(
            crop=torch.stack([start, start, side, side], dim=1), jitter=torch.zeros(count).bool()
        ),
    )

    dark = 1 - strength * min(1.0, spec.augment.brightness)
    factors = still.factors.clone()
    factors[:, BRIGHTNESS] = dark
    yield "brightness", "factor", dark, still._replace(factors=factors)
