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
from typing import Any

from care_core.spec.launch import Launch
from carectl import processes, records, trust
from carectl.backends import slots, tickets
from carectl.backends.base import Job
from carectl.backends.tickets import Ticket
from carectl.errors import ENVIRONMENT, CommandError
from carectl.runs import Run, leave_note
from carectl.wording import counted

TERM_GRACE_S = 15.0  # a step and a checkpoint's write fit in
DEATHS = 5  # so many queue processes that failed: it cannot work


class LocalBackend:
    """This machine's slots."""

    def __init__(self, runs_dir: Path, devices: str | None = None) -> None:
        self.runs_dir, self.slots = runs_dir, slots.names(devices)
        self.started: subprocess.Popen[bytes] | None = None
        self.deaths = 0

    def check(self, jobs: list[Job]) -> None:
        """A job must fit on this one machine."""
        for job in jobs:
            if job.launch.nodes > 1 or job.launch.gpus > len(self.slots):
                raise CommandError(
                    f"{job.run.id}: asks for {job.launch.nodes} × {job.launch.gpus} GPUs, and this "
                    f"machine has {counted(len(self.slots), 'slot')} ({', '.join(self.slots)}); "
                    "lower launch.gpus, give --devices (cpu:N for N CPU slots), or take "
                    "--backend slurm",
                    ENVIRONMENT,
                )

    def preview(self, jobs: list[Job]) -> list[str]:
        """There is no scheduler whose language one would read."""
        return []

    def submit(self, jobs: list[Job]) -> None:
        """Write a ticket for each job, in order, and wake the queue."""
        for job in jobs:
            attempt = job.run.new_attempt()
            usable = self.slots if job.launch.gpus else ["cpu-0"]
            tickets.write(
                self.runs_dir,
                Ticket(job.run.id, int(attempt.name), job.depends, usable, job.launch.ranks),
            )
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
        if self.started and (code := self.started.poll()) is None:
            return  # it is still on its way to the lock
        self.deaths += bool(self.started and code and code > 0)  # a kill is no failure of its own
        path = tickets.folder(self.runs_dir) / "queue.log"
        if self.deaths > DEATHS:
            words = path.read_text(errors="replace").strip().splitlines()
            raise CommandError(
                f"the queue process dies as it starts: {words[-1] if words else 'no reason given'} "
                f"(see {path}); what is queued stays queued",
                ENVIRONMENT,
            )
        with path.open("ab") as log:
            self.started = subprocess.Popen(
                [sys.executable, "-m", "carectl.backends.queue", str(self.runs_dir.resolve())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def cancel(run: Run, note: str, message: str) -> bool:
    """Take a run's ticket back, or stop its job's processes, all ranks and their children.

    Raises:
        CommandError: others can write to the attempt's folder, so it may name any process.
    """
    newest = run.attempts[-1]
    waiting = tickets.of(run.path.parent, run.id)
    if not waiting and not _running(newest):
        return False
    trust.require_own(newest)
    leave_note(newest, note, message)
    for path in waiting:
        path.unlink(missing_ok=True)
    running = _running(newest)  # after the note: a job that starts now sees it and ends by itself
    for handle in running:
        processes.signal_group(handle, signal.SIGTERM)
    deadline = time.monotonic() + TERM_GRACE_S
    while any(map(processes.alive, running)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for handle in running:
        processes.signal_group(handle, signal.SIGKILL)
    return True


def _running(attempt: Path) -> list[dict[str, Any]]:
    """The processes of an attempt that are alive here, a rank each."""
    handles = [records.read(path) for path in attempt.glob("handle*.json")]
    return [handle for handle in handles if handle and processes.alive(handle)]
