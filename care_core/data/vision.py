"""CIFAR10, CIFAR100 and STL10, where and with the checksums that torchvision has for them.

The CIFAR files are pickles. What has its published md5 is read, and even of that nothing is run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from care_core.data import archives
from care_core.data.base import ImageSet, resized
from care_core.data.layout import FILES, fault
from care_core.errors import DataError
from care_core.files import require_writable
from care_core.spec.facts import DATASETS

#: Bytes that a set's archive may hold; about half as much again as it does.
MOST = {"cifar10": 2**28, "cifar100": 2**28, "stl10": 2**32}


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
        pixels, labels = (_stl10 if name == "stl10" else _cifar)(name, split, data_dir)
    except Exception as error:  # the readers raise whatever a damaged file makes them raise
        problems = verify(name, data_dir) or [f"{name}: {error}"]
        raise DataError(_damaged(name, data_dir, problems)) from error
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
        StorageError: `data_dir` is not writable.
    """
    if all(path.exists() for path in files(name, data_dir)) and not verify(name, data_dir):
        progress(f"{name}: already in {data_dir}")
        return
    require_writable(data_dir)
    progress(f"{name}: downloading into {data_dir}")
    try:
        _fetch(name, data_dir)
    except Exception as error:
        raise DataError(
            f"{name}: the download failed ({error}); check the network, or put the files of the "
            f"set into {data_dir / FILES[name][0]} by hand and run `carectl data verify {name}`"
        ) from error


def verify(name: str, data_dir: Path) -> list[str]:
    """What is wrong with the set's files by torchvision's checksums; nothing, if all is well."""
    judged = [(path, fault(path, published)) for path, published in _checksums(name, data_dir)]
    return [f"{path}: {why}" for path, why in judged if why]


def _published(name: str) -> Any:
    """torchvision's class of the set: where it is, and the checksums of its files."""
    from torchvision import datasets

    return {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100, "stl10": datasets.STL10}[
        name
    ]


def _fetch(name: str, data_dir: Path) -> None:
    from torchvision.datasets import utils

    published, (folder, names) = _published(name), FILES[name]
    utils.download_url(published.url, data_dir, published.filename, published.tgz_md5)
    wanted = {f"{folder}/{file}" for file in names}
    archives.unpack(data_dir / published.filename, data_dir, wanted, MOST[name])


def _cifar(name: str, split: str, data_dir: Path) -> tuple[Any, Any]:
    """(N, 3, 32, 32) uint8 and N labels; every file of the set has to be the published one."""
    published = _published(name)
    wanted = dict(published.test_list if split == "test" else published.train_list)
    for path, digest in _checksums(name, data_dir):
        if path.name not in wanted and (why := fault(path, digest)):
            raise DataError(f"{path}: {why}")
    pixels, labels = [], list[int]()
    for file, digest in wanted.items():
        content = (data_dir / FILES[name][0] / file).read_bytes()
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != digest:
            raise DataError(f"{file} is not the published one")
        batch, own = archives.cifar(content)
        pixels.append(batch)
        labels += own
    return np.vstack(pixels).reshape(-1, 3, 32, 32), np.asarray(labels)


def _stl10(name: str, split: str, data_dir: Path) -> tuple[Any, Any]:
    splits = {"pretrain": "train+unlabeled", "train": "train", "test": "test"}
    found = _published(name)(data_dir, split=splits[split], download=False)
    return np.asarray(found.data), np.asarray(found.labels)


def _checksums(name: str, data_dir: Path) -> list[tuple[Path, str | None]]:
    published = _published(name)
    listed = dict((*published.train_list, *published.test_list))
    if name != "stl10":
        listed[published.meta["filename"]] = published.meta["md5"]
    return [(path, listed.get(path.name)) for path in files(name, data_dir)]


def _damaged(name: str, data_dir: Path, problems: list[str]) -> str:
    remedy = f"delete them and run `carectl data prepare {name} --data-dir {data_dir}`"
    return "\n".join([*problems, remedy])
