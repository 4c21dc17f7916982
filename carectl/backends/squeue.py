"""What SLURM says of this user's jobs: one query for all of them, and not too often.

The answer is kept in the runs folder, so that many shells and many runs cost one `squeue`. Where
accounting is kept, one `sacct` follows for the jobs that have left the queue's memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from care_core.errors import StorageError
from care_core.files import read_json, write_json

EVERY_S = float(os.environ.get("CARECTL_SQUEUE_EVERY_S", "5"))
TIMEOUT_S = 30
ACTIVE = {
    "PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "REQUEUED",
    "REQUEUE_HOLD", "REQUEUE_FED", "RESIZING", "SIGNALING", "STAGE_OUT", "SPECIAL_EXIT",
}  # fmt: skip


class JobView(NamedTuple):
    """A job's state in SLURM's words, why it waits, and where it runs."""

    state: str
    reason: str = ""
    nodes: str = ""

    @property
    def active(self) -> bool:
        """Whether SLURM still has something to do with it."""
        return self.state in ACTIVE


class Answer(NamedTuple):
    """All jobs by id (array tasks as 12_3), when that was asked, and what went wrong if it did."""

    at: float
    jobs: dict[str, JobView]
    problem: str = ""
    accounted: bool = False  #: whether sacct was asked too


_memory: dict[Path, Answer] = {}


def look(runs_dir: Path, wanted: str | None = None) -> Answer:
    """The newest answer that is young enough, asking anew if there is none.

    Args:
        wanted: a job that must be in it if SLURM knows it; asked of `sacct` once otherwise.
    """
    now = time.time()
    known = _memory.get(runs_dir)
    if known is None or not 0 <= now - known.at < EVERY_S:
        known = _memory[runs_dir] = _shared(runs_dir, now)
    if wanted and wanted not in known.jobs and not known.problem and not known.accounted:
        known = _memory[runs_dir] = _accounted(known)
        _keep(_file(runs_dir), known)
    return known


def forget(runs_dir: Path) -> None:
    """Ask anew next time: the jobs have just been changed from here."""
    _memory.pop(runs_dir, None)
    _file(runs_dir).unlink(missing_ok=True)


def _file(runs_dir: Path) -> Path:
    return runs_dir / ".cache" / "squeue.json"


def _shared(runs_dir: Path, now: float) -> Answer:
    """The answer in the file, or a new one that the file then has; one process asks at a time."""
    path = _file(runs_dir)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError:  # a read-only folder is looked at without the help of others
        return _ask(_load(path))
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        before = _load(path)
        if before and 0 <= now - before.at < EVERY_S:
            return before
        answer = _ask(before)
        _keep(path, answer)
        return answer
    finally:
        os.close(handle)


def _keep(path: Path, answer: Answer) -> None:
    with contextlib.suppress(StorageError):  # a full disk or a read-only folder: it is asked again
        write_json(path, answer, durable=False)


def _load(path: Path) -> Answer | None:
    try:
        return _answers().validate_python(read_json(path))
    except ValidationError:  # nothing, or what is no answer: it is asked anew
        return None


@functools.cache
def _answers() -> TypeAdapter[Answer]:
    return TypeAdapter(Answer)


def _ask(before: Answer | None) -> Answer:
    command = ["squeue", "--me", "-r", "-t", "all", "-h", "-o", "%i|%T|%r|%N"]
    started = time.time()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Answer(started, before.jobs if before else {}, f"squeue does not answer ({error})")
    if done.returncode:
        words = done.stderr.strip().splitlines()
        return Answer(
            started, before.jobs if before else {}, words[-1] if words else "squeue failed"
        )
    jobs = {}
    for line in done.stdout.splitlines():
        job, state, reason, nodes = [*line.strip().split("|"), "", "", ""][:4]
        jobs[job] = JobView(state, "" if reason == "None" else reason, nodes)
    return Answer(started, jobs)


def _accounted(known: Answer) -> Answer:
    """Add what the accounting says of this user's jobs of the last month, if there is any."""
    if shutil.which("sacct") is None:
        return known._replace(accounted=True)
    command = ["sacct", "-X", "-n", "-P", "-S", "now-30days", "-o", "JobID,State,NodeList"]
    jobs = dict(known.jobs)
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
        for line in done.stdout.splitlines() if done.returncode == 0 else ():
            job, state, nodes = [*line.split("|"), "", ""][:3]
            jobs.setdefault(job, JobView(state.split(" ")[0] or "UNKNOWN", "", nodes))
    return known._replace(jobs=jobs, accounted=True)
