"""Do the rotations of a trained encoder compose? Theory: ρ(a'∘a) = ρ(a') ρ(a) where L_equi = 0.

Paper, section 3. Beside the encoder stands the same network as it was initialised, with the same
augmentations of the same images.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from care_core import augment, draws, geometry
from care_core.augment import Params
from care_core.files import write_json
from care_core.measures import embeddings
from care_core.models import Encoder
from care_core.spec import ProbeSpec

if TYPE_CHECKING:
    from care_core.data import Images


def measure(
    spec: ProbeSpec, encoder: Encoder, untrained: Encoder, train: Images, test: Images,
    run_dir: Path, decoders: int | None = None,
) -> dict[str, float]:  # fmt: skip
    """`geometry.composition` of projections over pairs (a, a') that act on all images alike.

    Rotations are fitted on training images, in the principal subspace of their embeddings, and
    compared on test images. Both augmentations are drawn from the spec's; a'∘a is one after the
    other, the images between them being rounded to 8 bits.

    Returns:
        Means over pairs of what `geometry.Composition` has; `error_median`, as one pair that moves
        little can outweigh the rest; `error_identity`, which R = I has by definition; and all of
        it of the encoder without training, as `untrained_…`. nan where nothing moves.

    What each pair gave goes to artifacts/composition.json.
    """
    settings = spec.probe.composition
    train_pixels, test_pixels = (
        embeddings.load_pixels(
            images.take(embeddings.evenly_spaced(len(images), settings.images)), encoder, decoders
        )
        for images in (train, test)
    )
    drawn = augment.sample(
        2 * settings.pairs, spec.image_size, spec.image_size, spec.augment,
        draws.generator(0, "composition"),
    )  # fmt: skip
    rows = {
        name: [
            one._asdict() for one in _compositions(spec, which, train_pixels, test_pixels, drawn)
        ]
        for name, which in (("trained", encoder), ("untrained", untrained))
    }
    write_json(
        run_dir / "artifacts" / "composition.json",
        {
            "fitted_on": len(train_pixels), "read_on": len(test_pixels), "error_identity": 1.0,
            "pairs": [[embeddings.describe(drawn, at) for at in (number, number + 1)]
                      for number in range(0, 2 * settings.pairs, 2)],
            **rows,
        },
        durable=False,
    )  # fmt: skip
    trained, fresh = (_means(part) for part in rows.values())
    return {
        **trained,
        "error_identity": 1.0,
        **{f"untrained_{key}": value for key, value in fresh.items()},
    }


def _compositions(
    spec: ProbeSpec, encoder: Encoder, train: Tensor, test: Tensor, drawn: Params
) -> Iterator[geometry.Composition]:
    """Of each pair (a, a'), two rows of `drawn` in a row."""

    def f(pixels: Tensor, *chain: Params) -> Tensor:
        return embeddings.embed(spec, encoder, pixels, *chain).projection

    unaugmented, held_out = f(train), f(test)
    for number in range(0, len(drawn.flip), 2):
        a, b = (drawn.rows(slice(at, at + 1)) for at in (number, number + 1))
        yield geometry.composition(unaugmented, f(train, a), f(train, b), f(train, a, b), held_out)


def _means(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Over pairs, those without displacement left out of the errors."""
    found = {}
    for key in rows[0]:
        values = [float(row[key]) for row in rows if not math.isnan(row[key])]
        found[key] = statistics.fmean(values) if values else math.nan
        if key == "error":
            found["error_median"] = statistics.median(values) if values else math.nan
    return found
