"""The queue process of the local backend: `python -m carectl.backends.queue RUNS_DIR`.

It starts the oldest job that is ready as soon as enough slots are free, and ends when nothing
waits. It keeps nothing in memory that matters: after a kill the next one goes on from the files.
A job started twice by such a change of hands claims its attempt once (carectl.jobs).
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Any

from care_core.errors import StorageError
from care_core.files import read_json
from carectl import runs, trust
from carectl.backends import logfile, slots, tickets
from carectl.backends.tickets import Ticket
from carectl.jobs import execute
from carectl.runs import Run

POLL_S = 0.2


class Started:
    """A job that this process started, until it has claimed its attempt or died."""

    def __init__(self, path: Path, ticket: Ticket, chosen: list[str], process: Any) -> None:
        self.path, self.ticket, self.slots, self.process = path, ticket, chosen, process

    def ended(self) -> bool:
        return bool(self.process.poll() is not None)


def serve(runs_dir: Path) -> None:
    """Work through the tickets until none is left."""
    while tickets.waiting(runs_dir):
        lock = tickets.take_lock(runs_dir)
        if lock is None:
            return
        _serve_locked(runs_dir)
        os.close(lock)  # then look once more: a ticket may have come while the lock was held


def _serve_locked(runs_dir: Path) -> None:
    started: list[Started] = []
    while True:
        waiting = tickets.waiting(runs_dir)
        for job in started:
            _settle(runs_dir, job)
        started = [job for job in started if not job.ended()]
        if not waiting and not started:
            return
        busy = {slot for job in started for slot in job.slots}
        held_by = {job.path for job in started}
        for path in waiting:
            if path in held_by:
                continue
            ticket = tickets.read(path)
            if ticket is None:  # taken back meanwhile, or damaged: its run is lost, not the others
                path.unlink(missing_ok=True)
                continue
            if not _ready(runs_dir, path, ticket):
                continue
            usable = [slot for slot in ticket.slots if slot not in busy and slots.free(slot)]
            if len(usable) < ticket.count:
                break  # in order: a small job must not overtake a large one for ever
            chosen = usable[: ticket.count]
            try:
                started.append(_start(runs_dir, path, ticket, chosen))
            except Exception as error:  # one job that cannot start must not stop the others
                _fail(path, _attempt(runs_dir, ticket), f"it could not be started: {error}")
                continue
            busy |= set(chosen)
        time.sleep(POLL_S)


def _attempt(runs_dir: Path, ticket: Ticket) -> Path:
    return runs_dir / ticket.run / "attempts" / str(ticket.attempt)


def _ready(runs_dir: Path, path: Path, ticket: Ticket) -> bool:
    """Whether all dependencies are done; a ticket that can never run is closed."""
    attempt = _attempt(runs_dir, ticket)
    if not attempt.is_dir() or (runs_dir / ticket.run / "result.json").exists():
        path.unlink(missing_ok=True)
        return False
    handle = read_json(attempt / "handle.json")
    if handle:  # a queue before this one started it
        path.unlink(missing_ok=True)
        return False
    for name in ticket.depends:
        state = runs.status(Run(runs_dir / name)).state
        if state in ("failed", "cancelled", "blocked", "lost", "new"):
            _fail(path, attempt, f"{name} is {state}", "blocked")
            return False
        if state != "done":
            return False
    return True


def _start(runs_dir: Path, path: Path, ticket: Ticket, chosen: list[str]) -> Started:
    import submitit

    attempt = _attempt(runs_dir, ticket)
    trust.require_own(attempt)  # what lies there is unpickled
    executor = submitit.LocalExecutor(folder=attempt)
    gpus = [int(slot.removeprefix("gpu-")) for slot in chosen if slot.startswith("gpu-")]
    year = 365 * 24 * 60  # minutes; submitit's default would end the job after two
    executor.update_parameters(
        timeout_min=year,
        tasks_per_node=len(chosen),
        gpus_per_node=len(gpus),
        visible_gpus=gpus,
    )
    job = executor.submit(execute, str(runs_dir / ticket.run), ticket.attempt, chosen)
    print(f"{ticket.run}: attempt {ticket.attempt} on {', '.join(chosen)}", flush=True)
    return Started(path, ticket, chosen, job._process)


def _settle(runs_dir: Path, job: Started) -> None:
    """The ticket is done with once the job has claimed its attempt, said why not, or died."""
    attempt = _attempt(runs_dir, job.ticket)
    if any((attempt / name).exists() for name in ("handle.json", "error.json")):
        job.path.unlink(missing_ok=True)
    elif job.ended() and job.path.exists():
        if runs.held(Run(runs_dir / job.ticket.run)):  # an earlier attempt is still at it
            job.path.unlink(missing_ok=True)
            return
        tail = "".join(sorted(p.read_text()[-500:] for p in attempt.glob("*_log.err"))).strip()
        if tail:
            _fail(job.path, attempt, f"the job died as it started: {tail}")
        else:
            _fail(job.path, attempt, "the job was killed as it started", "lost")


def _fail(path: Path, attempt: Path, message: str, how: str = "error") -> None:
    """Close a ticket, and leave why."""
    with contextlib.suppress(StorageError):  # a full disk: the ticket goes all the same
        runs.leave_note(attempt, how, message)
    path.unlink(missing_ok=True)


if __name__ == "__main__":
    trust.tighten()
    logfile.outlive_full_disks()
    serve(Path(sys.argv[1]))
