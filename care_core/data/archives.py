"""What is published as an archive or as a pickle is taken apart here: what is wanted, and no more.

Each archive has its published md5 before it is opened. That alone is not relied on: a member's name
is only ever compared with the names that are wanted, and a pickle is read without running anything.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import pickle
import shutil
import tarfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from care_core.errors import DataError
from care_core.files import storage_error

_AT_ONCE = 2**24  # bytes: more is asked for at once only by a made-up header


def unpack(archive: Path, folder: Path, wanted: Collection[str], most: int) -> None:
    """Take files out of a .tar.gz, each written aside and renamed. What is not wanted stays there.

    Args:
        wanted: names in the archive, which are also their places below `folder`.
        most: bytes that all members may have together.

    Raises:
        DataError: it is no such archive, or damaged; lacks a wanted file, has something else in its
            place, or is larger than it may be.
        StorageError: `folder` cannot be written to.
    """
    left = dict.fromkeys(wanted)
    size = 0
    try:
        with gzip.open(archive) as packed:
            stream: Any = _Bounded(packed)
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                for member in tar:
                    size += member.size
                    if size > most or member.size < 0:
                        raise DataError(f"{archive}: holds more than {most} bytes")
                    name = member.name.removeprefix("./")
                    if name in wanted:
                        _write(_content(tar, member, f"{archive}: {name}"), folder / name)
                        left.pop(name, None)
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"{archive}: damaged, or not a .tar.gz ({error})") from error
    if left:
        raise DataError(f"{archive}: lacks {len(left)} files, {next(iter(left))} the first")


def cifar(content: bytes) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """(N, 3072) uint8 and N labels of a batch as CIFAR is published, a Python 2 pickle.

    Raises:
        UnpicklingError: it asks for anything but an array of bytes, which is all that is in one.
        ValueError, KeyError: it is laid out otherwise.
    """
    found = _Unpickler(io.BytesIO(content), encoding="latin1").load()
    if not isinstance(found, dict) or not isinstance(found.get("data"), _Array):
        raise ValueError("it is no batch of CIFAR")
    labels = found["labels"] if "labels" in found else found["fine_labels"]
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise ValueError("its labels are no whole numbers")
    return found["data"].value(), labels


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, where: str) -> IO[bytes]:
    content = tar.extractfile(member) if member.isreg() and not member.issparse() else None
    if content is None:
        raise DataError(f"{where} in it is not a file")
    return content


def _write(content: IO[bytes], target: Path) -> None:
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside.unlink(missing_ok=True)
        with aside.open("xb") as file:
            shutil.copyfileobj(content, file, 2**20)
        aside.replace(target)
    except OSError as error:
        if isinstance(error, gzip.BadGzipFile):
            raise
        raise storage_error(target, error) from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


class _Bounded:
    """An unpacked stream that gives only so much at once: a header's size is not believed."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self.file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _AT_ONCE:
            raise ValueError(f"a header tells of {size} bytes")
        return self.file.read(size)

    def seek(self, at: int, whence: int = 0) -> int:
        return self.file.seek(at, whence)

    def tell(self) -> int:
        return self.file.tell()


class _Unpickler(pickle.Unpickler):
    """Knows the three names of a pickled array and has stand-ins for them; numpy sees no pickle."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _reconstruct
        if module == "numpy" and name in ("ndarray", "dtype"):
            return _Array if name == "ndarray" else _Kind
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


class _Kind:
    """Stands in for numpy.dtype."""

    def __init__(self, code: object = "", *_: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        """Byte order and the like, which bytes do not have."""


class _Array:
    """Stands in for numpy.ndarray: the parts of an array, looked at before they become one."""

    def __init__(self) -> None:
        self.state: Any = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def value(self) -> npt.NDArray[np.uint8]:
        _, shape, kind, by_column, raw = self.state
        data = raw.encode("latin1") if isinstance(raw, str) else raw
        if not isinstance(kind, _Kind) or kind.code not in ("u1", "|u1") or by_column:
            raise ValueError("its pixels are not bytes, row by row")
        if not isinstance(data, bytes):
            raise ValueError("its pixels are not bytes")
        return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def _reconstruct(*_: object) -> _Array:
    return _Array()
