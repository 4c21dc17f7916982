"""The kind `geometry`: the shape of an embedding, by augmentations that each act on many images.

Paper, section 5: the Wahba error (Fig. 5), cosines of f(x) and f(a(x)) and paths on the circle
(Fig. 6), γ_f beside the invariance loss (Fig. 8), and what the terms of the loss leave (Fig. 10).
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from care_core import augment, draws, geometry, losses
from care_core.files import write_json
from care_core.measures import embeddings, paths
from care_core.models import Encoder
from care_core.spec import ProbeSpec
from care_core.views import clouds

if TYPE_CHECKING:
    from care_core.data import Images


def measure(
    spec: ProbeSpec, encoder: Encoder, images: Images, run_dir: Path, decoders: int | None = None
) -> dict[str, float]:
    """Measures of the projections: means over augmentations that act on all images alike.

    Wahba errors are per √n (`wahba_raw` is not), beside R = I and a shuffled pairing, and beside
    that of a rotation fitted on half of the images and read on the others; γ_f is beside the
    shuffled pairing alone, since R = I moves nothing. `collapsed` is 1 or 0 (`geometry.Spread`).

    What each augmentation gave, the histograms of cosines, where the images lie in their principal
    plane, where each augmentation moves some of them there, and the paths that these take go to
    artifacts/geometry.json.
    """
    settings = spec.probe.geometry
    chosen = images.take(embeddings.evenly_spaced(len(images), settings.images))
    pixels = embeddings.load_pixels(chosen, encoder, decoders)
    f = embeddings.embed(spec, encoder, pixels).projection
    some = embeddings.evenly_spaced(len(pixels), settings.path_images).to(pixels.device)
    plane = geometry.principal_plane(f)
    rows, counts, parameters, moved = [], [], [], []
    for (fa, drawn), (fb, _) in itertools.pairwise(_augmented(spec, encoder, pixels)):
        parameters.append(drawn)
        rows.append(_compare(f, fa, fb))
        counts.append(geometry.cosine_counts(f, fa))
        moved.append(plane.coordinates(fa[some]).tolist())
    spread = geometry.spread(f)
    embedding = {**spread._asdict(), "uniformity": float(losses.uniformity(f))}
    write_json(
        run_dir / "artifacts" / "geometry.json",
        {
            "augmentations": rows,
            "parameters": parameters,
            "cosines": {
                "edges": [round(2 * n / geometry.COSINE_BINS - 1, 6)
                          for n in range(geometry.COSINE_BINS + 1)],
                "counts": torch.stack(counts).sum(dim=0).tolist(),
                "each": [count.tolist() for count in counts],
            },
            "embedding": {**embedding, "dimensions": f.shape[1], "images": len(f),
                          "collapsed": spread.collapsed},
            "paths": None  # how clouds turn about an axis is measured by the kind axis
            if spec.data.clouds
            else paths.follow(spec, encoder, pixels[some]),
            "path_images": some.tolist(),
            "angles": paths.angles(f).tolist() if f.shape[1] == 2 else None,
            "components": plane.coordinates(f).tolist(),
            "moved": moved,
            "labels": chosen.labels.tolist(),
            "hues": None if chosen.hues is None else chosen.hues.tolist(),
        },
        durable=False,
    )  # fmt: skip
    means = {key: statistics.fmean(row[key] for row in rows) for key in rows[0]}
    return {**means, **embedding, "collapsed": float(spread.collapsed)}


def _augmented(
    spec: ProbeSpec, encoder: Encoder, pixels: Tensor
) -> Iterator[tuple[Tensor, dict[str, Any]]]:
    """(n, d) projections under each augmentation, one and the same for all images, and what it is.

    There is one more than is measured: each is compared with the next one too. Clouds are rotated.
    """
    count, source = spec.probe.geometry.augmentations + 1, draws.generator(0, "geometry")
    if spec.data.clouds:
        for turn in clouds.rotations(augment.numbers(count, source)):
            turned = clouds.rotate(pixels, turn[None])
            yield embeddings.embed(spec, encoder, turned).projection, {"rotation": turn.tolist()}
        return
    drawn = augment.sample(count, spec.image_size, spec.image_size, spec.augment, source)
    for number in range(count):
        one = drawn.rows(slice(number, number + 1))
        yield (
            embeddings.embed(spec, encoder, pixels, one).projection,
            embeddings.describe(drawn, number),
        )


def _compare(f: Tensor, fa: Tensor, fb: Tensor) -> dict[str, float]:
    """One augmentation's measures, and the distance to the image under another (L_inv).

    Args:
        f, fa, fb: (n, d) projections f(x), f(a(x)) and f(a'(x)) of the same images.
    """
    root_n = math.sqrt(len(f))
    # as they are: pairs that move by no more than the rounding of fp32 are left out
    gamma = geometry.relative_rotational_equivariance(f, fa)
    gamma_shuffled = geometry.relative_rotational_equivariance(f, geometry.shuffled(fa))
    invariance = float(losses.alignment(fa, fb))
    f, fa = f.double(), fa.double()
    error = float(geometry.wahba_error(f, fa)[0])
    return {
        "wahba": error / root_n,
        "wahba_raw": error,
        "wahba_held_out": geometry.held_out_error(f, fa),
        "wahba_identity": float((f - fa).norm()) / root_n,
        "wahba_shuffled": float(geometry.wahba_error(f, geometry.shuffled(fa))[0]) / root_n,
        "gamma": gamma.mean,
        "gamma_median": gamma.median,
        "gamma_shuffled": gamma_shuffled.mean,
        "gamma_excluded": float(gamma.excluded),
        "displacement": gamma.displacement,
        "invariance": invariance,
        "cosine": float((f * fa).sum(dim=1).mean()),
    }
