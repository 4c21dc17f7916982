"""The datasets. Importing this is free; torch and torchvision are loaded to read images alone.

digits, CIFAR and STL10 lie in memory (`base.ImageSet`); ImageNet100, Flowers-102 and a folder of
one's own are image files (`files.FileSet`), decoded when they are needed. chains and proteins are
point clouds (`clouds.CloudSet`), in memory too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from care_core.data import embedded, folders, imagenet100, structures
from care_core.data.layout import FILES, Split, missing, remedy
from care_core.data.listing import Listing, signature
from care_core.errors import DataError, StorageError
from care_core.files import read_json, write_json
from care_core.spec.facts import DATASETS, OWN
from care_core.spec.sections import Data

if TYPE_CHECKING:
    from care_core.data.base import ImageSet
    from care_core.data.files import FileSet

    # a clouds.CloudSet is an ImageSet
    Images: TypeAlias = ImageSet | FileSet

#: Below the data folder: what was found out about it, such as files that cannot be decoded.
CACHE = ".care"

#: Sets that are part of the package, and what they are.
_INSIDE = {"digits": "embedded (scikit-learn's)", "chains": "generated protein backbones"}

_OWN = {
    "folder": "with train/ and test/ (or val/) of class folders",
    "proteins": "of PDB or mmCIF files, with train/ and test/ or without",
}


class DataState(NamedTuple):
    """Whether a dataset is there: where, or what is missing. An embedded one has no path."""

    name: str
    present: bool
    path: Path | None
    detail: str


class Verdict(NamedTuple):
    """What is wrong with a dataset's files, and what is short but can be used."""

    problems: list[str]
    notes: list[str]


def _quiet(text: str) -> None:
    pass


def load(
    spec: Data, split: Split, data_dir: Path, size: int | None = None,
    say: Callable[[str], None] = _quiet,
) -> Images:  # fmt: skip
    """The images or clouds of one split, as size × size pixels (of files: once they are decoded).

    Args:
        split: `pretrain` is what self-supervision sees; `train` and `test` are the probe's.
        size: pixels, or points of a cloud, where not those of the spec.
        say: told of what takes long: with data.unreadable: skip, the first look at image files.

    Raises:
        DataError: unknown, missing or damaged; names the place and the remedy. An image file that
            cannot be decoded is told when it is used, unless such files are skipped.
    """
    size = size or spec.size
    _require(spec, data_dir)
    if spec.name == "digits":
        from care_core.data import digits

        return digits.load(split, size)
    if spec.name == "chains":
        from care_core.data import chains

        return chains.load(split, size)
    if spec.name == "proteins":
        from care_core.data import proteins

        return proteins.load(spec, split, data_dir, size, data_dir / CACHE, say)
    if not DATASETS[spec.name].files:
        from care_core.data import vision

        return vision.load(spec.name, split, data_dir, size)
    from care_core.data import files

    listing, skip = _listing(spec, split, data_dir), spec.unreadable == "skip"
    return files.load(listing, size, skip=skip, cache=data_dir / CACHE, say=say)


def available(spec_or_name: Data | str, data_dir: Path) -> DataState:
    """Whether the set's files are there (not whether they are whole: see `verify`)."""
    spec = _spec(spec_or_name)
    if spec is None:
        name = str(spec_or_name)
        return DataState(name, True, None, f"any folder {_OWN[name]}; data.path names it")
    name = spec.name
    if name in _INSIDE:
        return DataState(name, True, None, _INSIDE[name])
    if name in FILES:
        where, lacking = data_dir / FILES[name][0], missing(name, data_dir)
        detail = f"{len(FILES[name][1])} files"
    else:
        of = structures if name == "proteins" else folders
        where, lacking = of.place(spec, data_dir), of.missing(spec, data_dir)
        detail = "class folders" if of is folders else "structures"
    return DataState(name, not lacking, where, lacking or detail)


def fingerprint(spec: Data, data_dir: Path, cache: Path | None = None) -> str:
    """sha256 of the images that a run sees, so that other images are another run.

    For digits, CIFAR and STL10 it is of the content. For image files it is of each file's place
    below the dataset's folder (so of its class and split) and its size, which are read anew each
    time; reading the content of 130,000 files would take minutes. An image in whose place another
    one of the very same number of bytes is put goes unseen.

    Args:
        cache: a JSON file that remembers digests of content by path, size and time of change.

    Raises:
        DataError: a file is missing, or the class folders do not make a dataset.
    """
    _require(spec, data_dir)
    if spec.name == "digits":
        return embedded.digits_fingerprint()
    if spec.name == "chains":
        return embedded.chains_fingerprint()
    folder, names = FILES.get(spec.name, ("", ()))
    marks: list[tuple[str, str]] = []
    if DATASETS[spec.name].files or spec.name == "proteins":
        names = tuple(name for name in names if name.endswith(".mat"))
        for split in _there(spec, data_dir):
            marks.append((split, signature(_listing(spec, split, data_dir))))
    known = read_json(cache) if cache else None
    known = known if isinstance(known, dict) else {}
    known = {key: mark for key, mark in known.items() if re.fullmatch(r"[0-9a-f]{64}", str(mark))}
    marks += [(file, _digest(data_dir / folder / file, known)) for file in names]
    if cache and names:
        with contextlib.suppress(StorageError):  # without a cache it costs time, nothing else
            write_json(cache, known, durable=False)
    return hashlib.sha256(json.dumps(marks).encode()).hexdigest()


