"""Exit codes, and the errors that carry one."""

from __future__ import annotations

JOB_FAILED, USAGE, ENVIRONMENT, PARTIAL, TOLERANCE, INTERRUPTED = 1, 2, 3, 4, 5, 130
PIPE_CLOSED = 141  # as a shell says it of a program that nobody reads any more


class CommandError(Exception):
    """A clear sentence for a person and the exit code that goes with it."""

    def __init__(self, message: str, code: int = USAGE) -> None:
        super().__init__(message)
        self.code = code
