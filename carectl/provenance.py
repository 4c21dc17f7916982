"""Where a number came from: code, versions, host, command; without secrets.

The uncommitted diff is of files that git knows: what is untracked is never in it, nor what usually
holds secrets (.env, keys, credentials), and values that look secret are three stars.
"""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from carectl import redaction

_PACKAGES = ("care-lab", "torch", "torchvision", "numpy", "mlflow", "submitit", "pydantic")
#: Left out of the diff, tracked or not.
_SECRET_FILES = (".env*", "*.pem", "*.key", "*.p12", "*.pfx", "id_rsa*", "id_ed25519*", ".netrc",
                 ".pypirc", "*credentials*", "*secret*")  # fmt: skip


def collect() -> dict[str, Any]:
    """The git commit and uncommitted diff of this code, versions, host and command."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "diff": _diff(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "host": socket.gethostname(),
        "machine": platform.platform(),
        "hardware": hardware(),
        "command": redaction.arguments(sys.argv),
    }


def hardware() -> dict[str, Any]:
    """This machine's processor, the cores that may be used, and its GPUs' names."""
    gpus = _said("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
    cpu = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), "")
    return {
        "cpu": cpu or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "gpus": (gpus or "").splitlines(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _diff() -> str | None:
    # no driver of the user's own: what is recorded is what git itself says
    left_out = (f":(exclude,glob,icase)**/{name}" for name in _SECRET_FILES)
    found = _git(
        "diff", "--no-ext-diff", "--no-textconv", "--no-color", "HEAD", "--", ".", *left_out
    )
    return None if found is None else redaction.text(found)


def _git(*arguments: str) -> str | None:
    root = Path(__file__).resolve().parent.parent
    return _said("git", "-C", str(root), *arguments) if (root / ".git").exists() else None


def _said(*command: str) -> str | None:
    """What a command printed; None where it is not there or failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
