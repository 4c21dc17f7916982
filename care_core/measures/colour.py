"""How much of an image's colour an embedding keeps: neighbours, and regression from pairs.

Paper, Figs. 9 and 21, show the nearest neighbours of a few flowers before and after a change of
their colour. Here they are kept as pictures too, and told in numbers over many images, and so is
how well an augmentation can be read from the embeddings of an image before and after it.
"""

from __future__ import annotations

import io
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from care_core.data.base import resized
from care_core.files import write_bytes, write_json
from care_core.measures import acting, hue, pairs, retrieval
from care_core.measures.features import Features
from care_core.measures.retrieval import Neighbours
from care_core.models import Encoder
from care_core.spec import ProbeSpec

if TYPE_CHECKING:
    from care_core.data import Images

#: Certainty of `hue.of` from which on an image is said to have a hue.
_DEFINITE = 0.5

#: Pixels a side of the pictures that are kept, at most.
_THUMBNAIL = 64


class _Some(NamedTuple):
    """Images of a set, with what is known of their hue; all but positions on the device."""

    positions: Tensor  #: (n,) in the set
    pixels: Tensor  #: (n, 3, S, S) uint8
    labels: Tensor  #: (n,)
    hues: Tensor  #: (n,) turns: what the set says, else what the pixels do
    definite: Tensor  #: (n,) bool: whether there is such a hue


def measure(
    spec: ProbeSpec, encoder: Encoder, train: Images, test: Images, run_dir: Path,
    decoders: int | None = None,
) -> dict[str, float]:  # fmt: skip
    """Neighbours among test images, and regressions from train to test images, of both layers.

    Returns:
        Numbers by measure and layer, such as agreement_backbone: those of `retrieval.judge`;
        `hue_r2`, an image's own hue read from its embedding; and `hue_shift_r2`, `crop_r2` and
        `jitter_r2`, an augmentation read from the embeddings before and after it (`pairs.read`,
        mean over its parameters), by ridge regression, and with `_products` from products too.

    Per parameter and query they go to artifacts/colour.json, pictures to artifacts/colour.npz.
    """
    settings = spec.probe.colour
    asked = _some(test, settings.images, encoder, decoders)
    known = _some(train, settings.pairs, encoder, decoders)
    f, seen = (acting.embed(spec, encoder, part.pixels) for part in (asked, known))
    found = _neighbours(spec, encoder, asked, f)
    layers = {
        layer: {
            **retrieval.judge(
                found[layer], asked.labels, asked.hues, asked.definite, settings.hue_shift
            ),
            "hue_r2": _hue_r2(known, asked, getattr(seen, layer), getattr(f, layer)),
        }
        for layer in Features._fields
    }
    few = acting.evenly(len(f.backbone), settings.pairs).to(f.backbone.device)
    plain = (seen, Features(*(rows[few] for rows in f)))
    read = pairs.read(spec, encoder, known.pixels, asked.pixels[few], plain)

    chance = retrieval.hue_gap_by_chance(asked.hues[asked.definite], settings.hue_shift)
    shown = _shown(asked, settings.queries)
    folder = run_dir / "artifacts"
    write_json(
        folder / "colour.json",
        {
            "images": len(asked.pixels),
            "pairs": {"fitted": len(known.pixels), "read": len(few)},
            "hue_shift": settings.hue_shift,
            "hues": "measured" if test.hues is None else "given",
            "hue_gap_chance": chance,
            "layers": layers,
            "regression": read,
            "queries": [_told(asked, found, int(row)) for row in shown],
        },
        durable=False,
    )
    write_bytes(folder / "colour.npz", _pictures(spec, asked, found, shown), durable=False)
    return {**_flat(layers, read), "hue_gap_chance": chance}


