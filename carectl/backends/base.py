"""What a backend is: it takes runs in order and starts them when their dependencies are done."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from care_core.spec.launch import Launch
from carectl.runs import Run


class Job(NamedTuple):
    """One attempt at a run, to be started after the runs it depends on are done."""

    run: Run
    depends: tuple[str, ...]
    launch: Launch


class Backend(Protocol):
    """Submit, keep going, cancel. States are derived from the run folders."""

    def check(self, jobs: list[Job]) -> None:
        """Refuse what could never start.

        Raises:
            CommandError: says which request is impossible here, and why.
        """
        ...

    def preview(self, jobs: list[Job]) -> list[str]:
        """What would be handed to a scheduler, as texts for people; none where there is none."""
        ...

    def submit(self, jobs: list[Job]) -> None:
        """Queue the jobs in order, each with a new attempt folder."""
        ...

    def ensure(self) -> None:
        """Make sure that what is queued will start, whatever was killed meanwhile."""
        ...

    def threads(self, launch: Launch) -> int:
        """CPU threads a rank where the spec does not say."""
        ...


def cancel(run: Run, note: str = "cancelled", message: str = "cancelled by carectl") -> bool:
    """Stop a queued or running job, on whatever backend it is; whether there was one.

    `note` is what its attempt is left as: cancelled, or blocked where another run is the cause.
    """
    from carectl.backends import local, slurm

    if not run.attempts:
        return False
    return slurm.cancel(run, note, message) or local.cancel(run, note, message)
