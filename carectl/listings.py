"""A folder's names by a part of them, for folders of ten thousand that are asked for each one.

To list ten thousand names ten thousand times takes minutes. So a folder is read again only once
it has changed, and while a change may be so recent that a further one would not show in its time
stamp.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

_SETTLED_NS = 2 * 10**9  # file systems count no finer than this


def by(part: Callable[[str], str], folder: Path) -> Mapping[str, list[str]]:
    """The folder's names, by what `part` says of each; nothing of a folder that is not there."""
    try:
        changed = folder.stat().st_mtime_ns
    except OSError:
        return {}
    settled = time.time_ns() - changed > _SETTLED_NS
    return (_read if settled else _read.__wrapped__)(part, folder, changed)


@functools.lru_cache(maxsize=8)
def _read(part: Callable[[str], str], folder: Path, changed: int) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):  # noqa: PTH208
            found.setdefault(part(name), []).append(name)
    return found
