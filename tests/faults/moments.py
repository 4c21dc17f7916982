"""A kill at every single operation by which a training writes files, and a power cut there.

An attempt that goes on after step 9 of 15 up to step 11 does all kinds of them: it cuts back the
record, appends to it, writes progress, a checkpoint and prunes; one from step 14 on also ends.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ranks import After

from care_core.files import read_json, write_json

from .lab import Lab, Row

_NAMES = [(r"\.e\d+.*\.tmp|e\d+.*\.pt", "checkpoint"), (r"\.(.*)\.\d+\.tmp", r"\1")]


class Moments:
    """Counts a process's operations on a folder's files, and ends it before the wanted one.

    A power cut also takes from each file what was not synced.
    """

    def __init__(self, folder: Path, wanted: int, power: bool) -> None:
        self.folder, self.wanted, self.power = str(folder), wanted, power
        self.seen: list[str] = []
        self.unsynced: dict[int, int] = {}  # inode → bytes that are safe

    def install(self) -> None:
        fsync, open_path = os.fsync, Path.open

        def synced(handle: int) -> None:
            self.point("fsync", Path(f"/proc/self/fd/{handle}").readlink())
            fsync(handle)
            self.unsynced.pop(os.fstat(handle).st_ino, None)

        def opened(path: Path, mode: str = "r", *arguments: Any, **named: Any) -> Any:
            if set(mode) & set("wax+") and str(path).startswith(self.folder):
                self.point("open", path)
                file = open_path(path, mode, *arguments, **named)
                inode = os.fstat(file.fileno()).st_ino
                if set(mode) & set("wx"):  # perhaps the number of a file that is gone
                    self.unsynced[inode] = 0
                self.unsynced.setdefault(inode, file.tell())
                return _Halving(file, lambda: self.point("write the second half of", path))
            return open_path(path, mode, *arguments, **named)

        os.fsync, Path.open = synced, opened  # type: ignore[method-assign, assignment]
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("os.rename", "os.remove", "os.mkdir", "os.truncate"):
            self.point(event.removeprefix("os."), arguments[0])

    def point(self, what: str, path: Any) -> None:
        """One operation is about to happen."""
        if not str(path).startswith(self.folder):
            return
        name = Path(path).name
        for pattern, short in _NAMES:
            name = re.sub(f"^(?:{pattern})$", short, name)
        self.seen.append(f"{what} {'the folder' if Path(path).is_dir() else name}")
        if len(self.seen) == self.wanted:
            if self.power:
                self._lose()
            os.kill(os.getpid(), signal.SIGKILL)

    def _lose(self) -> None:
        for path in Path(self.folder).rglob("*"):
            kept = self.unsynced.get(path.stat().st_ino)
            if kept is not None and path.stat().st_size > kept:
                os.truncate(path, kept)


class _Halving:
    """A file whose writes reach the disk in two halves, with a moment between."""

    def __init__(self, file: Any, between: Callable[[], None]) -> None:
        self.file, self.between = file, between

    def write(self, data: bytes) -> None:
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        self.between()
        self.file.write(data[len(data) // 2 :])

    def __enter__(self) -> _Halving:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def every_operation(lab: Lab, *, power: bool, most: int | None = None) -> Row:
    """End attempts at each of their operations, or at `most` of them, the rarest first."""
    jobs: list[tuple[int, int, int]] = []
    kinds: dict[str, list[tuple[int, int, int]]] = {}
    for begin, steps in ((9, 2), (14, 0)):
        for number, label in enumerate(_listed(lab, begin, steps), start=1):
            kinds.setdefault(label, []).append((begin, steps, number))
    turn = 0
    while any(len(kind) > turn for kind in kinds.values()):
        jobs += [kind[turn] for kind in kinds.values() if len(kind) > turn]
        turn += 1
    chosen = jobs[:most]
    problems: list[str] = []
    equal = 0
    for begin, steps, number in chosen:
        run_dir = _copy(lab, begin, f"{'cut' if power else 'ended'}-{begin}-{number}")
        code = _ended(lab, run_dir, steps, number, power)
        if code != -signal.SIGKILL or lab.attempt(run_dir) != 0:
            problems.append(f"{run_dir.name}: exit {code}, or does not go on; see {lab.log}")
        wrong = lab.problems(run_dir)
        equal += not wrong
        problems += wrong
    what = "power cut before" if power else "SIGKILL at"
    tail = "; what was not synced is lost" if power else ""
    name = f"{what} each operation on files ({len(kinds)} kinds, writes in two halves){tail}"
    return Row(name, len(chosen), equal, equal, len(chosen), problems)


def _template(lab: Lab, begin: int) -> Path:
    """A run folder that was stopped after a step."""
    run_dir = lab.folder / f"stopped-{begin}"
    if not run_dir.exists():
        lab.attempt(run_dir, stop=After(begin))
    return run_dir


def _copy(lab: Lab, begin: int, name: str) -> Path:
    """A run that was stopped after a step, under another name, with what the server has of it."""
    source, run_dir = _template(lab, begin), lab.folder / name
    shutil.copytree(source, run_dir)
    shutil.copytree(lab._server(source), lab._server(run_dir))
    return run_dir


def _listed(lab: Lab, begin: int, steps: int) -> list[str]:
    """What an attempt does with files, in order."""
    noted = lab.folder / f"operations-{begin}.json"
    if noted.exists():
        return list(read_json(noted))
    run_dir = _copy(lab, begin, f"listed-{begin}")
    moments = Moments(run_dir, 0, power=False)
    stop = {"stop": After(steps)} if steps else {}
    lab.attempt(
        run_dir, prepare=moments.install, then=lambda: write_json(noted, moments.seen), **stop
    )
    return list(read_json(noted))


def _ended(lab: Lab, run_dir: Path, steps: int, number: int, power: bool) -> int:
    stop = {"stop": After(steps)} if steps else {}
    moments = Moments(run_dir, number, power)
    return lab.attempt(run_dir, prepare=moments.install, **stop)
