"""The local backend: tickets in the runs folder, and one small process that starts them in order.

A ticket is a file in `runs/.queue/`, named by its time. The queue process (carectl.backends.queue)
belongs to no terminal; when it is killed the next command that looks starts another, which finds
the tickets and the jobs where they were.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from care_core.files import read_json, write_json
from carectl import processes
from carectl.backends import slots
from carectl.backends.base import Job
from carectl.runs import Run


class LocalBackend:
    """This machine's slots."""

    def __init__(self, runs_dir: Path, devices: str | None = None) -> None:
        self.runs_dir = runs_dir
        self.slots = slots.names(devices)

    def submit(self, jobs: list[Job]) -> list[Path]:
        """Write a ticket for each job, in order, and wake the queue."""
        folder = tickets_dir(self.runs_dir)
        folder.mkdir(parents=True, exist_ok=True)
        attempts = []
        for job in jobs:
            attempt = job.run.new_attempt()
            wanted = min(max(1, job.gpus), len(self.slots))
            ticket = {
                "run": job.run.id,
                "attempt": int(attempt.name),
                "depends": list(job.depends),
                "slots": self.slots,
                "count": wanted,
            }
            write_json(attempt / "ticket.json", ticket)
            write_json(folder / f"{time.time_ns():020d}-{job.run.id}.json", ticket)
            attempts.append(attempt)
        self.ensure()
        return attempts

    def ensure(self) -> None:
        """Start the queue process if tickets wait and none runs."""
        if pending(self.runs_dir) and not queue_runs(self.runs_dir):
            log = (tickets_dir(self.runs_dir) / "queue.log").open("ab")
            subprocess.Popen(
                [sys.executable, "-m", "carectl.backends.queue", str(self.runs_dir.resolve())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            log.close()

    def cancel(self, run: Run) -> bool:
        """Take the ticket back, or stop the job's whole process group."""
        attempts = run.attempts
        if not attempts:
            return False
        newest = attempts[-1]
        waiting = [path for path in pending(self.runs_dir) if path.stem.endswith(f"-{run.id}")]
        handle = read_json(newest / "handle.json")
        running = bool(handle) and processes.alive(handle)
        if not waiting and not running:
            return False
        write_json(
            newest / "cancelled.json", {"message": "cancelled by carectl", "at": time.time()}
        )
        for path in waiting:
            path.unlink(missing_ok=True)
        if running and processes.signal_group(handle, signal.SIGTERM):
            deadline = time.monotonic() + 15
            while processes.alive(handle) and time.monotonic() < deadline:
                time.sleep(0.1)
            processes.signal_group(handle, signal.SIGKILL)
        return True


def tickets_dir(runs_dir: Path) -> Path:
    return runs_dir / ".queue"


def pending(runs_dir: Path) -> list[Path]:
    """The tickets that wait, oldest first."""
    return sorted(tickets_dir(runs_dir).glob("[0-9]*.json"))


def queue_runs(runs_dir: Path) -> bool:
    """Whether a queue process serves this runs folder (it holds a lock while it lives)."""
    import fcntl

    path = tickets_dir(runs_dir) / "queue.lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def ticket(path: Path) -> dict[str, object] | None:
    """A ticket's content; None where it was taken back meanwhile."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return None
