"""What a backend is: it takes runs in order and starts them when their dependencies are done."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

from carectl.runs import Run


class Job(NamedTuple):
    """One attempt at a run, to be started after the runs it depends on are done."""

    run: Run
    depends: tuple[str, ...]
    gpus: int


class Backend(Protocol):
    """Submit, keep going, cancel. States are derived from the run folders."""

    def submit(self, jobs: list[Job]) -> list[Path]:
        """Queue the jobs in order; returns the attempt folders."""
        ...

    def ensure(self) -> None:
        """Make sure that what is queued will start, whatever was killed meanwhile."""
        ...

    def cancel(self, run: Run) -> bool:
        """Stop a queued or running job; whether there was one."""
        ...
