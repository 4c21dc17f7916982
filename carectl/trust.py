"""How far a runs folder is believed: it may have been received, or lie where others can write.

What is executed from it (the queue's tickets, submitit's pickled jobs) lies in folders that are
this user's and that nobody else can write to. Names read from its files do not lead out of it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import TypeGuard

from care_core.errors import CareError
from care_core.files import storage_error
from carectl.errors import ENVIRONMENT, CommandError

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def tighten() -> None:
    """Let nobody else write to what this process makes, whatever its umask allows."""
    os.umask(os.umask(0o077) | _OTHERS)


def own(facts: os.stat_result) -> bool:
    """Whether a file or folder is this user's, and nobody else may write to it."""
    return facts.st_uid == os.geteuid() and not facts.st_mode & _OTHERS


def private(folder: Path) -> None:
    """Make a folder from which things are executed, or see to it that nobody else writes there.

    Raises:
        CommandError: it belongs to another user, or its file system does not keep others out.
        StorageError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        facts = folder.stat()
        if facts.st_uid == os.geteuid() and facts.st_mode & _OTHERS:
            with contextlib.suppress(PermissionError):  # of a file system without modes
                folder.chmod(stat.S_IMODE(facts.st_mode) & ~_OTHERS)
            facts = folder.stat()
    except OSError as error:
        raise storage_error(folder / "jobs", error) from error
    require_own(folder, facts)


def require_own(folder: Path, facts: os.stat_result | None = None) -> None:
    """Refuse what another user owns or could write to: it would be executed as this user.

    Raises:
        CommandError: names the folder and the remedy.
    """
    facts = facts or folder.stat()
    if own(facts):
        return
    whose = "other users can write to it"
    if facts.st_uid != os.geteuid():
        whose = f"it belongs to another user (uid {facts.st_uid})"
    raise CommandError(
        f"{folder}: {whose}, and what lies there is executed as you, or says what is stopped; "
        "take a runs folder of your own (--runs-dir), a copy of this one if need be",
        ENVIRONMENT,
    )


def inside(folder: Path, name: object) -> Path:
    """`folder / name`, where a name that a file holds has to be one: no path, no link to elsewhere.

    Raises:
        CareError: it leads out of the folder.
    """
    if not is_name(name):
        raise CareError(
            f"{folder}: {str(name)[:80]!r} is not a name within it; the file that says so is "
            "damaged, or was made by somebody else"
        )
    return folder / name


def is_name(name: object) -> TypeGuard[str]:
    """Whether a value names something directly within a folder, in characters that can be shown."""
    return (
        isinstance(name, str)
        and 0 < len(name) < 256
        and name not in (".", "..")
        and "/" not in name
        and name.isprintable()
    )
