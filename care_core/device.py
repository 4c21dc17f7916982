"""Where tensors live, and the same result every time."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys

import torch


def set_up(device: torch.device | str | None, threads: int | None) -> torch.device:
    """Choose the device, fix the threads, and ask for the same result every time.

    fp32 is fp32: no TF32 in products or convolutions. On Linux the process keeps the memory it
    was given (`_keep_memory`).
    """
    if threads:
        torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    _keep_memory()
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


@functools.cache
def _keep_memory() -> None:
    """Let the C library keep large blocks that are freed, instead of giving each back at once.

    A step frees and asks for the same tens of megabytes again, and each time the kernel would clear
    every page of them: a third of a ResNet-18 step on a CPU (docs/performance.md). It is glibc's
    own setting; elsewhere nothing is changed.
    """
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4  # malloc.h
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(AttributeError, OSError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, -1)
        mallopt(m_top_pad, 64 * 2**20)
