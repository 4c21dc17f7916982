"""The datasets. Importing this is free; torch and torchvision are loaded to read images alone."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from care_core.data import embedded
from care_core.data.layout import FILES
from care_core.errors import DataError, StorageError
from care_core.facts import DATASETS
from care_core.files import read_json, write_json

if TYPE_CHECKING:
    from care_core.data.base import ImageSet

Split = Literal["pretrain", "train", "test"]


class DataState(NamedTuple):
    """Whether a dataset is there: where, or what is missing. An embedded one has no path."""

    name: str
    present: bool
    path: Path | None
    detail: str


def load(name: str, split: Split, data_dir: Path, size: int) -> ImageSet:
    """The images of one split, resized once to size × size pixels.

    Args:
        split: `pretrain` is what self-supervision sees; `train` and `test` are the probe's.

    Raises:
        DataError: unknown, missing or damaged; names the place and the remedy.
    """
    if _known(name) == "digits":
        from care_core.data import digits

        return digits.load(split, size)
    from care_core.data import vision

    return vision.load(name, split, data_dir, size)


def available(name: str, data_dir: Path) -> DataState:
    """Whether the set's files are there (not whether they are whole: see `verify`)."""
    if _known(name) == "digits":
        return DataState(name, True, None, "embedded (scikit-learn's)")
    folder, names = FILES[name]
    missing = [file for file in names if not (data_dir / folder / file).exists()]
    where = data_dir / folder
    if not missing:
        return DataState(name, True, where, f"{len(names)} files")
    detail = (
        f"{where} is not there" if not where.exists() else f"{where} lacks {', '.join(missing)}"
    )
    return DataState(name, False, where, detail)


def fingerprint(name: str, data_dir: Path, cache: Path | None = None) -> str:
    """sha256 of the content that a run sees, so that other images are another run.

    Args:
        cache: a JSON file that remembers digests by path, size and time of change.

    Raises:
        DataError: a file is missing.
    """
    if _known(name) == "digits":
        return embedded.fingerprint()
    state = available(name, data_dir)
    if not state.present:
        raise DataError(
            f"{name}: {state.detail}; `carectl data prepare {name} --data-dir {data_dir}` gets it"
        )
    folder, names = FILES[name]
    known = read_json(cache) if cache else None
    known = known if isinstance(known, dict) else {}
    digests = [_digest(data_dir / folder / file, known) for file in names]
    if cache:
        with contextlib.suppress(StorageError):  # without a cache it costs time, nothing else
            write_json(cache, known, durable=False)
    return hashlib.sha256(json.dumps(list(zip(names, digests, strict=True))).encode()).hexdigest()


def prepare(name: str, data_dir: Path, progress: Callable[[str], None]) -> None:
    """Get a dataset; raises DataError with the reason where that fails."""
    if _known(name) == "digits":
        progress("digits: embedded, nothing to get")
        return
    from care_core.data import vision

    vision.prepare(name, data_dir, progress)


def verify(name: str, data_dir: Path) -> list[str]:
    """What is wrong with a dataset's files; an empty list if nothing is."""
    if _known(name) == "digits":
        return []
    from care_core.data import vision

    return vision.verify(name, data_dir)


def _known(name: str) -> str:
    if name not in DATASETS:
        raise DataError(f"no dataset '{name}'; there are: {', '.join(DATASETS)}")
    return name


def _digest(path: Path, known: dict[str, str]) -> str:
    facts = path.stat()
    key = f"{path.resolve()}|{facts.st_size}|{facts.st_mtime_ns}"
    if key not in known:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        known[key] = digest.hexdigest()
    return known[key]
