"""Do embeddings turn as CARE's theory says? Small encoders on digits, for docs/theory.md.

Command: python benchmarks/theory.py hue|recipes [--seeds 0,1,2]. It prints, it decides nothing.

hue: augmentations are shifts of the hue alone, a group of which each member can be undone.
recipes: digits/simclr and digits/care-simclr with the paper's augmentations, and ablations.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from care_core import augment, data, draws, geometry, losses, models, pretrain
from care_core.data.base import ImageSet
from care_core.measures import hue, probing
from care_core.measures.features import encode, extract, frozen, plain
from care_core.measures.linear import Stored, classify
from care_core.models import Encoder
from care_core.spec import PretrainSpec
from carectl import specs

#: Shifts of the hue by up to half a turn, and nothing else.
HUE: dict[str, Any] = {
    "crop_scale": [1, 1], "crop_ratio": [1, 1], "flip": 0, "jitter": 1, "brightness": 0,
    "contrast": 0, "saturation": 0, "hue": 0.5, "gray": 0, "blur": 0,
}  # fmt: skip

#: The weights that make a variant of the loss; λ is CARE's.
WEIGHTS: dict[str, tuple[dict[str, float], float]] = {
    "equivariance + uniformity": ({"method": 0, "uniformity": 1}, 1.0),
    "uniformity alone": ({"method": 0, "uniformity": 1}, 0.0),
    "equivariance alone": ({"method": 0}, 1.0),
    "SimCLR": ({}, 0.0),
    "CARE-SimCLR": ({}, 1.0),
}


class Shape(NamedTuple):
    """What an embedding of test images is like; norms are root mean squares over them."""

    gram: float  #: of f(ax)ᵀf(ax') − f(a'x)ᵀf(a'x') over pairs: what L_equi squares
    rotated: float  #: ‖R_a f − f_a‖ on the half of the images that R_a was not fitted on
    still: float  #: the same for R = I
    shuffled: float  #: the same for R fitted on a shuffled pairing
    composed: float  #: ‖(R_{a'∘a} − R_{a'} R_a) f‖ / ‖(R_{a'∘a} − I) f‖, median over pairs
    displacement: float  #: mean of ‖(R_{a'∘a} − I) f‖
    dimensions: float  #: of the subspace that the composition is fitted in
    rank: float  #: effective: e to the entropy of the shares of squared length
    spread: float  #: 1 − ‖mean of f‖²; 0: all images in one point


def hue_spec(variant: str, seed: int) -> PretrainSpec:
    """The small encoder on digits of 8 pixels, to the sphere in eight dimensions."""
    loss, weight = WEIGHTS[variant]
    return PretrainSpec.model_validate(
        {
            "name": "theory/hue",
            "seed": seed,
            "data": {"name": "digits", "image_size": 8},
            "augment": HUE,
            "model": {"backbone": "small", "width": 8, "hidden": 64, "embedding": 8},
            "loss": loss,
            "equivariance": {"weight": weight, "splits": 16},
            "optimizer": {"lr": 3e-3},
            "schedule": {"name": "cosine"},
            "training": {"epochs": 20, "batch_size": 128},
            "monitor": {"every_epochs": 0},
            "checkpoint": {"every_epochs": 20},
            "probe": {"linear": {"epochs": 300, "optimizer": {"lr": 1e-2}}},
        }
    )


def train(spec: PretrainSpec) -> Encoder:
    """The encoder that a spec makes, by the same engine as every run."""
    with tempfile.TemporaryDirectory() as folder:
        result = pretrain(spec, Path(folder), threads=1)
        return probing.load_encoder(Path(folder) / "checkpoints" / result["checkpoint"])


def untrained(spec: PretrainSpec) -> Encoder:
    """The encoder as it is initialised."""
    return models.build(spec).eval()


def images(spec: PretrainSpec, split: Any) -> ImageSet:
    """The digits, at the size of the spec."""
    found = data.load(spec.data, split, Path("data"))
    assert isinstance(found, ImageSet)
    return found


@torch.no_grad()
def embed(spec: PretrainSpec, encoder: Encoder, pixels: Tensor, *chain: augment.Params) -> Tensor:
    """(n, d) float64 f(… a'(a(x))): the augmentations of the chain act one after the other.

    Between two of them pixels are rounded to 8 bits, as images are.
    """
    mean, std = (torch.tensor(part)[:, None, None] for part in spec.data.normalization)
    inputs = plain(encoder, pixels, spec.data.normalization)
    for params in chain:
        inputs = augment.apply(
            pixels, params, size=spec.image_size, blur_kernel=spec.augment.blur_kernel,
            mean=mean.flatten().tolist(), std=std.flatten().tolist(),
        )  # fmt: skip
        pixels = ((inputs * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).contiguous()
    with frozen(encoder):
        return encode(encoder, inputs).projection.double()


def shape(spec: PretrainSpec, encoder: Encoder, pairs: int = 8) -> Shape:
    """Means over `pairs` pairs (a, a') of the spec's augmentations, each acting on all images.

    R_a is fitted on every other test image and predicts the others. For the composition rotations
    are fitted on the training images, and read on all test images.
    """
    known, asked = images(spec, "train").images, images(spec, "test").images
    side = spec.image_size
    source = draws.generator(0, "theory")  # the same augmentations for every encoder
    drawn = augment.sample(2 * pairs, side, side, spec.augment, source)
    f, seen = embed(spec, encoder, asked), embed(spec, encoder, known)
    half = torch.arange(len(f)) % 2 == 0
    rows = []
    for number in range(pairs):
        a, b = (drawn.rows(slice(2 * number + k, 2 * number + k + 1)) for k in range(2))
        fa, fb = embed(spec, encoder, asked, a), embed(spec, encoder, asked, b)
        composed = geometry.composition(
            seen, *(embed(spec, encoder, known, *chain) for chain in ((a,), (b,), (a, b))), f
        )
        rows.append(
            [_gram(fa, fb), *_predicted(f, fa, half), composed.error, composed.displacement,
             composed.rank]
        )  # fmt: skip
    columns = list(zip(*rows, strict=True))
    found = [statistics.fmean(column) for column in columns]
    found[4] = statistics.median(columns[4])  # a ratio: one small displacement outweighs the rest
    spread = geometry.spread(f)
    return Shape(*found, spread.effective_rank, spread.sd**2)


def _gram(fa: Tensor, fb: Tensor) -> float:
    """Root mean square over pairs x ≠ x', from L_equi at its official scale of one split."""
    return math.sqrt(float(losses.equivariance(fa, fb, 1)) / (2 * (len(fa) - 1)))


def _predicted(f: Tensor, fa: Tensor, half: Tensor) -> list[float]:
    """How far held-out R f is from f_a: for R fitted, R = I, and R of a shuffled pairing."""
    fitted = geometry.wahba_error(f[half], fa[half])[1]
    blind = geometry.wahba_error(f[half], geometry.shuffled(fa[half]))[1]
    count = int((~half).sum())
    return [
        float((f[~half] @ r.T - fa[~half]).norm()) / math.sqrt(count)
        for r in (fitted, torch.eye(f.shape[1]).to(f), blind)
    ]


class Worth(NamedTuple):
    """What the two layers know: the digit, by the recipe's linear probe, and the hue, as R²."""

    backbone: float  #: per cent of test images
    projection: float
    hue_backbone: float
    hue_projection: float


def worth(spec: PretrainSpec, encoder: Encoder) -> Worth:
    """Measured on test images, by classifiers (seed 0) and regressions of the training images."""
    known, asked = images(spec, "train"), images(spec, "test")
    assert known.hues is not None and asked.hues is not None
    x, y = (extract(encoder, part, spec.data.normalization) for part in (known, asked))
    linear = spec.probe.linear
    source = Stored(x, known.labels, y, seed=0, batch_size=linear.batch_size)
    scores = classify(linear, 0, source, asked.labels, known.classes)
    hues = [hue.r2(a, known.hues, b, asked.hues) for a, b in zip(x, y, strict=True)]
    return Worth(scores["backbone"].last, scores["projection"].last, *hues)


Trained = Iterator[tuple[str, PretrainSpec, Encoder]]


def hue_encoders(seed: int) -> Trained:
    """Every variant of the hue experiment, and one that was not trained."""
    yield "not trained", (spec := hue_spec("SimCLR", seed)), untrained(spec)
    for variant in WEIGHTS:
        yield variant, (spec := hue_spec(variant, seed)), train(spec)


def recipe_encoders(seed: int) -> Trained:
    """The shipped digits recipes and the ablations of their loss, and one that was not trained."""
    variants = {
        "equivariance + uniformity": ("loss.method=0", "loss.uniformity=1"),
        "uniformity alone": ("loss.method=0", "loss.uniformity=1", "equivariance.weight=0"),
        "equivariance alone": ("loss.method=0",),
        "SimCLR": ("equivariance.weight=0",),
        "CARE-SimCLR": (),
    }
    for variant, overrides in {"not trained": (), **variants}.items():
        spec = specs.load(
            specs.find("digits/care-simclr"),
            [*overrides, f"seed={seed}", "monitor.every_epochs=0", "checkpoint.every_epochs=1000"],
        )
        yield variant, spec, untrained(spec) if variant == "not trained" else train(spec)


Row = dict[str, float]


def measured(encoders: Callable[[int], Trained], seeds: list[int]) -> dict[str, list[Row]]:
    """By variant, what each seed gave."""
    found: dict[str, list[Row]] = {}
    for seed in seeds:
        for variant, spec, encoder in encoders(seed):
            row = {**shape(spec, encoder)._asdict(), **worth(spec, encoder)._asdict()}
            found.setdefault(variant, []).append(row)
            print(f"seed {seed}: {variant}", file=sys.stderr)
    return found


def table(found: dict[str, list[Row]]) -> str:
    """Markdown: mean ± sd over seeds."""
    keys = list(next(iter(found.values()))[0])
    lines = ["| | " + " | ".join(keys) + " |", "|---|" + "---:|" * len(keys)]
    for variant, rows in found.items():
        cells = [_cell([row[key] for row in rows]) for key in keys]
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    mean = statistics.fmean(values)
    digits = 1 if mean >= 20 else 2 if mean >= 0.1 else 3
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean:.{digits}f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("experiment", choices=["hue", "recipes"])
    parser.add_argument("--seeds", default="0,1,2")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    seeds = [int(seed) for seed in asked.seeds.split(",")]
    encoders = hue_encoders if asked.experiment == "hue" else recipe_encoders
    print(table(measured(encoders, seeds)))


if __name__ == "__main__":
    main()
