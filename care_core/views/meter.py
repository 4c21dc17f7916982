"""How long a device waits for images."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

#: Seconds that a share is taken over at least: a shorter time says little.
WINDOW_S = 5.0


class Meter:
    """The share of the time in which the device had nothing to do but wait.

    A GPU works on while the process waits for its workers, so there the idle time is what passes
    on the GPU between the end of one step's work and the beginning of the next one's.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.gaps: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self.idle_s, self.since, self.begun = 0.0, time.monotonic(), False
        self.last: float | None = None

    @contextmanager
    def waiting(self, *, at_start: bool = False) -> Iterator[None]:
        """Within, the process waits for images; what workers take to start is not counted."""
        start, marks = time.monotonic(), []
        if self.on_gpu:
            marks.append(self._mark())
        yield
        if at_start:
            self.idle_s, self.since, self.begun = 0.0, time.monotonic(), True
        elif self.on_gpu:
            self.gaps.append((marks[0], self._mark()))
        else:
            self.idle_s += time.monotonic() - start

    def share(self) -> float | None:
        """Of the last seconds, in [0, 1]; call it where the device is synchronised with anyway."""
        if self.gaps:
            self.gaps[-1][1].synchronize()
            self.idle_s += sum(end.elapsed_time(begin) for end, begin in self.gaps) / 1000
            self.gaps.clear()
        passed = time.monotonic() - self.since
        if self.begun and (self.last is None or passed >= WINDOW_S):
            self.last = min(1.0, self.idle_s / max(passed, 1e-9))
            if passed >= WINDOW_S:
                self.idle_s, self.since = 0.0, time.monotonic()
        return self.last

    def _mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
