"""Digits as PNG files in class folders, for tests that compare files with images in memory."""

from __future__ import annotations

from pathlib import Path

import torch
from torchvision.io import write_png

from care_core import data
from care_core.data.base import ImageSet
from care_core.spec.sections import Data


def digits(split: data.Split, count: int) -> ImageSet:
    """The first `count` digits of a split, sorted by class as a folder of files is."""
    whole = data.load(Data(name="digits"), split, Path())
    assert isinstance(whole, ImageSet)
    some = whole.take(torch.arange(count))
    return some.take(some.labels.argsort(stable=True))


def save(folder: Path, images: ImageSet) -> None:
    """Write images as PNG files into class folders, so that their order by name is theirs."""
    for number, (pixels, label) in enumerate(zip(images.images, images.labels, strict=True)):
        path = folder / str(int(label)) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(pixels, str(path))


def write(root: Path, **counts: int) -> Data:
    """Save so many digits of each split, `train` and `test`, and say how to load them."""
    for split, count in counts.items():
        save(root / split, digits("test" if split == "test" else "train", count))
    return Data(name="folder", path=str(root), image_size=16)
