"""Files that matter are written aside, synced and renamed, so that a kill leaves old or new."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

from care_core.errors import StorageError


def write_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace `path` atomically; `durable` also syncs it and its folder to the disk.

    Raises:
        StorageError: the folder is not writable or the disk is full. The old file stands.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.unlink(missing_ok=True)
        with aside.open("xb") as file:  # never through a link that lies in its place
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        aside.replace(path)
        if durable:
            _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):  # such as a file where the folder should be
            aside.unlink()
        raise storage_error(path, error) from error


def require_writable(folder: Path) -> None:
    """Find out before hours of work what its end would find out.

    Raises:
        StorageError: nothing can be written to the folder.
    """
    probe = folder / f".probe-{os.getpid()}"
    write_bytes(probe, b"?", durable=False)
    probe.unlink()


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """Replace `path` atomically by JSON."""
    write_bytes(path, (json.dumps(value, indent=1) + "\n").encode(), durable=durable)


def read_whole(path: Path) -> bytes:
    """The content of a file. A pipe or a device in its place, which may never end, is not read.

    Raises:
        OSError: it is not there, is no regular file, or is larger than the memory.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe is not waited for
    with os.fdopen(handle, "rb", buffering=0) as file:
        kind = os.fstat(handle).st_mode
        if not stat.S_ISREG(kind):
            number = errno.EISDIR if stat.S_ISDIR(kind) else errno.EINVAL
            raise OSError(number, "is not a regular file")
        try:
            return file.readall()
        except MemoryError:
            raise OSError(errno.ENOMEM, "it is larger than the memory") from None


def read_json(path: Path) -> Any:
    """The file's value, or None where there is no readable JSON."""
    try:
        return json.loads(read_whole(path))
    except (OSError, ValueError, RecursionError):
        return None


def storage_error(path: Path, error: OSError) -> StorageError:
    """A failed write as a sentence with the remedy."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(path.parent if path.parent.exists() else Path("/")).free
        return StorageError(
            f"{path.parent}: the disk is full ({free / 2**20:.0f} MiB free) while writing "
            f"{path.name}; free some space and run the same command again, nothing is lost"
        )
    return StorageError(
        f"{path.parent}: cannot write {path.name} ({error.strerror}); "
        "make the folder writable, or choose another with --runs-dir or --data-dir"
    )


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
