"""The embedded digits: all of scikit-learn's, each with a hue, in a fixed split."""

from __future__ import annotations

import colorsys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from care_core import data
from care_core.spec.facts import DATASETS
from care_core.spec.sections import Data


def of(name: str) -> Data:
    return Data.model_validate({"name": name})


def brightness(images: torch.Tensor) -> list[bytes]:
    """The largest channel of each pixel, an image an entry: the tint has no part in it."""
    return [image.amax(dim=0).numpy().tobytes() for image in images]


def test_the_digits_are_all_1797_of_scikit_learn_each_in_one_part() -> None:
    parts = [data.load(of("digits"), split, Path(), 16) for split in ("train", "test")]
    assert [len(part) for part in parts] == [1437, 360]
    raw = load_digits()
    strokes = torch.from_numpy(raw.images / 16).float()[:, None]
    large = F.interpolate(strokes, (16, 16), mode="bilinear").mul(255).round().to(torch.uint8)
    expected = Counter(zip(brightness(large), raw.target.tolist(), strict=True))
    found = Counter(
        pair
        for part in parts
        for pair in zip(brightness(part.images), part.labels.tolist(), strict=True)
    )
    assert found == expected
    assert found.total() == 1797


def test_the_digits_are_split_by_the_share_of_each_digit() -> None:
    train, test = (data.load(of("digits"), split, Path(), 16).labels for split in ("train", "test"))
    held, everything = test.bincount(), train.bincount() + test.bincount()
    assert (held - everything * 360 / 1797).abs().max() < 1


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_hue_of_a_digit_is_the_colour_of_its_pixels(split: str) -> None:
    digits = data.load(of("digits"), split, Path(), 16)
    assert digits.hues is not None
    for image, hue in zip(digits.images, digits.hues.tolist(), strict=True):
        pixel = image.flatten(1)[:, image.amax(dim=0).flatten().argmax()]
        found, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255).tolist())
        assert abs((found - hue + 0.5) % 1 - 0.5) < 0.002
        assert saturation == 1
        assert value > 0.7
    assert digits.hues.histc(10, 0, 1).min() > 0.06 * len(digits)


def test_the_digits_are_the_same_on_every_load_and_pretraining_sees_the_training_part() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    first = data.load(of("digits"), "train", Path(), 16)
    torch.manual_seed(2)
    np.random.seed(2)
    for split in ("train", "pretrain"):
        again = data.load(of("digits"), split, Path(), 16)
        assert torch.equal(first.images, again.images)
        assert torch.equal(first.labels, again.labels)
        assert torch.equal(first.hues, again.hues)
    assert data.load(of("digits"), "test", Path(), 8).images.shape == (360, 3, 8, 8)
    assert data.fingerprint(of("digits"), Path()) == data.fingerprint(of("digits"), Path())


@pytest.mark.parametrize("split", ["train", "test"])
def test_what_is_known_of_the_digits_beforehand_is_true(split: str) -> None:
    facts, found = DATASETS["digits"], data.load(of("digits"), split, Path(), 16)
    assert len(found) == (facts.test_images if split == "test" else facts.probe_images)
    assert found.images.shape[2:] == (facts.image_size, facts.image_size)
    assert sorted(found.labels.unique().tolist()) == list(range(facts.classes))