def prepare(
    name: str, data_dir: Path, progress: Callable[[str], None], *, source: Path | None = None
) -> None:
    """Get a dataset; what is there already stays.

    Args:
        source: for imagenet100: a local ImageNet, with train/ and val/ of class folders.

    Raises:
        DataError: with the reason where that fails.
    """
    spec = _spec(name)
    if source and name != "imagenet100":
        raise DataError(f"{name}: is not built from a local ImageNet; only imagenet100 is")
    if spec is None:
        raise DataError(f"{name}: it is yours; {remedy(name, data_dir)}")
    if name in _INSIDE:
        progress(f"{name}: {_INSIDE[name]}, nothing to get")
    elif name == "imagenet100":
        imagenet100.prepare(source, data_dir, progress)
    elif name == "flowers102":
        from care_core.data import flowers

        flowers.prepare(data_dir, progress)
    else:
        from care_core.data import vision

        vision.prepare(name, data_dir, progress)


def verify(
    spec_or_name: Data | str, data_dir: Path, progress: Callable[[str], None] = _quiet, *,
    decode: bool = True,
) -> Verdict:  # fmt: skip
    """What is wrong with a dataset's files: missing, damaged, and with `decode` each undecodable.

    Raises:
        DataError: no such dataset; the folder dataset without a path.
    """
    spec = _spec(spec_or_name)
    if spec is None:
        raise DataError(f"{spec_or_name}: which one? --path names it")
    if spec.name in _INSIDE:
        return Verdict([], [])
    if spec.name == "proteins":
        from care_core.data import proteins

        lacking = structures.missing(spec, data_dir)
        return Verdict([lacking] if lacking else proteins.verify(spec, data_dir, progress), [])
    if not DATASETS[spec.name].files:
        from care_core.data import vision

        return Verdict(vision.verify(spec.name, data_dir), [])
    problems: list[str] = []
    notes: list[str] = []
    if spec.name == "flowers102":
        from care_core.data import flowers

        problems = flowers.verify(data_dir)
    elif spec.name == "imagenet100":
        root = folders.place(spec, data_dir)
        problems, notes = imagenet100.judge(root, imagenet100.counted(root))
    if not problems:
        try:
            _require(spec, data_dir)
            parts = [_listing(spec, split, data_dir) for split in _there(spec, data_dir)]
            problems = _undecodable(parts, progress) if decode else []
        except DataError as error:
            problems = [str(error)]
    return Verdict(problems, notes)


def _undecodable(parts: Sequence[Listing], progress: Callable[[str], None]) -> list[str]:
    from care_core.data import scan

    return [why for part in parts for why in scan.undecodable(part, progress).values()]


def _there(spec: Data, data_dir: Path) -> list[Split]:
    if spec.name in OWN:
        return (structures if spec.clouds else folders).splits(spec, data_dir)
    return ["pretrain", "test"]


def _listing(spec: Data, split: Split, data_dir: Path) -> Listing:
    if spec.name == "proteins":
        return structures.listing(spec, split, data_dir)
    if spec.name == "flowers102":
        from care_core.data import flowers

        return flowers.listing(split, data_dir)
    return folders.listing(spec, split, data_dir)


def _spec(spec_or_name: Data | str) -> Data | None:
    """The dataset, or None for one that is somebody's own, without its path."""
    if isinstance(spec_or_name, Data):
        return spec_or_name
    if spec_or_name not in DATASETS:
        raise DataError(f"no dataset '{spec_or_name}'; there are: {', '.join(DATASETS)}")
    return None if spec_or_name in OWN else Data.model_validate({"name": spec_or_name})


def _require(spec: Data, data_dir: Path) -> None:
    state = available(spec, data_dir)
    if not state.present:
        raise DataError(f"{spec.name}: {state.detail}; {remedy(spec.name, data_dir)}")


def _digest(path: Path, known: dict[str, str]) -> str:
    try:
        facts = path.stat()
        key = f"{path.resolve()}|{facts.st_size}|{facts.st_mtime_ns}"
        if key not in known:
            with path.open("rb") as file:
                known[key] = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); `carectl data verify` looks at all files"
        ) from error
    return known[key]
