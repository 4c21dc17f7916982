"""What a job executes, the same on every backend: claim the attempt, train or probe, record."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

from care_core.errors import CareError, StorageError
from care_core.files import write_json
from care_core.spec import PretrainSpec, ProbeSpec
from carectl import processes, publishing
from carectl.backends import slots
from carectl.runs import Run
from carectl.tracking import RunTracker


def execute(run_dir: str, attempt: int, chosen: list[str]) -> None:
    """Run one attempt in this process; its outcome is what it leaves in the run folder.

    A second process for the same run ends at once: one holds the run's lock.
    """
    run = Run(Path(run_dir))
    folder = run.path / "attempts" / str(attempt)
    lock = _claim(run)
    if lock is None:
        return
    with contextlib.suppress(OSError):
        os.setsid()  # a group of its own, so that cancelling reaches all of it and nothing else
    held = [slots.take(slot) for slot in chosen]
    write_json(
        folder / "handle.json",
        {**processes.describe(os.getpid()), "slots": chosen, "since": time.time()},
    )
    asked_to_stop: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        asked_to_stop.append(number)  # nothing is saved in a handler: the step in flight ends first

    signal.signal(signal.SIGTERM, note)
    tracker = publishing.tracker(run)
    if tracker:
        tracker.start()
    try:
        _work(run, tracker, lambda: bool(asked_to_stop))
    except BaseException as error:
        cancelled = (folder / "cancelled.json").exists()
        print(f"error: {_sentence(error)}", flush=True)
        if not cancelled:
            with contextlib.suppress(StorageError):  # a full disk: the log alone has the words
                write_json(folder / "error.json", {"message": _sentence(error), "at": time.time()})
        if tracker:
            tracker.finish("KILLED" if cancelled else "FAILED")
        if not isinstance(error, CareError):
            traceback.print_exc()
    finally:
        for handle in (*held, lock):
            os.close(handle)


def _claim(run: Run) -> int | None:
    handle = os.open(run.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def _work(run: Run, tracker: RunTracker | None, stop: Any) -> None:
    import care_core

    record, job = run.record, run.job
    common: dict[str, Any] = {
        "data_dir": Path(job["data_dir"]),
        "threads": job["threads"],
        "say": lambda text: print(text, flush=True),
    }
    if record["kind"] == "pretrain":
        spec = PretrainSpec.model_validate(record["spec"])
        care_core.pretrain(spec, run.path, tracker=tracker, stop=stop, **common)
    else:
        probe_spec = ProbeSpec.model_validate(record["spec"])
        care_core.probe(probe_spec, run.path, _source(run, probe_spec), **common)
    if tracker:
        publishing.publish(run, tracker)


def _source(run: Run, spec: ProbeSpec) -> Path:
    """The checkpoint to probe: a file, or the one of a run's epoch."""
    from care_core import checkpoint

    if run.job.get("checkpoint"):
        return Path(run.job["checkpoint"])
    return checkpoint.at_epoch(run.path.parent / run.job["source_run"] / "checkpoints", spec.epoch)


def _sentence(error: BaseException) -> str:
    if isinstance(error, CareError):
        return str(error)
    if isinstance(error, MemoryError) or "out of memory" in str(error):
        return f"out of memory ({error}); lower training.batch_size"
    return f"{type(error).__name__}: {error}"