def _some(images: Images, most: int, encoder: Encoder, decoders: int | None) -> _Some:
    positions = acting.evenly(len(images), most)
    chosen = images.take(positions)
    pixels = acting.pixels_of(chosen, encoder, decoders)
    hues, certainty = hue.of(pixels)
    definite = certainty >= _DEFINITE
    if chosen.hues is not None:
        hues, definite = chosen.hues.to(pixels.device), definite | True
    return _Some(positions, pixels, chosen.labels.to(pixels.device), hues, definite)


def _neighbours(
    spec: ProbeSpec, encoder: Encoder, asked: _Some, f: Features
) -> dict[str, Neighbours]:
    """By layer, of all images."""
    settings = spec.probe.colour
    moved = acting.embed(spec, encoder, asked.pixels, acting.turned(1, settings.hue_shift))
    k = min(settings.neighbours, len(asked.pixels) - 1)
    return {
        layer: Neighbours(
            *(retrieval.nearest(getattr(queries, layer), bank, k) for queries in (f, moved))
        )
        for layer, bank in f._asdict().items()
    }


def _hue_r2(known: _Some, asked: _Some, x: Tensor, y: Tensor) -> float:
    """Of images that have a hue; nan where there are none."""
    a, b = known.definite, asked.definite
    if min(int(a.sum()), int(b.sum())) < 2:
        return float("nan")
    return hue.r2(x[a], known.hues[a].cpu(), y[b], asked.hues[b].cpu())


def _flat(layers: dict[str, dict[str, float]], read: pairs.Read) -> dict[str, float]:
    found = {
        f"{measure}_{layer}": value
        for layer, measures in layers.items()
        for measure, value in measures.items()
    }
    for name, by_layer in read.items():
        for layer, readings in by_layer.items():
            for reading, parameters in readings.items():
                suffix = "" if reading == "linear" else f"_{reading}"
                found[f"{name}_r2{suffix}_{layer}"] = statistics.fmean(parameters.values())
    return found


def _shown(asked: _Some, most: int) -> Tensor:
    """Rows of the images whose neighbours are shown: of those with a hue, where there are any."""
    rows = asked.definite.nonzero()[:, 0]
    if not len(rows):
        rows = torch.arange(len(asked.pixels), device=rows.device)
    return rows[acting.evenly(len(rows), most).to(rows.device)]


def _told(asked: _Some, found: dict[str, Neighbours], row: int) -> dict[str, Any]:
    """One query and its neighbours, by their positions in the test set."""

    def described(rows: Tensor) -> dict[str, Any]:
        return {
            "positions": asked.positions[rows.cpu()].tolist(),
            "labels": asked.labels[rows].tolist(),
            "hues": [round(value, 5) for value in asked.hues[rows].tolist()],
        }

    return {
        "position": int(asked.positions[row]),
        "label": int(asked.labels[row]),
        "hue": round(float(asked.hues[row]), 5),
        **{
            layer: {
                "still": described(both.still[row]),
                "moved": described(both.moved[row]),
                "agreement": float(retrieval.overlap(both.still[[row]], both.moved[[row]])),
            }
            for layer, both in found.items()
        },
    }


def _pictures(spec: ProbeSpec, asked: _Some, found: dict[str, Neighbours], shown: Tensor) -> bytes:
    """An .npz of uint8 arrays (q, S, S, 3) of queries and (q, k, S, S, 3) of their neighbours."""
    size = min(spec.image_size, _THUMBNAIL)

    def thumbnails(pixels: Tensor) -> Any:
        return resized(pixels, size).permute(0, 2, 3, 1).cpu().numpy()

    queries = asked.pixels[shown]
    shifted = acting.moved(spec, queries, acting.turned(1, spec.probe.colour.hue_shift))
    arrays = {"query": thumbnails(queries), "moved": thumbnails(shifted)}
    for layer, both in found.items():
        for name, rows in both._asdict().items():
            flat = thumbnails(asked.pixels[rows[shown].flatten()])
            arrays[f"{layer}_{name}"] = flat.reshape(len(shown), -1, size, size, 3)
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()
