"""The run folder: create it, read it, derive its state. A state is never stored."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from care_core.files import storage_error, write_bytes, write_json
from carectl import listings, processes, records, redaction, trust
from carectl.backends import tickets
from carectl.errors import CommandError
from carectl.identity import SHOWN, Identity

State = Literal[
    "new", "queued", "running", "stale", "done", "failed", "cancelled", "blocked", "lost"
]
STALE_AFTER_S = 600
_ROOM = 2**16  # bytes: with fewer left not even a note may fit
_NUMBER = re.compile(r"[1-9][0-9]{0,8}").fullmatch  # of an attempt
_NOTES: dict[str, State] = {
    "cancelled": "cancelled",
    "blocked": "blocked",
    "error": "failed",
    "lost": "lost",
}


class Run(NamedTuple):
    """A run folder and what can be read from it."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def record(self) -> dict[str, Any]:
        """spec.json: kind, name, sha256, identity, spec."""
        return records.read(self.path / "spec.json") or {}

    @property
    def job(self) -> dict[str, Any]:
        """job.json: where data lies, threads, tracking, dependencies. Changes no result."""
        return records.read(self.path / "job.json") or {}

    @property
    def result(self) -> dict[str, Any] | None:
        return records.read(self.path / "result.json") or None

    @property
    def progress(self) -> dict[str, Any]:
        return records.read(self.path / "progress.json") or {}

    @property
    def attempts(self) -> list[Path]:
        folder = self.path / "attempts"
        try:
            names = os.listdir(folder)  # noqa: PTH208
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [folder / str(n) for n in sorted(int(name) for name in names if _NUMBER(name))]

    def new_attempt(self) -> Path:
        """The folder of the next attempt, made; what is put there is executed.

        Raises:
            CommandError: the run's folder is another user's, or others can write to it.
        """
        number = int(self.attempts[-1].name) + 1 if self.attempts else 1
        path = self.path / "attempts" / str(number)
        trust.private(self.path)
        trust.private(path.parent)
        path.mkdir(mode=0o755)
        return path


class Status(NamedTuple):
    """A derived state, and why."""

    state: State
    reason: str = ""


def logs(attempt: Path, rank: int, kind: str = "*") -> list[Path]:
    """The files into which a rank of an attempt printed; `kind` is out or err."""
    found = records.read(attempt / "submission.json")
    if found:
        from carectl.backends import slurm

        job = slurm.job_id(found)
        folder = attempt.parents[2] / ".slurm" / Path(str(found.get("logs"))).name
        here = folder.glob(f"{job}_{rank}_log.{kind}") if job else iter(())
    else:
        here = attempt.glob(f"*_{rank}_log.{kind}")
    return sorted(path for path in here if path.is_file())  # a pipe would be waited for


def epochs(run: Run) -> list[int]:
    """The epochs at whose end a checkpoint of the run is there."""
    found = (re.fullmatch(r"e(\d+)-.*", p.stem) for p in (run.path / "checkpoints").glob("*.pt"))
    return sorted({int(match[1]) for match in found if match})


def create(runs_dir: Path, identity: Identity, record: dict[str, Any], yaml: str) -> Run:
    """Make the folder of a run, or find it under whatever name it has."""
    found = by_hash(runs_dir, identity.sha256)
    if found:
        return found
    run = Run(runs_dir / identity.run_id)
    run.path.mkdir(parents=True, exist_ok=True, mode=0o755)
    write_bytes(run.path / "spec.yaml", yaml.encode())
    write_json(
        run.path / "spec.json", {"sha256": identity.sha256, "identity": identity.fields, **record}
    )
    return run


def by_hash(runs_dir: Path, sha256: str) -> Run | None:
    """The run of a hash, whatever it is called."""
    for name in listings.by(_digits, runs_dir).get(sha256[:SHOWN], ()):
        if (records.read(runs_dir / name / "spec.json") or {}).get("sha256") == sha256:
            return Run(runs_dir / name)
    return None


def _digits(name: str) -> str:
    """What a run folder's name ends in: the beginning of its hash."""
    return name.rpartition("-")[2]


def listing(runs_dir: Path) -> Iterator[Run]:
    """Every run of the folder. Plain strings where it is hot: there may be ten thousand."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for name in sorted(os.listdir(runs_dir)):  # noqa: PTH208
            if name[0] == "." or not name.isprintable():  # such a name is not of our making
                continue
            if os.path.exists(f"{runs_dir}/{name}/spec.json"):  # noqa: PTH110
                yield Run(runs_dir / name)


def find(runs_dir: Path, text: str) -> Run:
    """A run by id, by a unique prefix of its id or of its hash, or by name.

    Raises:
        CommandError: none or several fit; says which.
    """
    if not text:
        raise CommandError("which run? Give its id, a prefix of it, or its name, as in status")
    if "/" in text and "\0" not in text and _real(Path(text)).parent == _real(runs_dir):
        text = Path(text).name  # as the shell completes it
    hits = [
        run
        for run in listing(runs_dir)
        if run.id == text
        or run.id.startswith(text)
        or run.id.rsplit("-", 1)[-1].startswith(text)
        or run.record.get("name") == text
    ]
    exact = [run for run in hits if run.id == text]
    hits = exact or hits
    if len(hits) == 1:
        return hits[0]
    if not hits:
        shown = text if len(text) < 200 else f"{text[:200]}…"
        raise CommandError(f"no run '{shown}' in {runs_dir}; `carectl status` lists what is there")
    names = ", ".join(run.id for run in hits[:5])
    raise CommandError(f"'{text}' fits {len(hits)} runs: {names}; give more of the id")


def _real(path: Path) -> Path:
    """As `resolve`, which raises where links lead to each other."""
    return Path(os.path.realpath(path))


def status(run: Run) -> Status:
    """Derive the state: a result → done; else what the newest attempt's files and process say."""
    if os.path.exists(f"{run.path}/result.json"):  # noqa: PTH110
        return _done(run)
    attempts = run.attempts
    if not attempts:
        return Status("new")
    newest = attempts[-1]
    if (newest / "submission.json").exists():
        return _on_cluster(run, newest)
    if found := _noted(newest):
        return found
    handle = records.read(newest / "handle.json")
    if handle is None:
        if waiting := tickets.of(run.path.parent, run.id):
            return Status("queued", _waits_for(run, waiting[0]))
    elif processes.alive(handle):
        silence = _silence(run, handle, here=True)
        if silence > STALE_AFTER_S and run.progress:
            return Status("stale", f"no heartbeat for {silence:.0f} s")
        return Status("running", f"on {handle['host']}, device {handle.get('device', '?')}")
    # It may have been taken up, or have ended, between the looks.
    if (run.path / "result.json").exists():
        return _done(run)
    if found := _noted(newest):
        return found
    if handle is None:
        if why := records.wrong(newest / "handle.json"):
            return Status("lost", why)
        if (newest / "handle.json").exists():
            return status(run)
        never = "it was never handed to the queue; the same command submits it"
        return Status("lost", _no_room(newest) or never)
    return Status("lost", _last_words(newest))


