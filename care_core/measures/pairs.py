"""What of an augmentation can be read from the embeddings of an image before and after it.

The paper shows pictures of it alone (Figs. 9 and 21). An invariant embedding has forgotten all;
an equivariant one has it in the rotation from one to the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from care_core import augment, draws
from care_core.augment import Params
from care_core.augment.jitter import HUE
from care_core.measures import embeddings, hue, regression
from care_core.measures.features import Features
from care_core.models import Encoder
from care_core.spec import Augment, ProbeSpec

#: R² by augmentation (hue_shift, crop, jitter), layer, reading (linear, products) and parameter.
Read = dict[str, dict[str, dict[str, dict[str, float]]]]


class _Kind(NamedTuple):
    """Augmentations that differ in one respect alone, and the (n, c) columns that tell which."""

    name: str
    spec: Augment
    parameters: Callable[[Params], dict[str, Tensor]]


def read(
    spec: ProbeSpec, encoder: Encoder, train: Tensor, test: Tensor,
    unaugmented: tuple[Features, Features],
) -> Read:  # fmt: skip
    """R² on images that were not fitted, of the spec's crops, colour jitters and shifts of the hue.

    Each image has an augmentation of its own, drawn from the spec's ranges. Features are f(x),
    f(a(x)) and their difference, standardised. A parameter that the spec leaves alone is left out,
    and an augmentation of which all are.

    Args:
        train, test: (N, 3, S, S) and (M, 3, S, S) uint8 images to fit and to read.
        unaugmented: their embeddings as they are.
    """
    found: Read = {}
    for kind in _kinds(spec.augment, spec.image_size):
        drawn = [
            augment.sample(
                len(pixels), spec.image_size, spec.image_size, kind.spec,
                draws.generator(0, "pairs", kind.name, role),
            )
            for pixels, role in ((train, "known"), (test, "asked"))  # the roles seed the draws
        ]  # fmt: skip
        y_train, y_test = (kind.parameters(params) for params in drawn)
        y_train = {name: columns for name, columns in y_train.items() if _varies(columns)}
        if not y_train:
            continue
        augmented = [
            embeddings.embed(spec, encoder, pixels, params)
            for pixels, params in zip((train, test), drawn, strict=True)
        ]
        found[kind.name] = {}
        for layer in Features._fields:
            x_train, x_test = (
                _joined(getattr(before, layer), getattr(after, layer))
                for before, after in zip(unaugmented, augmented, strict=True)
            )
            found[kind.name][layer] = _readings(x_train, y_train, x_test, y_test)
    return found


def _readings(
    x_train: Tensor, y_train: dict[str, Tensor], x_test: Tensor, y_test: dict[str, Tensor]
) -> dict[str, dict[str, float]]:
    return {
        name: regression.r2(x_train, y_train, x_test, y_test, products=products)
        for name, products in (("linear", False), ("products", True))
    }


def _kinds(spec: Augment, size: int) -> Iterator[_Kind]:
    """Crops, jitters of all four colour operations, and of the hue alone.

    A shift of the hue is a point on the circle; a crop is told in shares of the image's side.
    """

    def shift(params: Params) -> dict[str, Tensor]:
        return {"hue": hue.circle(params.factors[:, HUE])}

    def jitter(params: Params) -> dict[str, Tensor]:
        named = ("brightness", "contrast", "saturation")
        columns = {name: params.factors[:, number, None] for number, name in enumerate(named)}
        return {**columns, **shift(params)}

    def crop(params: Params) -> dict[str, Tensor]:
        assert params.crop is not None
        named = ("top", "left", "height", "width")
        return {name: params.crop[:, number, None] / size for number, name in enumerate(named)}

    if spec.jitter > 0:
        alone = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
        yield _Kind("hue_shift", embeddings.restricted(spec, jitter=1.0, **alone), shift)
    wide = {"crop_scale": spec.crop_scale, "crop_ratio": spec.crop_ratio}
    yield _Kind("crop", embeddings.restricted(spec, **wide), crop)
    if spec.jitter > 0:
        yield _Kind("jitter", embeddings.restricted(spec, jitter=1.0), jitter)


def _varies(columns: Tensor) -> bool:
    return bool((columns != columns[0]).any())


def _joined(f: Tensor, fa: Tensor) -> Tensor:
    return torch.cat([f, fa, fa - f], dim=1)
