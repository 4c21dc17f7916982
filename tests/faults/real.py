"""Signals to jobs that `carectl` started, while their interpreter imports and while they train."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conftest import Project, wait_until

from care_core.spec import PretrainSpec
from carectl import runs
from carectl.runs import Run

from .lab import Lab, Row


@contextmanager
def project(folder: Path) -> Iterator[Project]:
    """A project folder; nothing of it runs on afterwards."""
    folder.mkdir(parents=True)
    made = Project(folder)
    try:
        yield made
    finally:
        made.kill_queue()
        made.kill_jobs()


def longer(lab: Lab) -> PretrainSpec:
    """The lab's spec with more epochs, so that a signal from outside finds it at work."""
    training = lab.spec.training.model_copy(update={"epochs": 20})
    return lab.spec.model_copy(update={"training": training})


def signalled(lab: Lab, count: int) -> Row:
    """Signal one run's job again and again, each time while it starts or while it trains.

    A job that is signalled before Python listens is killed by it; every other one stops at a
    step's end. Either way `retry` goes on.
    """
    chance = random.Random(lab.seed)
    whole = lab.folder / "longer-whole"
    lab.attempt(whole, spec=longer(lab))
    problems: list[str] = []
    sent = 0
    with project(lab.folder / "real") as place:
        name = place.write(longer(lab))
        run = place.json("pretrain", name, "--detach")["plan"][0]["run"]
        for turn in range(count):
            number = (signal.SIGTERM, signal.SIGUSR2)[turn % 2]
            if turn:
                place.carectl("retry", run, "--detach")
            early = turn % 2 == 0
            pid = _appears(place.runs / run) if early else _trains(place, run)
            time.sleep(chance.uniform(0, 1.5) if early else chance.uniform(0, 0.3))
            if _alive(pid):
                os.kill(pid, number)
                sent += 1
            wait_until(lambda pid=pid: not _alive(pid))
            wait_until(lambda: _state(place, run).state not in ("queued", "running"))
            found = _state(place, run)
            if found.state == "done":
                break
            known = "it can go on" in found.reason or "killed" in found.reason
            if found.state not in ("failed", "lost") or not known:
                problems.append(f"after {number.name}: {found.state}, {found.reason}")
        if _state(place, run).state != "done":
            ended = place.json("retry", run)["runs"][0]
            if ended["state"] != "done":
                problems.append(f"retry: {ended['state']}, {ended['reason']}")
        problems += lab.problems(place.runs / run, whole)
    bad = bool(problems)
    return Row(
        "SIGTERM and SIGUSR2 from outside to jobs of carectl, starting or training, then retry",
        sent, 0 if bad else sent, int(not bad), 1, problems,
    )  # fmt: skip


def _state(place: Project, run: str) -> runs.Status:
    return runs.status(Run(place.runs / run))


def _appears(run_dir: Path) -> int:
    """The pid of the job's process, as soon as it is there."""
    found: list[int] = []

    def look() -> bool:
        newest = str(Run(run_dir).attempts[-1])
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if "submitit.core._submit" in words and newest in words:
                found.append(int(path.parent.name))
        return bool(found)

    wait_until(look)
    return found[0]


def _trains(place: Project, run: str) -> int:
    """The pid of the job's process, once it has done a step of this attempt."""
    pid = _appears(place.runs / run)
    before = place.runs / run / "progress.json"

    def stamp() -> int:
        return before.stat().st_mtime_ns if before.exists() else 0

    first = stamp()
    wait_until(lambda: stamp() > first or not _alive(pid))
    return pid


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False
