"""Oxford's 102 Flowers as torchvision lays them out: flowers-102/jpg and two .mat files.

The published training and validation images, 10 + 10 of a class, are what is trained and
pretrained on: 2,040 in all. The 6,149 test images are the test set. (With the 1,020 training
images alone, too little is left to pretrain on, and no step here selects on the validation set.)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from care_core.data import archives
from care_core.data.layout import FILES, Split, fault
from care_core.data.listing import Listing, image_files
from care_core.errors import DataError
from care_core.files import require_writable

CLASSES, IMAGES = 102, 8189

_SPLITS = {"pretrain": ("trnid", "valid"), "train": ("trnid", "valid"), "test": ("tstid",)}
_FOLDER = FILES["flowers102"][0]


def listing(split: Split, data_dir: Path) -> Listing:
    """The image files of a split.

    Raises:
        DataError: a file is missing or damaged; names it and the remedy.
    """
    root = data_dir / _FOLDER
    labels = _read(root / "imagelabels.mat", "labels")
    numbers = np.concatenate([_read(root / "setid.mat", part) for part in _SPLITS[split]])
    if numbers.min() < 1 or numbers.max() > len(labels):
        raise DataError(_remedy(f"{root / 'setid.mat'}: tells of images that have no label"))
    chosen = labels[numbers - 1]
    if chosen.min() < 1 or chosen.max() > CLASSES:
        raise DataError(_remedy(f"{root / 'imagelabels.mat'}: a label is not in 1 to {CLASSES}"))
    return Listing(
        root, tuple(f"jpg/{_name(number)}" for number in numbers.tolist()),
        tuple((chosen - 1).tolist()), CLASSES,
    )  # fmt: skip


def verify(data_dir: Path) -> list[str]:
    """What is wrong with the .mat files (by the published checksums) or lacks of the images."""
    from torchvision.datasets import Flowers102

    root, problems = data_dir / _FOLDER, []
    for name, published in Flowers102._file_dict.values():
        path = root / name
        if path.suffix == ".mat" and (why := fault(path, published)):
            problems.append(f"{path}: {why}")
    there = set(image_files(root / "jpg")[0]) if (root / "jpg").is_dir() else set()
    lacking = [name for number in range(1, IMAGES + 1) if (name := _name(number)) not in there]
    if lacking:
        problems.append(
            f"{root / 'jpg'}: lacks {len(lacking)} of {IMAGES} images, {lacking[0]} the first"
        )
    return problems


def prepare(data_dir: Path, progress: Callable[[str], None]) -> None:
    """Download into `data_dir` through torchvision.

    Raises:
        DataError: the download failed; says why.
        StorageError: `data_dir` is not writable.
    """
    if not verify(data_dir):
        progress(f"flowers102: already in {data_dir}")
        return
    require_writable(data_dir)
    progress(f"flowers102: downloading into {data_dir}")
    try:
        _fetch(data_dir / _FOLDER)
    except Exception as error:
        raise DataError(
            f"flowers102: the download failed ({error}); check the network, or unpack "
            f"102flowers.tgz in {data_dir / _FOLDER} by hand, put imagelabels.mat and setid.mat "
            "beside its jpg/, and run `carectl data verify flowers102`"
        ) from error


def _fetch(root: Path) -> None:
    from torchvision.datasets import Flowers102, utils

    packed, mark = Flowers102._file_dict["image"]
    address = Flowers102._download_url_prefix
    utils.download_url(f"{address}{packed}", root, packed, mark)
    wanted = {f"jpg/{_name(number)}" for number in range(1, IMAGES + 1)}
    archives.unpack(root / packed, root, wanted, 2**30)
    for key in ("label", "setid"):
        name, mark = Flowers102._file_dict[key]
        utils.download_url(f"{address}{name}", root, name, mark)


def _read(path: Path, key: str) -> npt.NDArray[np.int64]:
    from scipy.io import loadmat  # comes with scikit-learn

    try:
        values: Any = np.atleast_1d(loadmat(path, squeeze_me=True)[key])
        plain = values.ndim == 1 and values.size > 0 and values.dtype.kind in "iuf"
        if not plain or not (np.abs(values) < 2**31).all():
            raise ValueError(f"its '{key}' is no list of numbers")
        return np.asarray(values.astype(np.int64))
    except FileNotFoundError as error:
        raise DataError(_remedy(f"{path}: missing")) from error
    except Exception as error:  # the reader raises whatever a damaged file makes it raise
        raise DataError(_remedy(f"{path}: damaged ({error})")) from error


def _name(number: int) -> str:
    return f"image_{number:05d}.jpg"


def _remedy(problem: str) -> str:
    return f"{problem}; delete it and run `carectl data prepare flowers102`"
