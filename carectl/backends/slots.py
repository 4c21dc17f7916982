"""The slots of this machine: one a GPU, or one on a machine without. A slot is a locked file.

The lock is held by the job's own process, so it is free the moment the job is gone, however it
went; and the folder belongs to the machine, so projects beside each other share the GPUs.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import subprocess
import tempfile
from pathlib import Path

from carectl.errors import ENVIRONMENT, CommandError


def names(devices: str | None = None) -> list[str]:
    """The slots that may be used: GPUs within CUDA_VISIBLE_DEVICES and `devices`, else the CPU.

    Args:
        devices: GPUs such as "2,3", or "cpu:N" for N jobs beside each other on the CPU.

    Raises:
        CommandError: `devices` names a GPU that is not there.
    """
    if devices and devices.startswith("cpu"):
        count = devices.removeprefix("cpu").removeprefix(":") or "1"
        if not count.isdecimal() or not 1 <= int(count) <= 256:
            raise CommandError(f"--devices {devices}: give cpu:N, such as cpu:4")
        return [f"cpu-{number}" for number in range(int(count))]
    gpus = _gpus()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        wanted = [part.strip() for part in visible.split(",") if part.strip()]
        unknown = [gpu for gpu in wanted if gpu not in gpus]
        if gpus and unknown:
            raise CommandError(
                f"CUDA_VISIBLE_DEVICES={visible}: {', '.join(unknown)} is no GPU number here "
                f"(there are: {', '.join(gpus)})",
                ENVIRONMENT,
            )
        gpus = [gpu for gpu in gpus if gpu in wanted]
    if devices:
        asked = [part.strip() for part in devices.split(",") if part.strip()]
        missing = [gpu for gpu in asked if gpu not in gpus]
        if missing:
            there = ", ".join(gpus) or "none"
            raise CommandError(
                f"--devices {devices}: GPU {', '.join(missing)} is not here (there are: {there})",
                ENVIRONMENT,
            )
        gpus = asked
    return [f"gpu-{gpu}" for gpu in gpus] or ["cpu-0"]


def folder() -> Path:
    """Where the slots' lock files lie; CARECTL_SLOTS_DIR sets another place."""
    path = Path(
        os.environ.get("CARECTL_SLOTS_DIR") or Path(tempfile.gettempdir()) / "carectl-slots"
    )
    if path.is_symlink():  # the place is known to all: a link would let another choose where
        raise CommandError(
            f"{path} is a link, where the machine's slots are to lie; remove it, or name another "
            "folder with CARECTL_SLOTS_DIR",
            ENVIRONMENT,
        )
    if not path.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o1777)  # other people's jobs take the same GPUs
    return path


def free(slot: str) -> bool:
    """Whether nobody holds the slot at this moment."""
    handle = _open(slot)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


def take(slot: str) -> int:
    """Wait for the slot and hold it until the process ends."""
    handle = _open(slot)
    fcntl.flock(handle, fcntl.LOCK_EX)
    return handle


def _open(slot: str) -> int:
    """A slot's lock file, open. A link in its place is not followed.

    Whoever may write to the folder could otherwise have a file made, for all to write, wherever
    this user may make one.
    """
    path, how = folder() / f"{slot}.lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    for _ in range(2):
        try:  # without O_CREAT: on another user's file in a shared folder it may be refused
            return os.open(path, how)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):  # somebody was quicker
                handle = os.open(path, how | os.O_CREAT | os.O_EXCL, 0o666)
                os.fchmod(handle, 0o666)
                return handle
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            break
    raise CommandError(
        f"{path} is a link, where a lock is to lie; remove it, or name another folder with "
        "CARECTL_SLOTS_DIR",
        ENVIRONMENT,
    )


def _gpus() -> list[str]:
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.split() if done.returncode == 0 else []
