"""CIFAR10, CIFAR100 and STL10 through torchvision's own readers.

The CIFAR files are pickles: torchvision compares each with its published md5 before it reads it,
and so nothing else is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from care_core.data.base import ImageSet, resized
from care_core.data.layout import FILES, md5
from care_core.errors import DataError
from care_core.spec.facts import DATASETS


def files(name: str, data_dir: Path) -> list[Path]:
    """Where the set's files have to lie."""
    folder, names = FILES[name]
    return [data_dir / folder / file for file in names]


def load(name: str, split: str, data_dir: Path, size: int) -> ImageSet:
    """Read one split; STL10's `pretrain` is train + unlabeled, the latter with label -1.

    Raises:
        DataError: a file is damaged; names it and the remedy.
    """
    try:
        found = _reader(name)(data_dir, split, download=False)
    except Exception as error:  # the readers raise whatever a damaged file makes them raise
        problems = verify(name, data_dir) or [f"{name}: {error}"]
        raise DataError(_damaged(name, data_dir, problems)) from error
    pixels = np.asarray(found.data)
    if name != "stl10":
        pixels, labels = pixels.transpose(0, 3, 1, 2), np.asarray(found.targets)
    else:
        labels = np.asarray(found.labels)
    if len(pixels) != len(labels) or len(pixels) == 0:
        problem = f"{name}: {len(pixels)} images but {len(labels)} labels"
        raise DataError(_damaged(name, data_dir, verify(name, data_dir) or [problem]))
    images = resized(torch.from_numpy(np.ascontiguousarray(pixels)), size)
    return ImageSet(
        images, torch.from_numpy(labels.astype(np.int64)), int(DATASETS[name].classes or 0)
    )


def prepare(name: str, data_dir: Path, progress: Callable[[str], None]) -> None:
    """Download into `data_dir` and verify the published checksums.

    Raises:
        DataError: the download failed; says why.
    """
    if all(path.exists() for path in files(name, data_dir)) and not verify(name, data_dir):
        progress(f"{name}: already in {data_dir}")
        return
    progress(f"{name}: downloading into {data_dir}")
    try:
        _reader(name)(data_dir, "test", download=True)
    except Exception as error:
        raise DataError(
            f"{name}: the download failed ({error}); check the network, or put the files of the "
            f"set into {data_dir / FILES[name][0]} by hand and run `carectl data verify {name}`"
        ) from error


def verify(name: str, data_dir: Path) -> list[str]:
    """What is wrong with the set's files by torchvision's checksums; nothing, if all is well."""
    problems = []
    for path, published in _checksums(name, data_dir):
        if not path.exists():
            problems.append(f"{path}: missing")
        elif published and md5(path) != published:
            problems.append(f"{path}: damaged or truncated (its md5 is not the published one)")
    return problems


def _reader(name: str) -> Callable[..., Any]:
    from torchvision import datasets

    if name == "stl10":
        splits = {"pretrain": "train+unlabeled", "train": "train", "test": "test"}
        return lambda root, split, download: datasets.STL10(
            root, split=splits[split], download=download
        )
    reader = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    return lambda root, split, download: reader(root, train=split != "test", download=download)


def _checksums(name: str, data_dir: Path) -> list[tuple[Path, str | None]]:
    from torchvision import datasets

    reader = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100, "stl10": datasets.STL10}
    listed = dict((*reader[name].train_list, *reader[name].test_list))
    if name != "stl10":
        listed[reader[name].meta["filename"]] = reader[name].meta["md5"]
    return [(path, listed.get(path.name)) for path in files(name, data_dir)]


def _damaged(name: str, data_dir: Path, problems: list[str]) -> str:
    remedy = f"delete them and run `carectl data prepare {name} --data-dir {data_dir}`"
    return "\n".join([*problems, remedy])
