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

_PART, _REPORT_EVERY = (
    64,
    10_000,
)  # files a worker tries at a time, and between two words on progress


def undecodable(
    listing: Listing, say: Callable[[str], None], processes: int | None = None
) -> dict[str, str]:
    """Each file that cannot be decoded, with the sentence that says why; all are tried.

    They are tried in workers, so that a file that brings its decoder down is one of them.

    Raises:
        DataError: a file cannot be read at all.
        CareError: a worker was killed, as by a lack of memory.
    """
    count = len(listing.files)
    parts = [range(start, min(start + _PART, count)) for start in range(0, count, _PART)]
    wanted = workers.cores() if processes is None else processes
    bad: dict[str, str] = {}
    while parts:
        tried = _Tried(listing, frozenset(bad))
        try:
            with workers.loader(tried, parts, min(wanted, len(parts))) as found:
                for part, failures in zip(tuple(parts), found, strict=True):
                    bad |= {listing.files[place]: why for place, why in failures}
                    parts = parts[1:]
                    if part.stop % _REPORT_EVERY < _PART:
                        tally = f"{part.stop} of {count} files tried, {len(bad)} undecodable"
                        say(f"{listing.root}: {tally}")
        except workers.WorkerDiedError as death:
            fatal = _fatal(listing, death)
            if not fatal:
                raise
            bad |= fatal
    return bad


def _fatal(listing: Listing, death: workers.WorkerDiedError) -> dict[str, str]:
    """Of the files that workers were at when they died, those that end a worker by themselves."""
    found: dict[str, str] = {}
    for place, file in enumerate(listing.files):
        path = str(listing.root / file)
        if path not in death.at:
            continue
        try:
            list(workers.loader(_Tried(listing), [range(place, place + 1)], 1))
        except workers.WorkerDiedError as again:
            if again.killed:
                raise
            found[file] = (
                f"{path}: cannot be decoded, it ends the decoder's process ({again.ending})"
            )
    return found


def cached(listing: Listing, cache: Path, say: Callable[[str], None]) -> dict[str, str]:
    """As `undecodable`, from a small JSON in the folder `cache` if nothing changed since.

    Changed is what has another name, size or time of change. Of several processes that ask at
    once, one looks. Where the folder cannot be written, each looks each time.
    """
    note = cache / f"unreadable-{signature(listing, times=True)[:16]}.json"
    with _alone(note.with_suffix(".lock")):
        known = read_json(note)
        kept = known.get("unreadable") if isinstance(known, dict) else None
        if isinstance(kept, dict) and kept.keys() <= set(listing.files):
            return {file: str(why) for file, why in kept.items()}
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

    def __init__(self, listing: Listing, known: frozenset[str] = frozenset()) -> None:
        self.listing, self.known = listing, known

    def __getitem__(self, part: range) -> list[tuple[int, str]]:
        failures = []
        for place in part:
            if self.listing.files[place] in self.known:
                continue
            try:
                decode(self.listing.root / self.listing.files[place])
            except UndecodableError as error:
                failures.append((place, str(error)))
        return failures
