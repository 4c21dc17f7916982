"""Several kinds of work timed in turns, so that what else the machine does strikes all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

#: Rounds that do not count: the first passes allocate, compile, and choose kernels.
WARM_UP = 2


class Timing(NamedTuple):
    """Seconds of one kind of work, once."""

    median_s: float
    min_s: float
    repeats: int


def in_turns(
    kinds: Mapping[str, Callable[[], object]],
    repeats: int,
    device: torch.device,
    *,
    block: int = 1,
    warm_up: int = WARM_UP,
) -> dict[str, Timing]:
    """Time each kind `repeats` times, one after another in every round.

    Args:
        block: how often a kind is done in a round before the device is waited for. A GPU is given
            its work ahead; waiting after each step would time the waiting.
        warm_up: rounds before those that count.
    """
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(warm_up + repeats):
        for name, work in kinds.items():
            start = time.perf_counter()
            for _ in range(block):
                work()
            wait_for(device)
            if turn >= warm_up:
                times[name].append((time.perf_counter() - start) / block)
    return {name: timing(found) for name, found in times.items()}


def timing(times: list[float]) -> Timing:
    """What some measurements of the same say."""
    return Timing(statistics.median(times), min(times), len(times))


def wait_for(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
