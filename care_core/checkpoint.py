"""Checkpoints: written atomically, named by their content, verified and fallen back from.

`checkpoints/e0030-s00000330-<16 hex>.pt` holds the state after step 330, which ended epoch 30
(`e0030+` would be a state within epoch 31); the hex digits begin the file's sha256, so a torn or
damaged file shows itself by its name.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from torch import nn

from care_core.distributed import ALONE, World
from care_core.errors import CheckpointError, StorageError
from care_core.files import read_whole, storage_error, write_bytes

_NAME = re.compile(r"e(\d+)(\+?)-s(\d+)-([0-9a-f]{16})\.pt")


class Entry(NamedTuple):
    """One checkpoint file: `epoch` epochs and `step` steps done; `whole`: no epoch is begun."""

    step: int
    epoch: int
    whole: bool
    digest: str
    path: Path


def entries(folder: Path) -> list[Entry]:
    """The checkpoints of a folder, oldest first, judged by their names alone."""
    found = []
    for path in folder.glob("*.pt"):
        match = _NAME.fullmatch(path.name)
        if match:
            found.append(Entry(int(match[3]), int(match[1]), not match[2], match[4], path))
    return sorted(found)


def save(
    folder: Path, state: dict[str, Any], *, epoch: int, step: int, whole: bool = True
) -> Entry:
    """Write the state after `step`, replacing an older file of the same step.

    Args:
        epoch: how many are complete.
        whole: whether `step` was the last one of that epoch.

    Raises:
        StorageError: the write failed; the checkpoints before it stand.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    digest = hashlib.sha256(data).hexdigest()[:16]
    within = "" if whole else "+"
    path = folder / f"e{epoch:04d}{within}-s{step:08d}-{digest}.pt"
    entry = Entry(step, epoch, whole, digest, path)
    write_bytes(entry.path, data)
    for other in entries(folder):
        if other.step == step and other.digest != digest:
            other.path.unlink(missing_ok=True)
    return entry


def prune(folder: Path, keep: str | int, best: int | None = None) -> None:
    """Delete what the policy does not keep: never the newest two, one to fall back to.

    Args:
        keep: "last", "all", or N to keep also the end of every Nth epoch.
        best: an epoch whose end is kept as well.
    """
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)
    if keep == "all":
        return
    for entry in entries(folder)[:-2]:
        every = isinstance(keep, int) and entry.epoch % keep == 0
        if not (entry.whole and (every or entry.epoch == best)):
            entry.path.unlink(missing_ok=True)


def read(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The state in one file, tensors and plain values only.

    Raises:
        CheckpointError: missing, damaged, or holding anything but tensors (never unpickled).
        StorageError: it is there but cannot be read now, which says nothing of its content.
    """
    try:
        data = read_whole(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: is not there") from error
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be read ({error.strerror}); mend that, then go on"
        ) from error
    match = _NAME.fullmatch(path.name)
    if match and hashlib.sha256(data).hexdigest()[:16] != match[4]:
        raise CheckpointError(f"{path}: damaged or truncated (its content is not what was written)")
    require_unpacked(path, data)
    try:
        state = unpickled(data, device)
    except UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused, it is not a file of tensors alone; loading it could run code"
        ) from error
    except Exception as error:  # the unpickler raises whatever damage makes it raise
        raise CheckpointError(f"{path}: damaged or not a checkpoint") from error
    if not isinstance(state, dict) or "model" not in state:
        raise CheckpointError(f"{path}: not a checkpoint of this engine (it has no 'model')")
    if match and not _is_named(state, match):
        raise CheckpointError(
            f"{path}: is not what its name says, but the state after step {state['step']}"
        )
    return state


def unpickled(data: bytes, device: torch.device | str = "cpu") -> Any:
    """What torch saved, tensors and plain values only; it may raise whatever damage makes it raise.

    torch warns of odd files before it refuses them, in words of its own place in the source.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(io.BytesIO(data), map_location=device, weights_only=True)


def require_unpacked(path: Path, data: bytes) -> None:
    """Refuse a file whose parts are compressed: a small one could become one of any size.

    Raises:
        CheckpointError: names the file. torch itself never compresses.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            packed = any(part.compress_type != zipfile.ZIP_STORED for part in file.infolist())
    except Exception:  # it is no zip, or a damaged one: torch says so
        return
    if packed:
        raise CheckpointError(f"{path}: refused, its parts are compressed, which torch never does")


def _is_named(state: dict[str, Any], name: re.Match[str]) -> bool:
    """Whether a state is of the step and the epoch that its file's name says.

    The digest does not tell: it is of the content, and goes with it into a wrong name.
    """
    step, per_epoch = state.get("step"), state.get("steps_per_epoch")
    if not step or not per_epoch:
        return True
    said = int(name[3]), int(name[1]), not name[2]
    return said == (step, step // per_epoch, step % per_epoch == 0)


def latest(
    folder: Path,
    say: Callable[[str], None],
    device: torch.device | str = "cpu",
    world: World = ALONE,
) -> dict[str, Any] | None:
    """The newest state that can be trusted, or None; each file passed over is said aloud.

    Rank 0 looks for it, and all ranks of the world read the file that it found.

    Raises:
        StorageError: one cannot be read now, or a damaged one cannot be set aside.
    """
    state = path = None
    for entry in reversed(entries(folder)) if world.is_main else ():
        try:
            state, path = read(entry.path, device), entry.path
            break
        except CheckpointError as error:
            say(f"{error}; falling back to the checkpoint before it")
            _set_aside(entry.path)
    path = world.broadcast(path)
    return read(path, device) if path and not state else state


def _set_aside(path: Path) -> None:
    try:
        path.rename(path.with_suffix(".damaged"))
    except OSError as error:
        raise storage_error(path, error) from error


def at_epoch(folder: Path, epoch: int | None) -> Path:
    """The file after `epoch` epochs, or the newest.

    Raises:
        CheckpointError: there is none; names the epochs that there are.
    """
    present = entries(folder)
    if not present:
        raise CheckpointError(f"{folder}: no checkpoint; pretrain the run first")
    if epoch is None:
        return present[-1].path
    for entry in present:
        if entry.epoch == epoch and entry.whole:
            return entry.path
    ends = sorted({entry.epoch for entry in present if entry.whole})
    known = ", ".join(map(str, ends)) or "none"
    raise CheckpointError(
        f"{folder}: no checkpoint of epoch {epoch}; there are: {known} "
        "(checkpoint.keep in the spec decides which stay)"
    )


def weights_sha256(module: nn.Module) -> str:
    """One digest of all parameters and buffers, to compare runs bit by bit."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
