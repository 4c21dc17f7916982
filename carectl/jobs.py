"""What a job executes, the same on every backend: claim the attempt, train or probe, record.

Each rank is one process. Rank 0 holds the run's lock and writes; what comes of the attempt is what
it leaves in the run folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from care_core.errors import (
    CareError,
    CheckpointError,
    Interrupted,
    PeerLostError,
    StorageError,
)
from care_core.files import read_json, write_json
from care_core.spec import PretrainSpec, ProbeSpec
from care_core.spec.launch import Launch
from carectl import processes, provenance, publishing, redaction, trust
from carectl.backends import logfile, slots
from carectl.runs import Run, leave_note
from carectl.tracking import RunTracker

PEERS_WAIT_S = 600.0
SLURM_ENDS_IT_S = 900.0


class Place(NamedTuple):
    """This process among the job's: as submitit tells it."""

    rank: int
    size: int
    local_rank: int
    nodes: int
    job: str
    cluster: str

    def file(self, name: str) -> str:
        """A file's name for this one start of the job: a requeued one has the same id."""
        return f"{name}-{self.job}-{os.environ.get('SLURM_RESTART_COUNT', '0')}.json"


def execute(run_dir: str, attempt: int, chosen: list[str]) -> None:
    """Run one attempt in this process, one of its ranks.

    A second job for the same run ends at once: one holds the run's lock.
    """
    signals = _listen()
    trust.tighten()
    logfile.outlive_full_disks()
    run, here = Run(Path(run_dir)), _place()
    folder = run.path / "attempts" / str(attempt)
    if here.cluster == "local":
        with contextlib.suppress(OSError):
            os.setsid()  # a group of its own, so that cancelling reaches it and nothing else
    held = _claim(run, folder, here)
    if held is None:
        return
    if chosen:
        held.append(slots.take(chosen[here.rank]))
    tracker = publishing.tracker(run, _say, submitted=True) if here.rank == 0 else None
    try:
        _sign_in(folder, here, chosen)
        if (folder / "cancelled.json").exists():  # while it was starting
            return
        if tracker:
            tracker.start()
        _work(run, folder, here, tracker, lambda: bool(signals))
    except BaseException as error:
        stopped = here.cluster == "slurm" and isinstance(error, Interrupted)
        if stopped and _may_go_on(run, folder, here, signals):
            return
        if here.rank == 0 or (isinstance(error, PeerLostError) and error.speaks):
            _record(run, folder, error, tracker)
        if not isinstance(error, CareError):
            print(redaction.text(traceback.format_exc()), file=sys.stderr)
        sys.stdout.flush()
        sys.exit(1)  # what depends on this job must not start
    finally:
        for handle in held:
            os.close(handle)


def _listen() -> list[int]:
    """From now on note the signals that ask this job to stop; submitit would drop or act on them.

    Nothing is saved in a handler: the step in flight ends first.
    """
    signals: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        signals.append(number)

    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, note)
    return signals


def _place() -> Place:
    import submitit

    env = submitit.JobEnvironment()
    return Place(
        env.global_rank, env.num_tasks, env.local_rank, env.num_nodes, env.job_id, env.cluster
    )


