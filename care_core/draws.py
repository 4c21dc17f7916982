"""Counted randomness: every draw is made by a generator seeded with what it is for.

Nothing random is carried from step to step, so the state after any step is one integer, and what
is drawn depends on no rank: draws are made for the whole global batch and sliced by position.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose, such as (seed, "view", epoch, step, 0)."""
    text = "/".join(str(part) for part in (seed, *purpose))
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
    return torch.Generator().manual_seed(number)


def epoch_order(seed: int, epoch: int, size: int) -> Tensor:
    """(size,) int64: the order in which an epoch visits the images."""
    return torch.randperm(size, generator=generator(seed, "order", epoch))
