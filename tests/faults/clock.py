"""A clock that jumps by hours, forward and back, within attempts and between them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from care_core.files import read_json, write_json
from carectl import processes, runs
from carectl.runs import Run

from .lab import Lab, Row

HOUR = 3600.0


class Clock:
    """The wall clock of a process, set to any time; the monotonic one goes on as it does."""

    def __init__(self) -> None:
        self.ahead, self.real = 0.0, time.time

    def install(self) -> None:
        time.time = lambda: self.real() + self.ahead


@contextmanager
def ahead(seconds: float) -> Iterator[None]:
    """Within, this process's wall clock is so far ahead."""
    clock = Clock()
    clock.ahead = seconds
    clock.install()
    try:
        yield
    finally:
        time.time = clock.real


def jumps(lab: Lab) -> list[Row]:
    """Two attempts between and in which the clock jumps; and what `status` makes of a jump."""
    run_dir, seen = lab.folder / "clock", lab.folder / "clock.seen.json"
    problems: list[str] = []
    for hours, steps in ((5.0, 7), (-20.0, 99)):
        clock = Clock()
        views: list[Any] = []
        code = lab.attempt(
            run_dir,
            prepare=clock.install,
            then=lambda views=views: write_json(seen, views),
            stop=_jumping(clock, run_dir, hours, steps, views),
        )
        problems += _absurd(read_json(seen) or []) if code == 0 else [f"see {lab.log}"]
    wrong = lab.problems(run_dir)
    trained = Row(
        "the clock jumps by 3 hours, back and forth, after every step; by 25 between two attempts",
        15, 0 if problems + wrong else 15, int(not wrong), 1, problems + wrong,
    )  # fmt: skip
    judged, said = _judged(lab, run_dir)
    return [trained, Row("a status right after a jump: running stays running, silent stays stale",
                         judged, judged - len(said), None, None, said)]  # fmt: skip


def _jumping(
    clock: Clock, run_dir: Path, hours: float, steps: int, views: list[Any]
) -> Callable[[], bool]:
    """A `stop` after whose every call the clock is elsewhere."""
    calls = 0
    clock.ahead = hours * HOUR

    def stop() -> bool:
        nonlocal calls
        calls += 1
        clock.ahead += 3 * HOUR if calls % 2 else -3 * HOUR
        views.append(read_json(run_dir / "progress.json"))
        return calls == steps

    return stop


def _absurd(views: list[Any]) -> list[str]:
    """Times that cannot be, in what progress.json said after the steps."""
    found = []
    for view in views:
        speed, left = view["images_per_s"], view["eta_s"]
        if not speed or speed < 0 or left < 0 or left > HOUR:
            found.append(f"after step {view['step']}: {speed} images/s, {left} s left")
    return found


def _judged(lab: Lab, trained: Path) -> tuple[int, list[str]]:
    """How `status` calls a run of a living process, its clock being wrong; (looks, mistakes)."""
    run = Run(lab.folder / "judged")
    attempt = run.new_attempt()
    progress = {**read_json(trained / "progress.json"), "heartbeat": time.time()}
    since = {"since": time.time(), "uptime": time.monotonic()}
    found = []
    cases = [(0.0, "running"), (runs.STALE_AFTER_S + 60.0, "stale")]
    looks = 0
    for silent, expected in cases:
        times = {key: value - silent for key, value in since.items()}
        write_json(attempt / "handle.json", {**processes.describe(os.getpid()), **times})
        beats = {"heartbeat": time.time() - silent, "uptime": time.monotonic() - silent}
        write_json(run.path / "progress.json", {**progress, **beats})
        for jump in (0.0, 3 * HOUR, -3 * HOUR):
            looks += 1
            with ahead(jump):
                state = runs.status(run).state
            if state != expected:
                found.append(f"{jump / HOUR:+.0f} h: a run that is {expected} is called {state}")
    return looks, found
