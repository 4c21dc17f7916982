"""The local backend: tickets in the runs folder, and one small process that starts them in order.

The queue process (carectl.backends.queue) belongs to no terminal; when it is killed the next
command that looks starts another, which finds the tickets and the jobs where they were.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from care_core.files import read_json, write_json
from carectl import processes
from carectl.backends import slots, tickets
from carectl.backends.base import Job
from carectl.runs import Run

TERM_GRACE_S = 15.0  # a step and a checkpoint's write fit in


class LocalBackend:
    """This machine's slots."""

    def __init__(self, runs_dir: Path, devices: str | None = None) -> None:
        self.runs_dir, self.slots = runs_dir, slots.names(devices)

    def submit(self, jobs: list[Job]) -> list[Path]:
        """Write a ticket for each job, in order, and wake the queue."""
        attempts = []
        for job in jobs:
            attempt = job.run.new_attempt()
            content = {
                "run": job.run.id,
                "attempt": int(attempt.name),
                "depends": list(job.depends),
                "slots": self.slots,
                "count": min(max(1, job.gpus), len(self.slots)),
            }
            tickets.write(self.runs_dir, job.run.id, content)
            attempts.append(attempt)
        self.ensure()
        return attempts

    def ensure(self) -> None:
        """Start the queue process if tickets wait and none runs."""
        if not tickets.waiting(self.runs_dir):
            return
        lock = tickets.take_lock(self.runs_dir)
        if lock is None:
            return
        os.close(lock)
        with (tickets.folder(self.runs_dir) / "queue.log").open("ab") as log:
            subprocess.Popen(
                [sys.executable, "-m", "carectl.backends.queue", str(self.runs_dir.resolve())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def cancel(self, run: Run) -> bool:
        """Take the ticket back, or stop the job's whole process group."""
        attempts = run.attempts
        if not attempts:
            return False
        newest = attempts[-1]
        waiting = tickets.of(self.runs_dir, run.id)
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
            deadline = time.monotonic() + TERM_GRACE_S
            while processes.alive(handle) and time.monotonic() < deadline:
                time.sleep(0.1)
            processes.signal_group(handle, signal.SIGKILL)
        return True
