"""The SLURM backend, through submitit: one job array for what is alike, one task a GPU.

Arrays follow each other by `aftercorr` where every task has its counterpart, else by `afterok`;
`kill-on-invalid-dep` keeps a child of a failed parent from waiting for ever. A job that is
preempted, or reaches its limit, saves and requeues itself under the same id (carectl.jobs).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from care_core.files import write_json
from care_core.spec.launch import Launch
from carectl import records, trust
from carectl.backends import squeue
from carectl.backends.base import Job
from carectl.errors import ENVIRONMENT, CommandError
from carectl.runs import Run, leave_note

ARRAY_LIMIT = 1000  # tasks; SLURM's own default for MaxArraySize is 1001


class Batch:
    """Jobs that become one array, and the dependency they share."""

    def __init__(self, jobs: list[Job], dependency: str | None) -> None:
        self.jobs, self.dependency = jobs, dependency


class SlurmBackend:
    """The cluster whose commands are on this machine."""

    def __init__(self, runs_dir: Path) -> None:
        self.runs_dir = runs_dir.resolve()

    def check(self, jobs: list[Job]) -> None:
        """SLURM must be here, and able to answer."""
        missing = [name for name in ("sbatch", "squeue", "scancel") if not shutil.which(name)]
        if missing:
            raise CommandError(
                f"--backend slurm: {', '.join(missing)} not found; log in to a machine of the "
                "cluster, or take --backend local",
                ENVIRONMENT,
            )

    def preview(self, jobs: list[Job]) -> list[str]:
        """The sbatch files that submission would write; ids of jobs to come stand as JOB1, …"""
        names: dict[str, str] = {}
        texts = []
        for number, batch in enumerate(self._batches(jobs, names), start=1):
            executor = self._executor(self.runs_dir / ".slurm" / "SUBMISSION", batch)
            if len(batch.jobs) > 1:
                executor.parameters["map_count"] = len(batch.jobs)
            texts.append(executor._make_submission_file_text(executor._submitit_command_str, "x"))
            _name(names, batch.jobs, f"JOB{number}")
        return texts

    def submit(self, jobs: list[Job]) -> None:
        """Hand everything to SLURM: an array a batch, in the order of the plan."""
        from carectl.jobs import execute

        names: dict[str, str] = {}
        for batch in self._batches(jobs, names):
            trust.private(self.runs_dir / ".slurm")  # its pickles are executed
            folder = self.runs_dir / ".slurm" / f"{time.time_ns():020d}"
            executor = self._executor(folder, batch)
            attempts = [job.run.new_attempt() for job in batch.jobs]
            try:
                with executor.batch():
                    handed = [
                        executor.submit(execute, str(attempt.parent.parent), int(attempt.name), [])
                        for attempt in attempts
                    ]
            except Exception as error:
                raise CommandError(f"sbatch: {_words(error)}", ENVIRONMENT) from error
            for attempt, job in zip(attempts, handed, strict=True):
                write_json(
                    attempt / "submission.json",
                    {
                        "backend": "slurm",
                        "job": job.job_id,
                        "at": time.time(),
                        "logs": str(folder),
                        "after": batch.dependency,
                    },
                )
            _name(names, batch.jobs, handed[0].job_id.split("_")[0])
        squeue.forget(self.runs_dir)

    def ensure(self) -> None:
        """SLURM keeps its queue itself."""

    def threads(self, launch: Launch) -> int:
        return launch.cpus

    def _batches(self, jobs: list[Job], names: dict[str, str]) -> Any:
        """Batches in an order in which parents come first. `names` is filled in between.

        A generator: when a batch is asked for, the ids of those before it are in `names`.
        """
        here = {job.run.id for job in jobs}
        left = list(jobs)
        while left:
            ready = [
                job for job in left if not any(d in here and d not in names for d in job.depends)
            ]
            if not ready:
                raise CommandError("the plan's runs depend on each other in a circle")
            groups: dict[Any, list[Job]] = defaultdict(list)
            for job in ready:
                parents = tuple(self._id(name, names) for name in job.depends)
                arrays = tuple(parent.split("_")[0] for parent in parents if parent)
                groups[(job.launch.model_dump_json(), arrays)].append(job)
            for group in groups.values():
                for start in range(0, len(group), ARRAY_LIMIT):
                    yield from self._split(group[start : start + ARRAY_LIMIT], names)
            left = [job for job in left if job.run.id not in names]

    def _split(self, group: list[Job], names: dict[str, str]) -> Any:
        """One batch where a single dependency says it all, else one a set of parents."""
        parents = [[self._id(name, names) for name in job.depends] for job in group]
        waiting = [[parent for parent in each if parent] for each in parents]
        if not any(waiting):
            yield Batch(group, None)
            return
        array = waiting[0][0].split("_")[0]
        if len(group) > 1 and waiting == [[f"{array}_{number}"] for number in range(len(group))]:
            size = sum(job.split("_")[0] == array for job in names.values())
            if size == len(group):
                yield Batch(group, f"aftercorr:{array}")
                return
        alike: dict[tuple[str, ...], list[Job]] = defaultdict(list)
        for job, each in zip(group, waiting, strict=True):
            alike[tuple(sorted(each))].append(job)
        for ids, members in alike.items():
            yield Batch(members, "afterok:" + ":".join(ids) if ids else None)

    def _id(self, run: str, names: dict[str, str]) -> str | None:
        """The SLURM job that a run waits for: one of this plan, or one submitted before."""
        if run in names:
            return names[run]
        attempts = Run(self.runs_dir / run).attempts
        found = records.read(attempts[-1] / "submission.json") if attempts else None
        done = (self.runs_dir / run / "result.json").exists()
        return job_id(found) if found and not done else None

    def _executor(self, folder: Path, batch: Batch) -> Any:
        import submitit

        launch = batch.jobs[0].launch
        executor = submitit.SlurmExecutor(folder, max_num_timeout=launch.max_requeues)
        further = {"requeue": True, "kill-on-invalid-dep": "yes", **launch.sbatch}
        options = {
            "job_name": batch.jobs[0].run.id if len(batch.jobs) == 1 else "care",
            "partition": launch.partition,
            "account": launch.account,
            "qos": launch.qos,
            "time": launch.minutes,
            "nodes": launch.nodes,
            "ntasks_per_node": max(1, launch.gpus),
            "gpus_per_node": launch.gpus or None,
            "cpus_per_task": launch.cpus,
            "mem": launch.mem,
            "constraint": launch.constraint,
            "exclude": launch.exclude,
            "dependency": batch.dependency,
            "signal_delay_s": launch.grace_s,
            "setup": list(launch.setup) or None,
            "srun_args": [
                f"--cpus-per-task={launch.cpus}"
            ],  # srun does not take sbatch's since 22.05
            "additional_parameters": further,
        }
        executor.update_parameters(**{k: v for k, v in options.items() if v is not None})
        return executor


def cancel(run: Run, note: str, message: str) -> bool:
    """scancel a run's newest job, if SLURM has it."""
    attempt = run.attempts[-1]
    job = job_id(records.read(attempt / "submission.json"))
    if job is None or not view(run).active:
        return False
    leave_note(attempt, note, message)
    subprocess.run(["scancel", job], capture_output=True, timeout=60)
    squeue.forget(run.path.parent)
    return True


