"""Where a number came from: code, versions, host, command."""

from __future__ import annotations

import platform
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("care-lab", "torch", "torchvision", "numpy", "mlflow", "submitit", "pydantic")


def collect() -> dict[str, Any]:
    """The git commit and uncommitted diff of this code, versions, host and the exact command."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "diff": _git("diff", "HEAD"),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "host": socket.gethostname(),
        "machine": platform.platform(),
        "command": sys.argv,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
