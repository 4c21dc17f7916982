"""The local queue's tickets: one file a waiting job in `runs/.queue/`, named by its time.

A ticket's file is the only sign that a job waits: it appears and goes in one rename or unlink.
What it names is executed, so only a folder counts that nobody else can write to, and that was made
where it lies: one that came with a copied or received runs folder has another inode than it says.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from care_core.files import read_json, write_bytes, write_json
from carectl import listings, trust

_HOME = "home"  # the folder's own inode
_NAME = re.compile(r"[0-9]+-(.+)\.json").fullmatch
_SLOT = re.compile(r"(cpu|gpu)-[0-9]+").fullmatch


@dataclasses.dataclass(frozen=True)
class Ticket:
    """An attempt at a run that waits for `count` of some slots, and for other runs to be done."""

    run: str
    attempt: int
    depends: Sequence[str]
    slots: Sequence[str]
    count: int

    @property
    def sound(self) -> bool:
        """Whether its values are such as `write` was given."""
        return (
            trust.is_name(self.run)
            and isinstance(self.attempt, int)
            and self.attempt > 0
            and isinstance(self.depends, list)
            and all(map(trust.is_name, self.depends))
            and isinstance(self.slots, list)
            and all(isinstance(slot, str) and _SLOT(slot) for slot in self.slots)
            and isinstance(self.count, int)
            and 0 < self.count <= len(self.slots)
        )


def folder(runs_dir: Path) -> Path:
    """Where the tickets lie."""
    return runs_dir / ".queue"


def write(runs_dir: Path, ticket: Ticket) -> Path:
    """Put a ticket at the end of the line.

    Raises:
        CommandError: the folder is another user's, or cannot be kept from others.
    """
    place = folder(runs_dir)
    trust.private(place)
    if not _made_here(place):
        for strange in place.glob("[0-9]*.json"):
            strange.unlink(missing_ok=True)
        write_bytes(place / _HOME, str(place.stat().st_ino).encode())
    path = place / f"{time.time_ns():020d}-{ticket.run}.json"
    write_json(path, dataclasses.asdict(ticket))
    return path


def waiting(runs_dir: Path) -> list[Path]:
    """The tickets, oldest first; none in a folder that is not to be believed."""
    place = folder(runs_dir)
    if not _made_here(place):
        return []
    with os.scandir(place) as entries:
        names = [e.name for e in entries if _NAME(e.name) and e.is_file(follow_symlinks=False)]
    return [place / name for name in sorted(names)]


def of(runs_dir: Path, run_id: str) -> list[Path]:
    """The tickets of one run."""
    place = folder(runs_dir)
    names = listings.by(_run, place).get(run_id, ()) if _made_here(place) else ()
    return [path for name in sorted(names) if (path := place / name).is_file()]


def _run(name: str) -> str:
    """The run of a ticket's file; nothing for another file."""
    found = _NAME(name)
    return found[1] if found else ""


def _made_here(place: Path) -> bool:
    try:
        facts = place.stat()
        return trust.own(facts) and (place / _HOME).read_bytes() == str(facts.st_ino).encode()
    except OSError:
        return False


def read(path: Path) -> Ticket | None:
    """A ticket; None where it was taken back meanwhile, or what lies there is none."""
    found: Any = read_json(path)
    try:
        ticket = Ticket(**found)
    except TypeError:
        return None
    return ticket if ticket.sound and ticket.run == _run(path.name) else None


def take_lock(runs_dir: Path) -> int | None:
    """The right to serve the tickets, held while the handle is open; None: somebody has it."""
    folder(runs_dir).mkdir(parents=True, exist_ok=True)
    handle = os.open(folder(runs_dir) / "queue.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle
