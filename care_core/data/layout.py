"""Where the files of each downloaded dataset lie below the data folder."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from care_core.spec.facts import OWN

Split = Literal["pretrain", "train", "test"]

FILES = {
    "cifar10": (
        "cifar-10-batches-py",
        (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch", "batches.meta"),
    ),
    "cifar100": ("cifar-100-python", ("train", "test", "meta")),
    "stl10": (
        "stl10_binary",
        ("train_X.bin", "train_y.bin", "unlabeled_X.bin", "test_X.bin", "test_y.bin"),
    ),
    "flowers102": ("flowers-102", ("jpg", "imagelabels.mat", "setid.mat")),
}


def missing(name: str, data_dir: Path) -> str:
    """Which of a downloaded set's files are not there, in a few words; nothing, if all are."""
    folder, names = FILES[name]
    where = data_dir / folder
    if not where.exists():
        return f"{where} is not there"
    lacking = [file for file in names if not (where / file).exists()]
    return f"{where} lacks {', '.join(lacking)}" if lacking else ""


def remedy(name: str, data_dir: Path) -> str:
    """What gets a set that is missing."""
    if name in OWN:
        return "data.path names the folder, from the data folder on unless it is absolute"
    source = " --imagenet DIR" if name == "imagenet100" else ""
    return f"`carectl data prepare {name}{source} --data-dir {data_dir}` gets it"


def is_folder(path: Path) -> bool:
    """Whether a folder is there; what no file system takes for a name (too long) is none."""
    try:
        return path.is_dir()
    except OSError:
        return False


def fault(path: Path, published: str | None) -> str:
    """What is wrong with a file by its published md5, in a few words; nothing, if all is well."""
    try:
        if not path.is_file():
            return "is not a file" if path.exists() else "missing"
        whole = published is None or md5(path) == published
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "" if whole else "damaged or truncated (its md5 is not the published one)"


def md5(path: Path) -> str:
    """What the publishers of these sets give as the mark of a whole file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
