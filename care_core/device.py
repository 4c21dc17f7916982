"""Where tensors live, and the same result every time."""

from __future__ import annotations

import torch


def set_up(device: torch.device | str | None, threads: int | None) -> torch.device:
    """Choose the device, fix the threads, and ask for the same result every time."""
    if threads:
        torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
