"""ImageNet100 and a folder of one's own: train/ and test/ (or val/), each of class folders."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from care_core.data import imagenet100
from care_core.data.layout import Split, is_folder
from care_core.data.listing import ENDINGS, Listing, class_folders, image_files, of_classes
from care_core.errors import DataError
from care_core.spec.sections import Data


def place(spec: Data, data_dir: Path) -> Path:
    """Where the class folders' train/ lies."""
    return data_dir / (spec.path or imagenet100.FOLDER)


def missing(spec: Data, data_dir: Path) -> str:
    """What is not there of what a run needs, in a few words; nothing, if all is."""
    root = place(spec, data_dir)
    if spec.name == "imagenet100":
        return imagenet100.missing(root)
    if not is_folder(root):
        return f"{root} is not there"
    return "" if (root / "train").is_dir() else f"{root} has no train/"


def listing(spec: Data, split: Split, data_dir: Path) -> Listing:
    """The image files of a split.

    Classes are those of train/, in the order of their names. The test images are in test/, or in
    val/ where there is no test/. Images directly in unlabeled/, if there is such a folder, are
    pretrained on beside those of train/.

    Raises:
        DataError: a class folder is missing or empty, test has a class that train has not, or
            (but with data.unreadable: skip) a file is not an image by its ending.
    """
    root = place(spec, data_dir)
    if spec.name == "imagenet100":
        part = "val" if split == "test" else "train"
        found = of_classes(root, part, imagenet100.WNIDS, imagenet100.WNIDS)
        return dataclasses.replace(found, others=())  # such as the archives that it came from
    found = _own(root, split)
    if found.others and spec.unreadable == "error":
        raise DataError(
            f"{root / found.others[0]}: is not an image file ({', '.join(ENDINGS)})"
            + (f", nor are {len(found.others) - 1} others" if found.others[1:] else "")
            + "; images lie directly in their class's folder. Remove what is none, or set "
            "data.unreadable: skip to leave it out"
        )
    return found


def splits(spec: Data, data_dir: Path) -> list[Split]:
    """The splits that are there: the one that is pretrained on, and the one to measure on."""
    root = place(spec, data_dir)
    tested = spec.name == "imagenet100" or any((root / part).is_dir() for part in ("test", "val"))
    return ["pretrain", "test"] if tested else ["pretrain"]


def _own(root: Path, split: Split) -> Listing:
    classes = class_folders(root / "train")
    if not classes:
        raise DataError(
            f"{root / 'train'}: there are no class folders; a class is a folder of its images, "
            "and images without a class lie in unlabeled/ beside train/"
        )
    if split != "test":
        train = of_classes(root, "train", classes, classes)
        extra = root / "unlabeled"
        return train + _unlabeled(root) if split == "pretrain" and extra.is_dir() else train
    part = next((name for name in ("test", "val") if (root / name).is_dir()), None)
    if part is None:
        raise DataError(f"{root}: has neither test/ nor val/, so there is nothing to measure on")
    present = class_folders(root / part)
    strangers = sorted(set(present) - set(classes))
    if strangers or not present:
        raise DataError(
            f"{root / part}: "
            + (f"train/ has no class {', '.join(strangers)}" if strangers else "no class folders")
        )
    return of_classes(root, part, classes, present)


def _unlabeled(root: Path) -> Listing:
    images, others = image_files(root / "unlabeled")
    return Listing(
        root,
        tuple(f"unlabeled/{name}" for name in images),
        (-1,) * len(images),
        0,
        tuple(f"unlabeled/{name}" for name in others),
    )
