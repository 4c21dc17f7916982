"""The precision of the networks' passes. Losses, weights and updates are fp32 at all times."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor

_LOWER = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Within, matrix products and convolutions are of that precision: fp32, bf16 or fp16.

    Of fp32 nothing is lowered, not even within somebody else's autocast. What comes out of a
    network is of the lower precision; whoever makes a loss of it widens it first, outside.
    """
    lower = _LOWER.get(precision)
    context: AbstractContextManager[None] = torch.autocast(
        device.type, dtype=lower or torch.bfloat16, enabled=lower is not None
    )
    return context


def widened(rows: Tensor) -> Tensor:
    """The same numbers in fp32 at least."""
    return rows if rows.dtype == torch.float64 else rows.float()