def view(run: Run) -> squeue.JobView:
    """What SLURM says of the run's newest job."""
    found = records.read(run.attempts[-1] / "submission.json")
    job = job_id(found)
    if found is None or job is None:
        return squeue.JobView("UNKNOWN", "submission.json names no job of SLURM")
    answer = squeue.look(run.path.parent.resolve(), job)
    if job not in answer.jobs and found.get("at", 0) > answer.at:
        return squeue.JobView("PENDING", "just submitted")
    return answer.jobs.get(job, squeue.JobView("UNKNOWN", answer.problem))


def job_id(submission: Any) -> str | None:
    """The job that a submission.json names, if that is a job's number and nothing else.

    It ends in an sbatch file and in the arguments of scancel, and a runs folder may be received.
    """
    job = str(submission.get("job")) if isinstance(submission, dict) else ""
    return job if re.fullmatch(r"[0-9]+(_[0-9]+)?", job) else None


def requeue() -> bool:
    """Ask SLURM to start this job again under the same id; whether it will."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60)
    if done.returncode:
        print(f"warning: scontrol requeue {job}: {done.stderr.strip()}", flush=True)
    return done.returncode == 0


def _name(names: dict[str, str], jobs: Sequence[Job], job: str) -> None:
    """Note down which SLURM job each run became."""
    for number, each in enumerate(jobs):
        names[each.run.id] = job if len(jobs) == 1 else f"{job}_{number}"


def _words(error: Exception) -> str:
    text = str(getattr(error, "stderr", "") or error)
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
