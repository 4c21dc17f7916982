"""Processes of this machine, told apart from later ones that were given the same pid."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Any


def host() -> str:
    """What this machine calls itself."""
    return socket.gethostname()


def describe(pid: int) -> dict[str, Any]:
    """What identifies a process for good: host, boot, pid and start time in clock ticks."""
    return {
        "host": host(),
        "boot": _boot(),
        "pid": pid,
        "started_ticks": _start_ticks(pid),
    }


def alive(handle: dict[str, Any]) -> bool:
    """Whether the process described is still running here (a zombie is not)."""
    pid = handle.get("pid")
    if handle.get("host") != host() or handle.get("boot") != _boot() or not isinstance(pid, int):
        return False
    ticks = _start_ticks(pid)
    return ticks is not None and ticks == handle.get("started_ticks")


def signal_group(handle: dict[str, Any], number: signal.Signals) -> bool:
    """Signal the process's whole group, if it is still the same process."""
    if not alive(handle):
        return False
    try:
        os.killpg(int(handle["pid"]), number)
    except (ProcessLookupError, PermissionError):  # gone, or not of this user's
        return False
    return True


def _boot() -> str:
    """What this start of the machine is called: ticks and pids begin anew with each."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _start_ticks(pid: int) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
