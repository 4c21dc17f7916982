"""Which PDB and mmCIF files a folder of proteins has, and which are for tests. Torch-free."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from care_core.data.layout import Split, is_folder
from care_core.data.listing import Listing
from care_core.errors import DataError
from care_core.spec.sections import Data

ENDINGS = tuple(f".{kind}{packed}" for kind in ("pdb", "ent", "cif", "mmcif")
                for packed in ("", ".gz"))  # fmt: skip
TEST_SHARE = 10  #: one structure in so many is for tests, where folders do not say which


def missing(spec: Data, data_dir: Path) -> str:
    """What is not there of what a run needs, in a few words; nothing, if all is."""
    root = place(spec, data_dir)
    return "" if is_folder(root) else f"{root} is not there"


def place(spec: Data, data_dir: Path) -> Path:
    """The folder that data.path names."""
    return data_dir / (spec.path or "")


def splits(spec: Data, data_dir: Path) -> list[Split]:
    """The splits that are there: the one that is pretrained on, and the one to measure on."""
    root = place(spec, data_dir)
    if (root / "train").is_dir():
        tested = bool(_structures(root / "test"))
    else:
        tested = any(map(_for_tests, _structures(root)))
    return ["pretrain", "test"] if tested else ["pretrain"]


def listing(spec: Data, split: Split, data_dir: Path) -> Listing:
    """The structure files of a split: below train/ or test/, if there is a train/.

    Without one all files below the folder are there, and which are for tests (a tenth) the name of
    each decides by itself, so that others coming or going do not change it.

    Raises:
        DataError: there is no file for the split.
    """
    root = place(spec, data_dir)
    part, test = ("test" if split == "test" else "train"), split == "test"
    if (root / "train").is_dir():
        files = [f"{part}/{file}" for file in _structures(root / part)]
    else:
        files = [file for file in _structures(root) if _for_tests(file) == test]
    if not files:
        raise DataError(
            f"{root}: there is no structure {'to measure on' if test else 'to train on'} "
            f"({', '.join(ENDINGS)}); put files into train/ and test/, or a good number of them "
            f"into the folder itself, of which one in {TEST_SHARE} is for tests"
        )
    return Listing(root, tuple(files), (-1,) * len(files), 0)


def _structures(folder: Path) -> list[str]:
    """The structure files below a folder, by their places in it, sorted."""
    found = []
    for at, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(at, name).relative_to(folder).as_posix()
            for name in files
            if name.lower().endswith(ENDINGS) and not name.startswith(".")
        ]
    return sorted(found)


def _for_tests(file: str) -> bool:
    name = Path(file).name.lower().split(".")[0]  # an entry's, packed or not, PDB or mmCIF
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % TEST_SHARE == 0
