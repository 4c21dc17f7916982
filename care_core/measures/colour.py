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
from care_core.measures import embeddings, hue, pairs, retrieval
from care_core.measures.embeddings import rounded
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


class _Sample(NamedTuple):
    """Some images of a set, with what is known of their hue; all but positions on the device."""

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
    queries = _sample(test, settings.images, encoder, decoders)
    known = _sample(train, settings.pairs, encoder, decoders)
    f, f_known = (embeddings.embed(spec, encoder, part.pixels) for part in (queries, known))
    found = _neighbours(spec, encoder, queries, f)
    layers = {
        layer: {
            **retrieval.judge(
                found[layer], queries.labels, queries.hues, queries.definite, settings.hue_shift
            ),
            "hue_r2": _hue_r2(known, getattr(f_known, layer), queries, getattr(f, layer)),
        }
        for layer in Features._fields
    }
    few = embeddings.evenly_spaced(len(f.backbone), settings.pairs).to(f.backbone.device)
    unaugmented = (f_known, Features(*(rows[few] for rows in f)))
    read = pairs.read(spec, encoder, known.pixels, queries.pixels[few], unaugmented)

    chance = retrieval.hue_gap_by_chance(queries.hues[queries.definite], settings.hue_shift)
    shown = _shown(queries, settings.queries)
    folder = run_dir / "artifacts"
    write_json(
        folder / "colour.json",
        {
            "images": len(queries.pixels),
            "pairs": {"fitted": len(known.pixels), "read": len(few)},
            "hue_shift": settings.hue_shift,
            "hues": "measured" if test.hues is None else "given",
            "hue_gap_chance": chance,
            "layers": layers,
            "regression": read,
            "queries": [_describe(queries, found, int(row)) for row in shown],
        },
        durable=False,
    )
    write_bytes(folder / "colour.npz", _pictures(spec, queries, found, shown), durable=False)
    return {**_flat(layers, read), "hue_gap_chance": chance}


def _sample(images: Images, most: int, encoder: Encoder, decoders: int | None) -> _Sample:
    """At most so many images of a set, evenly over it."""
    positions = embeddings.evenly_spaced(len(images), most)
    chosen = images.take(positions)
    pixels = embeddings.load_pixels(chosen, encoder, decoders)
    hues, certainty = hue.of(pixels)
    definite = certainty >= _DEFINITE
    if chosen.hues is not None:
        hues, definite = chosen.hues.to(pixels.device), definite | True
    return _Sample(positions, pixels, chosen.labels.to(pixels.device), hues, definite)


def _neighbours(
    spec: ProbeSpec, encoder: Encoder, queries: _Sample, f: Features
) -> dict[str, Neighbours]:
    """By layer, of all queries among themselves."""
    settings = spec.probe.colour
    shift = embeddings.hue_shift(1, settings.hue_shift)
    fa = embeddings.embed(spec, encoder, queries.pixels, shift)
    k = min(settings.neighbours, len(queries.pixels) - 1)
    return {
        layer: Neighbours(*(retrieval.nearest(getattr(part, layer), bank, k) for part in (f, fa)))
        for layer, bank in f._asdict().items()
    }


def _hue_r2(train: _Sample, x_train: Tensor, test: _Sample, x_test: Tensor) -> float:
    """Of images that have a hue; nan where there are none."""
    a, b = train.definite, test.definite
    if min(int(a.sum()), int(b.sum())) < 2:
        return float("nan")
    return hue.r2(x_train[a], train.hues[a].cpu(), x_test[b], test.hues[b].cpu())


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


def _shown(queries: _Sample, most: int) -> Tensor:
    """Rows of the images whose neighbours are shown: of those with a hue, where there are any."""
    rows = queries.definite.nonzero()[:, 0]
    if not len(rows):
        rows = torch.arange(len(queries.pixels), device=rows.device)
    return rows[embeddings.evenly_spaced(len(rows), most).to(rows.device)]


def _describe(queries: _Sample, found: dict[str, Neighbours], row: int) -> dict[str, Any]:
    """One query and its neighbours, by their positions in the test set."""

    def neighbours(rows: Tensor) -> dict[str, Any]:
        return {
            "positions": queries.positions[rows.cpu()].tolist(),
            "labels": queries.labels[rows].tolist(),
            "hues": rounded(queries.hues[rows]),
        }

    return {
        "position": int(queries.positions[row]),
        "label": int(queries.labels[row]),
        "hue": round(float(queries.hues[row]), 5),
        **{
            layer: {
                "still": neighbours(both.still[row]),
                "moved": neighbours(both.moved[row]),
                "agreement": float(retrieval.overlap(both.still[[row]], both.moved[[row]])),
            }
            for layer, both in found.items()
        },
    }


def _pictures(
    spec: ProbeSpec, queries: _Sample, found: dict[str, Neighbours], shown: Tensor
) -> bytes:
    """An .npz of uint8 arrays (q, S, S, 3) of queries and (q, k, S, S, 3) of their neighbours."""
    size = min(spec.image_size, _THUMBNAIL)

    def thumbnails(pixels: Tensor) -> Any:
        return resized(pixels, size).permute(0, 2, 3, 1).cpu().numpy()

    pixels = queries.pixels[shown]
    shift = embeddings.hue_shift(1, spec.probe.colour.hue_shift)
    shifted = embeddings.augmented_pixels(spec, pixels, shift)
    arrays = {"query": thumbnails(pixels), "moved": thumbnails(shifted)}
    for layer, both in found.items():
        for name, rows in both._asdict().items():
            flat = thumbnails(queries.pixels[rows[shown].flatten()])
            arrays[f"{layer}_{name}"] = flat.reshape(len(shown), -1, size, size, 3)
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()
