"""The shape of a trained encoder's embedding: drawn augmentations, each acting on many images."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from care_core import augment, draws, geometry
from care_core.features import encode, frozen, plain
from care_core.files import write_json
from care_core.models import Encoder
from care_core.spec import ProbeSpec

if TYPE_CHECKING:
    from care_core.data import Images

_BATCH = 512


def measure(
    spec: ProbeSpec, encoder: Encoder, images: Images, run_dir: Path, decoders: int | None = None
) -> dict[str, float]:
    """γ_f and the Wahba error of projections: means over augmentations that act on all images.

    Wahba errors are per √n, and beside R = I and a shuffled pairing; γ_f is beside the latter
    alone, since R = I moves nothing. What each augmentation gave, and where the images lie, goes
    to artifacts/geometry.json.
    """
    chosen = images.take(spread(len(images), spec.probe.geometry.images))
    pixels = torch.cat(list(chosen.batches(_BATCH, decoders))).to(next(encoder.parameters()).device)
    with frozen(encoder):
        still = torch.cat(
            [
                encode(encoder, plain(encoder, part, spec.normalization)).projection
                for part in pixels.split(_BATCH)
            ]
        )
        rows = [_compare(still, moved) for moved in _moved(spec, encoder, pixels)]
    write_json(
        run_dir / "artifacts" / "geometry.json",
        {
            "augmentations": rows,
            "components": _principal(still).tolist(),
            "labels": chosen.labels.tolist(),
            "hues": None if chosen.hues is None else chosen.hues.tolist(),
        },
        durable=False,
    )
    return {key: statistics.fmean(row[key] for row in rows) for key in rows[0]}


def spread(size: int, most: int) -> Tensor:
    """(min(size, most),) positions, evenly over a set that may be sorted by class."""
    count = min(size, most)
    return torch.arange(count) * size // count


def _moved(spec: ProbeSpec, encoder: Encoder, pixels: Tensor) -> Iterator[Tensor]:
    """(n, d) projections under each augmentation, which is one and the same for all images."""
    mean, std = spec.normalization
    height, width = pixels.shape[-2:]
    drawn = augment.sample(
        spec.probe.geometry.augmentations, height, width, spec.augment,
        draws.generator(0, "geometry"),
    )  # fmt: skip
    for number in range(spec.probe.geometry.augmentations):
        one = drawn.rows(slice(number, number + 1))
        parts = [
            augment.apply(
                part, one, size=spec.image_size, blur_kernel=spec.augment.blur_kernel,
                mean=mean, std=std,
            )
            for part in pixels.split(_BATCH)
        ]  # fmt: skip
        yield torch.cat([encode(encoder, part).projection for part in parts])


def _compare(still: Tensor, moved: Tensor) -> dict[str, float]:
    """One augmentation's measures."""
    root_n = math.sqrt(len(still))
    f, fa = still.double(), moved.double()
    gamma = geometry.relative_rotational_equivariance(still, moved)
    blind = geometry.relative_rotational_equivariance(still, geometry.shuffled(moved))
    return {
        "wahba": float(geometry.wahba_error(f, fa)[0]) / root_n,
        "wahba_identity": float((f - fa).norm()) / root_n,
        "wahba_shuffled": float(geometry.wahba_error(f, geometry.shuffled(fa))[0]) / root_n,
        "gamma": gamma.mean,
        "gamma_median": gamma.median,
        "gamma_shuffled": blind.mean,
        "gamma_excluded": float(gamma.excluded),
        "displacement": gamma.displacement,
    }


def _principal(z: Tensor) -> Tensor:
    """(n, d) rows → (n, 2): their first two principal components."""
    centred = z.double() - z.double().mean(dim=0)
    _, _, vt = torch.linalg.svd(centred, full_matrices=False)
    return centred @ vt[:2].T
