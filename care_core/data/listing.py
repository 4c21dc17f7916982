"""Which image files a dataset has, and of which class each is. Torch-free.

Links are followed, hidden entries are not looked at. A class is a folder, its images lie directly
in it, and classes are numbered in the order of their names.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from care_core.errors import DataError

ENDINGS = (".jpg", ".jpeg", ".png", ".webp")

_THREADS, _PART = 16, 500  # a network file system answers many at once


@dataclasses.dataclass(frozen=True)
class Listing:
    """Files below a root, each with its class (-1: none); `others` are not image files."""

    root: Path
    files: tuple[str, ...]
    labels: tuple[int, ...]
    classes: int
    others: tuple[str, ...] = ()

    def __add__(self, other: Listing) -> Listing:
        return dataclasses.replace(
            self,
            files=self.files + other.files,
            labels=self.labels + other.labels,
            others=self.others + other.others,
        )


def class_folders(folder: Path) -> list[str]:
    """The names of the class folders in a folder, sorted.

    Raises:
        DataError: the folder cannot be read.
    """
    return sorted(entry.name for entry in _entries(folder) if _leads_to(entry.is_dir))


def image_files(folder: Path) -> tuple[list[str], list[str]]:
    """The names of the images that lie in a folder, sorted, and of the files that are none.

    Raises:
        DataError: the folder cannot be read.
    """
    images, others = [], []
    for entry in _entries(folder):
        if entry.name.lower().endswith(ENDINGS) and _leads_to(entry.is_file):
            images.append(entry.name)
        else:
            others.append(entry.name)
    return sorted(images), sorted(others)


def of_classes(root: Path, split: str, classes: Sequence[str], present: Sequence[str]) -> Listing:
    """The images of a split's class folders `present`, numbered by their places in `classes`.

    Raises:
        DataError: a folder is missing or has no image.
    """
    number = {name: place for place, name in enumerate(classes)}
    files: list[str] = []
    labels: list[int] = []
    others: list[str] = []
    for name in present:
        images, rest = image_files(root / split / name)
        if not images:
            raise DataError(
                f"{root / split / name}: there is no image in this class's folder "
                f"({', '.join(ENDINGS)}); put some there, or remove it"
            )
        files += [f"{split}/{name}/{image}" for image in images]
        labels += [number[name]] * len(images)
        others += [f"{split}/{name}/{other}" for other in rest]
    return Listing(root, tuple(files), tuple(labels), len(classes), tuple(others))


def signature(listing: Listing, *, times: bool = False) -> str:
    """sha256 of each file's place below the root and size (and with `times`, time of change).

    Raises:
        DataError: a file cannot be read.
    """

    def facts(files: Sequence[str]) -> str:
        lines = []
        for file in files:
            found = (listing.root / file).stat()
            lines.append(f"{file}\0{found.st_size}\0{found.st_mtime_ns if times else ''}\n")
        return "".join(lines)

    files, digest = sorted(listing.files), hashlib.sha256()
    parts = [files[start : start + _PART] for start in range(0, len(files), _PART)]
    try:
        with ThreadPoolExecutor(_THREADS) as pool:
            for lines in pool.map(facts, parts):
                digest.update(lines.encode(errors="surrogateescape"))
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def _leads_to(kind: Callable[[], bool]) -> bool:
    """Whether an entry is of a kind; a link that leads to itself is of none."""
    try:
        return kind()
    except OSError:
        return False


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return [entry for entry in found if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from error
