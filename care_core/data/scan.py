"""Which files of a listing cannot be decoded: all are tried once, and what was found is kept."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from torch.utils.data import Dataset

from care_core.data import workers
from care_core.data.decode import UndecodableError, decode
from care_core.data.listing import Listing, signature
from care_core.errors import StorageError
from care_core.files import read_json, write_json

_PART, _WORD = 64, 10_000  # files a worker tries at a time, and between two words on progress


def undecodable(
    listing: Listing, say: Callable[[str], None], processes: int | None = None
) -> dict[str, str]:
    """Each file that cannot be decoded, with the sentence that says why; all are tried.

    Raises:
        DataError: a file cannot be read at all.
        CareError: a file (or a lack of memory) brought a worker down.
    """
    count = len(listing.files)
    parts = [range(start, min(start + _PART, count)) for start in range(0, count, _PART)]
    wanted = min(workers.cores() if processes is None else processes, len(parts) - 1)
    bad: dict[str, str] = {}
    with workers.loader(_Tried(listing), parts, wanted) as found:
        for part, failures in zip(parts, found, strict=True):
            bad |= {listing.files[place]: why for place, why in failures}
            if part.stop % _WORD < _PART:
                say(f"{listing.root}: {part.stop} of {count} files tried, {len(bad)} undecodable")
    return bad


def remembered(listing: Listing, memory: Path, say: Callable[[str], None]) -> dict[str, str]:
    """As `undecodable`, from a small JSON in the folder `memory` if nothing changed since.

    Changed is what has another name, size or time of change. Of several processes that ask at
    once, one looks. Where the folder cannot be written, each looks each time.
    """
    note = memory / f"unreadable-{signature(listing, times=True)[:16]}.json"
    with _alone(note.with_suffix(".lock")):
        known = read_json(note)
        if isinstance(known, dict) and isinstance(known.get("unreadable"), dict):
            return dict(known["unreadable"])
        say(f"{listing.root}: looking for files that cannot be decoded (data.unreadable: skip)")
        bad = undecodable(listing, say)
        with contextlib.suppress(StorageError):
            write_json(note, {"files": len(listing.files), "unreadable": bad})
        return bad


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # a read-only folder: each for itself
            lock.parent.mkdir(parents=True, exist_ok=True)
            fcntl.flock(held.enter_context(lock.open("a")), fcntl.LOCK_EX)
        yield


class _Tried(Dataset[Sequence[tuple[int, str]]]):
    """Item `part`: the places of that range whose files cannot be decoded, and why."""

    def __init__(self, listing: Listing) -> None:
        self.listing = listing

    def __getitem__(self, part: range) -> list[tuple[int, str]]:
        failures = []
        for place in part:
            try:
                decode(self.listing.root / self.listing.files[place])
            except UndecodableError as error:
                failures.append((place, str(error)))
        return failures