def _done(run: Run) -> Status:
    """The state of a run with a result.json; one that cannot be read is no result."""
    if why := records.wrong(run.path / "result.json"):
        return Status("failed", f"{why}; delete it, and the same command finishes the run again")
    return Status("done")


def leave_note(attempt: Path, kind: str, message: str) -> None:
    """Leave why an attempt is over: cancelled, blocked, error or lost.

    Raises:
        StorageError: it could not be written.
    """
    said = redaction.text(message)
    write_json(attempt / f"{kind}.json", {"message": said, "at": time.time()})


def _noted(attempt: Path) -> Status | None:
    """What an attempt's end left behind."""
    for name, state in _NOTES.items():
        if note := records.read(attempt / f"{name}.json"):
            return Status(state, str(note.get("message", "")))
    return None


def _waits_for(run: Run, ticket: Path) -> str:
    found = tickets.read(ticket)
    for name in found.depends if found else ():
        if not (run.path.parent / name / "result.json").exists():
            return f"after {name}"
    return "waiting for a free slot"


def _on_cluster(run: Run, attempt: Path) -> Status:
    """The state of an attempt that SLURM has or had; what it says comes before old notes."""
    from carectl.backends import slurm

    if note := records.read(attempt / "cancelled.json"):
        return Status("cancelled", str(note.get("message", "")))
    if note := records.read(attempt / "blocked.json"):
        return Status("blocked", str(note.get("message", "")))
    job = slurm.view(run)
    handle = records.read(attempt / "handle.json")
    if job.state == "PENDING" or (job.active and handle is None):
        return Status("queued", job.reason or job.state.lower())
    if job.active:
        beat = _silence(run, handle)
        if beat > STALE_AFTER_S:
            return Status("stale", f"no heartbeat for {beat:.0f} s on {job.nodes}")
        return Status("running", f"on {job.nodes}, device {(handle or {}).get('device', '?')}")
    if job.state == "UNKNOWN" and job.reason:  # SLURM does not answer: nothing is known to be over
        alive = handle and _silence(run, handle) < STALE_AFTER_S
        return Status("running" if alive else "stale", job.reason)
    if (run.path / "result.json").exists():
        return _done(run)
    if "Dependency" in job.reason:
        return Status("blocked", "what it depends on did not succeed")
    if note := records.read(attempt / "error.json"):
        return Status("failed", str(note.get("message", "")))
    if job.state == "CANCELLED":
        return Status("cancelled", "cancelled outside carectl")
    return Status("lost", f"SLURM says {job.state}; {_last_words(attempt)}")


def _silence(run: Run, handle: dict[str, Any] | None, *, here: bool = False) -> float:
    """Seconds since the job was last heard of.

    Of a process `here` by this machine's uptime: the clock may be set while it runs. From another
    host by the clock, so that a jump of either shows until the next heartbeat.
    """
    handle = handle or {}
    if here and handle.get("uptime"):
        return time.monotonic() - max(handle["uptime"], run.progress.get("uptime", 0.0))
    beats = [run.progress.get("heartbeat"), handle.get("since")]
    return time.time() - max([beat for beat in beats if beat] or [0.0])


def held(run: Run) -> bool:
    """Whether a job holds the run's lock at this moment."""
    with contextlib.suppress(OSError), (run.path / ".lock").open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def working(run: Run) -> bool:
    """Whether a process of the run's newest attempt is alive here, its result there or not."""
    attempts = run.attempts
    handle = records.read(attempts[-1] / "handle.json") if attempts else None
    return handle is not None and processes.alive(handle)


def _last_words(attempt: Path) -> str:
    """Why a job that left no error is gone: what it said last, if it complained."""
    for path in logs(attempt, 0, "out"):
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines(keepends=True)
        said = [line for line in lines if line.startswith("error: ") and line.endswith("\n")]
        if said:
            return said[-1].removeprefix("error: ").rstrip("\n")
    killed = "the job ended without a word (killed?); the same command resumes it"
    return _no_room(attempt) or killed


def _no_room(attempt: Path) -> str:
    """Where words are missing: that there was no room for any, if there is none now."""
    try:
        full = shutil.disk_usage(attempt).free < _ROOM
    except OSError:
        return ""
    return str(storage_error(attempt / "error.json", OSError(errno.ENOSPC, ""))) if full else ""
