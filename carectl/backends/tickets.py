"""The local queue's tickets: one file a waiting job in `runs/.queue/`, named by its time.

A ticket's file is the only sign that a job waits: it appears and goes in one rename or unlink.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Any

from care_core.files import read_json, write_json


def folder(runs_dir: Path) -> Path:
    """Where the tickets lie."""
    return runs_dir / ".queue"


def write(runs_dir: Path, run_id: str, content: dict[str, Any]) -> Path:
    """Put a ticket at the end of the line."""
    path = folder(runs_dir) / f"{time.time_ns():020d}-{run_id}.json"
    write_json(path, content)
    return path


def waiting(runs_dir: Path) -> list[Path]:
    """The tickets, oldest first."""
    return sorted(folder(runs_dir).glob("[0-9]*.json"))


def of(runs_dir: Path, run_id: str) -> list[Path]:
    """The tickets of one run."""
    return [path for path in waiting(runs_dir) if path.stem.split("-", 1)[1] == run_id]


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
