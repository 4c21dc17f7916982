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
from care_core.launch import Launch
from carectl import processes
from carectl.backends import slots, tickets
from carectl.backends.base import Job
from carectl.errors import ENVIRONMENT, CommandError
from carectl.runs import Run

TERM_GRACE_S = 15.0  # a step and a checkpoint's write fit in


class LocalBackend:
    """This machine's slots."""

    def __init__(self, runs_dir: Path, devices: str | None = None) -> None:
        self.runs_dir, self.slots = runs_dir, slots.names(devices)

    def check(self, jobs: list[Job]) -> None:
        """A job must fit on this one machine."""
        for job in jobs:
            if job.launch.nodes > 1 or job.launch.ranks > len(self.slots):
                raise CommandError(
                    f"{job.run.id}: asks for {job.launch.nodes} × {job.launch.gpus} GPUs, and this "
                    f"machine has {len(self.slots)} slots ({', '.join(self.slots)}); lower "
                    "launch.gpus, give --devices (cpu:N for N CPU slots), or take --backend slurm",
                    ENVIRONMENT,
                )

    def preview(self, jobs: list[Job]) -> list[str]:
        """There is no scheduler whose language one would read."""
        return []

    def submit(self, jobs: list[Job]) -> None:
        """Write a ticket for each job, in order, and wake the queue."""
        for job in jobs:
            attempt = job.run.new_attempt()
            content = {
                "run": job.run.id,
                "attempt": int(attempt.name),
                "depends": list(job.depends),
                "slots": self.slots,
                "count": job.launch.ranks,
            }
            tickets.write(self.runs_dir, job.run.id, content)
        self.ensure()

    def threads(self, launch: Launch) -> int:
        """A rank's share of the cores: those of a CPU slot, or of a GPU's."""
        return max(1, len(os.sched_getaffinity(0)) // len(self.slots))

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


def cancel(run: Run) -> bool:
    """Take a run's ticket back, or stop its job's processes, all ranks and their children."""
    newest = run.attempts[-1]
    waiting = tickets.of(run.path.parent, run.id)
    handles = [read_json(path) for path in newest.glob("handle*.json")]
    running = [handle for handle in handles if handle and processes.alive(handle)]
    if not waiting and not running:
        return False
    write_json(newest / "cancelled.json", {"message": "cancelled by carectl", "at": time.time()})
    for path in waiting:
        path.unlink(missing_ok=True)
    for handle in running:
        processes.signal_group(handle, signal.SIGTERM)
    deadline = time.monotonic() + TERM_GRACE_S
    while any(map(processes.alive, running)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for handle in running:
        processes.signal_group(handle, signal.SIGKILL)
    return True
