"""What a process prints goes to a log; on a full disk words are lost there, never the work."""

from __future__ import annotations

import contextlib
import sys
from typing import Any


class _Lasting:
    """A stream whose writes may fail: `print` must not end a training, nor start a job twice."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


def outlive_full_disks() -> None:
    """Let this process go on when what it prints cannot be written."""
    sys.stdout, sys.stderr = _Lasting(sys.stdout), _Lasting(sys.stderr)
