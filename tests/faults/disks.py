"""Real small disks for tests: a file system in memory that fills, or turns read-only."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


class Disk:
    """A mounted file system of its own, and ballast to fill it with."""

    def __init__(self, path: Path) -> None:
        self.path, self.ballast = path, path / "ballast"

    def free(self) -> int:
        """The bytes that are left."""
        return shutil.disk_usage(self.path).free

    def fill(self, left: int = 0) -> None:
        """Take all room but so many bytes."""
        with self.ballast.open("ab") as file:
            file.write(bytes(max(0, self.free() - left)))

    def make_room(self) -> None:
        """Take the ballast away."""
        self.ballast.unlink(missing_ok=True)

    def read_only(self) -> None:
        """Refuse every write from now on, to root too."""
        where = str(self.path)  # by a second mount: the first may have files open
        subprocess.run(["mount", "--bind", where, where], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", where], check=True)


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[Disk]:
    """A disk of a size such as 2m; the test is skipped where mounting is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a file system is not allowed here")
    try:
        yield Disk(folder)
    finally:
        while not subprocess.run(["umount", "-l", str(folder)], capture_output=True).returncode:
            pass  # once a mount


@contextmanager
def full_when_writing(
    disk: Disk, ending: str, left: int = 0, when: Callable[[Path], bool] = lambda path: True
) -> Iterator[None]:
    """The disk fills just before a file of such a name, that `when` is true of, is written to."""
    opened = Path.open

    def filling(self: Path, mode: str = "r", *more: Any, **named: Any) -> Any:
        if mode[0] in "wax" and ending in self.name and when(self):
            disk.fill(left)
        return opened(self, mode, *more, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", filling)
        yield


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, to see that nothing changed."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {os.fspath(path.relative_to(folder)): path.read_bytes() for path in files}