def _claim(run: Run, folder: Path, here: Place) -> list[int] | None:
    """Rank 0 takes the run's lock; the others wait for its word. None: this job is not wanted."""
    word = folder / here.file("word")
    if here.rank > 0:
        deadline = time.monotonic() + PEERS_WAIT_S
        while (said := read_json(word)) is None:
            if time.monotonic() > deadline:
                raise CareError(f"rank {here.rank}: rank 0 did not start in {PEERS_WAIT_S:.0f} s")
            time.sleep(0.1)
        return [] if said["claimed"] else None
    handle = os.open(run.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        handle = -1
    if here.size > 1:
        write_json(word, {"claimed": handle >= 0})
    return [handle] if handle >= 0 else None


def _sign_in(folder: Path, here: Place, chosen: list[str]) -> None:
    """Leave who runs this, so that it can be watched and stopped from outside."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    devices = visible.split(",") if visible else []
    device = devices[here.local_rank % len(devices)] if devices else "cpu"
    name = "handle.json" if here.rank == 0 else f"handle-{here.rank}.json"
    write_json(
        folder / name,
        {
            **processes.describe(os.getpid()),
            "rank": here.rank,
            "ranks": here.size,
            "slots": chosen,
            "device": device,
            "hardware": provenance.hardware() if here.rank == 0 else None,
            "since": time.time(),
            "uptime": time.monotonic(),
        },
    )
    if here.rank == 0:
        (folder / "error.json").unlink(missing_ok=True)  # of an earlier start of this job
    print(f"rank {here.rank} of {here.size} on {processes.host()}, device {device}", flush=True)


def _record(run: Run, folder: Path, error: BaseException, tracker: RunTracker | None) -> None:
    """Leave why the attempt ended, for the status and for MLflow."""
    cancelled = (folder / "cancelled.json").exists()
    _say(f"error: {_sentence(error)}")
    if not cancelled:
        with contextlib.suppress(StorageError):  # a full disk: the log alone has the words
            leave_note(folder, "error", _sentence(error))
    if tracker:
        publishing.close(run, "KILLED" if cancelled else "FAILED", tracker)


def _say(text: str) -> None:
    print(text, flush=True)


def _may_go_on(run: Run, folder: Path, here: Place, signals: list[int]) -> bool:
    """After a warning by SLURM: whether this job starts again, requeued by itself or by SLURM.

    Limited by `launch.max_requeues`, and three times in a row without a new step is the end.
    """
    from carectl.backends import slurm

    if (folder / "cancelled.json").exists():
        return False
    if here.rank > 0:
        return True  # rank 0 speaks for all
    if signals and signal.SIGUSR2 not in signals:
        # SLURM is ending the job: a preempted one is requeued only if it is still there at the end
        # of the grace time, a cancelled one is killed. Either way its state is saved.
        print("saved; waiting for SLURM to end this job", flush=True)
        time.sleep(SLURM_ENDS_IT_S)
        return False
    past = list(read_json(folder / "requeues.json") or [])
    step = int(run.progress.get("step", 0))
    if len(past) >= int(run.job["launch"]["max_requeues"]) or past[-3:] == [step] * 3:
        print(f"requeued {len(past)} times; it does not go on by itself", flush=True)
        return False
    write_json(folder / "requeues.json", [*past, step])
    return slurm.requeue()


def _work(
    run: Run, folder: Path, here: Place, tracker: RunTracker | None, stop: Callable[[], bool]
) -> None:
    import care_core
    from care_core import distributed

    record, job = run.record, run.job
    common: dict[str, Any] = {
        "data_dir": Path(job["data_dir"]),
        "threads": job["threads"],
        "say": _say,
    }
    if record["kind"] == "pretrain":
        spec = PretrainSpec.model_validate(record["spec"])
        # as asked now: the record has what was asked first
        spec = spec.model_copy(update={"launch": Launch.model_validate(job["launch"])})
        world = distributed.join(
            rank=here.rank, size=here.size, local_rank=here.local_rank,
            meeting=folder / here.file("meeting"), single_host=here.nodes == 1,
            timeout_s=PEERS_WAIT_S, patience_s=spec.launch.patience_s,
        )  # fmt: skip
        try:
            care_core.pretrain(spec, run.path, tracker=tracker, stop=stop, world=world, **common)
        finally:
            world.close()
    elif here.rank == 0:
        probe_spec = ProbeSpec.model_validate(record["spec"])
        decoders = Launch.model_validate(job["launch"]).decoders
        # SLURM ends a job in its own time, in which an evaluation may come to its end
        care_core.probe(
            probe_spec, run.path, _source(run, probe_spec), decoders=decoders,
            stop=lambda: here.cluster == "local" and stop(), **common,
        )  # fmt: skip
    if here.rank == 0:
        publishing.publish(run, tracker)


def _source(run: Run, spec: ProbeSpec) -> Path:
    """The checkpoint to probe: a file, or the one of a run's epoch."""
    from care_core import checkpoint, resuming

    if run.job.get("checkpoint"):
        file = Path(run.job["checkpoint"])
        if not file.exists() or hashlib.sha256(file.read_bytes()).hexdigest() != spec.source:
            raise CheckpointError(f"{file}: is not, or no longer, the file that was submitted")
        return file
    source = Run(trust.inside(run.path.parent, run.job["source_run"]))
    folder = source.path / "checkpoints"
    chosen = (source.result or {}).get("checkpoint")  # not the newest under checkpoint.select: best
    if spec.epoch is None and chosen and trust.inside(folder, chosen).exists():
        return folder / str(chosen)
    found = checkpoint.at_epoch(folder, spec.epoch)
    resuming.require_of(found, PretrainSpec.model_validate(source.record["spec"]))
    return found


def _sentence(error: BaseException) -> str:
    if isinstance(error, CareError):
        return str(error)
    if isinstance(error, MemoryError) or "out of memory" in str(error):
        return f"out of memory ({error}); lower training.batch_size"
    return f"{type(error).__name__}: {error}"
