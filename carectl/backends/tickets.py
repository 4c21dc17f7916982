"""The local queue's tickets: one file a waiting job in `runs/.queue/`, named by its time.

A ticket's file is the only sign that a job waits: it appears and goes in one rename or unlink.
What it names is executed, so only a folder counts that nobody else can write to, and that was made
where it lies: one that came with a copied or received runs folder has another inode than it says.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Any

from care_core.files import read_json, write_bytes, write_json
from carectl import trust

_HOME = "home"  # the folder's own inode


def folder(runs_dir: Path) -> Path:
    """Where the tickets lie."""
    return runs_dir / ".queue"


def write(runs_dir: Path, run_id: str, content: dict[str, Any]) -> Path:
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
    path = place / f"{time.time_ns():020d}-{run_id}.json"
    write_json(path, content)
    return path


def waiting(runs_dir: Path) -> list[Path]:
    """The tickets, oldest first; none in a folder that is not to be believed."""
    place = folder(runs_dir)
    return sorted(place.glob("[0-9]*.json")) if _made_here(place) else []


def of(runs_dir: Path, run_id: str) -> list[Path]:
    """The tickets of one run."""
    return [path for path in waiting(runs_dir) if path.stem.split("-", 1)[1] == run_id]


def _made_here(place: Path) -> bool:
    try:
        facts = place.stat()
        return trust.own(facts) and (place / _HOME).read_bytes() == str(facts.st_ino).encode()
    except OSError:
        return False


def read(path: Path) -> dict[str, Any] | None:
    """A ticket's content; None where it was taken back meanwhile."""
    found = read_json(path)
    return dict(found) if isinstance(found, dict) else None


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
