"""`carectl doctor`: is this machine fit to run? Each finding is ok, warn or fail, with a remedy."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from care_core import data
from care_core.data.layout import remedy
from care_core.spec.facts import DATASETS, OWN
from carectl import redaction, tracking, trust
from carectl.backends import slots

Level = Literal["ok", "warn", "fail"]
NETWORK_FILE_SYSTEMS = (
    "nfs",
    "lustre",
    "gpfs",
    "beegfs",
    "cifs",
    "smb",
    "ceph",
    "glusterfs",
    "fuse.sshfs",
)
LOW, EMPTY = 20 * 2**30, 2**30  # bytes


class Finding(NamedTuple):
    """One line of the examination."""

    level: Level
    subject: str
    said: str
    remedy: str = ""


def examine(runs_dir: Path, data_dir: Path) -> Iterator[Finding]:
    """Everything that is looked at, in order; a check that breaks is a finding itself."""
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("python", _python),
        ("torch", _torch),
        ("slots", _slots),
        ("slurm", lambda: _slurm(runs_dir)),
        ("mlflow", lambda: _mlflow(runs_dir)),
        ("runs folder", lambda: _folder(runs_dir)),
        ("disk", lambda: _disk(runs_dir)),
        ("data", lambda: _data(data_dir)),
    ]
    for subject, check in checks:
        try:
            yield from check()
        except Exception as error:
            told = redaction.text(f"{type(error).__name__}: {error}")
            yield Finding("fail", subject, told, "see the message")


def _python() -> Iterator[Finding]:
    good = (3, 11) <= sys.version_info[:2] < (3, 14)
    said = f"{platform.python_version()} at {sys.executable}"
    yield Finding(
        "ok" if good else "fail", "python", said, "" if good else "install Python 3.11 to 3.13"
    )


def _torch() -> Iterator[Finding]:
    pair = "pip install torch and torchvision together, so that they match"
    try:
        import torch
        import torchvision
    except Exception as error:
        yield Finding("fail", "torch", str(error).splitlines()[0], pair)
        return
    yield Finding("ok", "torch", f"{torch.__version__} with torchvision {torchvision.__version__}")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(index)
            memory = facts.total_memory / 2**30
            yield Finding("ok", f"gpu {index}", f"{facts.name}, {memory:.0f} GiB")
    else:
        yield Finding("ok", "gpu", "none that torch can use; jobs run on the CPU")


def _slots() -> Iterator[Finding]:
    found = slots.names()
    busy = [slot for slot in found if not slots.free(slot)]
    yield Finding("ok", "local slots", f"{', '.join(found)} ({len(busy)} busy)")


def _slurm(runs_dir: Path) -> Iterator[Finding]:
    questions = {
        "sbatch": ["sbatch", "--version"],
        "scancel": ["scancel", "--version"],
        "scontrol": ["scontrol", "ping"],
        "squeue": ["squeue", "--me", "-h"],
        "sacct": ["sacct", "-n", "-X", "-S", "now"],
    }
    here = [name for name in questions if shutil.which(name)]
    if not here:
        yield Finding("ok", "slurm", "not on this machine; the local backend needs none")
        return
    for name, command in questions.items():
        if name not in here:
            yield Finding("warn", name, "not found", "ask your administrators for the SLURM client")
            continue
        problem = _ask(command)
        if not problem:
            yield Finding("ok", name, "answers")
        elif name == "sacct":
            yield Finding("ok", name, f"{problem}; squeue is enough")
        else:
            yield Finding("fail", name, problem, "is the controller up? see `scontrol ping`")


def _ask(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=15)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not answer ({error})"
    words = (done.stderr or done.stdout).strip().splitlines()
    return "" if done.returncode == 0 else (words[-1] if words else f"exit code {done.returncode}")


def _mlflow(runs_dir: Path) -> Iterator[Finding]:
    project = runs_dir.resolve().parent
    address = tracking.uri(project)
    shown = redaction.address(address)
    if address.startswith("sqlite:"):
        path = Path(address.removeprefix("sqlite:///"))
        kind = file_system(path)
        if kind.startswith(NETWORK_FILE_SYSTEMS):
            yield Finding(
                "warn", "mlflow", f"{shown} is on {kind}, unsafe for SQLite from several nodes",
                "start `mlflow server` on one machine and set MLFLOW_TRACKING_URI to it",
            )  # fmt: skip
        elif shutil.which("sbatch"):
            yield Finding(
                "warn", "mlflow", f"{shown} is a file, and jobs of several nodes would write to it",
                "with more than one node: `mlflow server`, and set MLFLOW_TRACKING_URI to it",
            )  # fmt: skip
        else:
            yield Finding(
                "ok", "mlflow", f"{shown}{'' if path.exists() else ' (made at first use)'}"
            )
        return
    if address.startswith("http"):
        try:
            bare = shown.replace(f"{redaction.MASK}@", "")  # it needs no password, nor tells one
            with urllib.request.urlopen(f"{bare.rstrip('/')}/health", timeout=10):
                yield Finding("ok", "mlflow", f"{shown} answers")
        except (urllib.error.URLError, OSError) as error:
            yield Finding("fail", "mlflow", f"{shown} does not answer ({error})",
                          "start the server, or unset MLFLOW_TRACKING_URI")  # fmt: skip
        return
    tracking.client(address).search_experiments(max_results=1)
    yield Finding("ok", "mlflow", f"{shown} answers")


def file_system(path: Path) -> str:
    """The type of the file system that holds a path, such as ext4 or nfs4."""
    while not path.exists() and path != path.parent:
        path = path.parent
    here, kind = os.fspath(path.resolve()), "unknown"
    longest = -1
    with contextlib.suppress(OSError):
        for line in Path("/proc/mounts").read_text().splitlines():
            _, mount, name = line.split()[:3]
            inside = here == mount or here.startswith(mount.rstrip("/") + "/")
            if inside and len(mount) > longest:
                longest, kind = len(mount), name
    return kind


def _folder(runs_dir: Path) -> Iterator[Finding]:
    probe = runs_dir / f".doctor-{os.getpid()}"
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
        with probe.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.write(str(time.time()))
    except OSError as error:
        yield Finding("fail", "runs folder", f"{runs_dir}: {error.strerror}",
                      "make it writable, or choose another with --runs-dir")  # fmt: skip
        return
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    if not trust.own(facts := runs_dir.stat()):
        whose = f"belongs to uid {facts.st_uid}" if facts.st_uid != os.geteuid() else (
            "can be written to by others"
        )  # fmt: skip
        yield Finding("warn", "runs folder", f"{runs_dir.resolve()} {whose}, and jobs run from it",
                      f"take one of your own, or chmod go-w {runs_dir}")  # fmt: skip
    yield Finding(
        "ok", "runs folder", f"{runs_dir.resolve()} ({file_system(runs_dir)}), writable, locks work"
    )


def _disk(runs_dir: Path) -> Iterator[Finding]:
    place = runs_dir if runs_dir.exists() else Path()
    free = shutil.disk_usage(place).free
    level: Level = "ok" if free >= LOW else "warn" if free >= EMPTY else "fail"
    remedy = "" if level == "ok" else "free some space, or choose another --runs-dir"
    yield Finding(level, "disk", f"{free / 2**30:.0f} GiB free", remedy)


def _data(data_dir: Path) -> Iterator[Finding]:
    for name in DATASETS:
        if name in OWN:
            continue
        state = data.available(name, data_dir)
        if state.present:
            yield Finding("ok", name, str(state.path or state.detail))
        else:
            yield Finding("warn", name, state.detail, remedy(name, data_dir))
