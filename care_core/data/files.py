"""Images that lie in files and are decoded when they are needed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from care_core.data import decode, scan, workers
from care_core.data.listing import Listing
from care_core.errors import DataError

#: Images that a worker decodes at a time: few, so that the first batch is soon there.
_PART = 16


@dataclasses.dataclass(frozen=True)
class FileSet:
    """N image files with (N,) int64 labels (-1: none).

    Whoever measures can treat it as an `ImageSet`: `labels`, `classes`, `hues`, `take`, `batches`.
    """

    paths: tuple[str, ...]
    labels: Tensor
    classes: int
    size: int  #: pixels a side of what `centred` and `batches` give
    skipped: int = 0  #: files left out because they cannot be decoded (data.unreadable: skip)
    hues: None = None

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, index: Tensor) -> FileSet:
        """The images at some positions, in that order."""
        paths = tuple(self.paths[position] for position in index.tolist())
        return dataclasses.replace(self, paths=paths, labels=self.labels[index])

    def decode(self, position: int) -> Tensor:
        """(3, H, W) uint8 RGB, see `care_core.data.decode`.

        Raises:
            DataError: names the file and the remedy.
        """
        return decode.decode(Path(self.paths[position]))

    def centred(self, position: int) -> Tensor:
        """(3, S, S) uint8: the centre at 7/8 of the shorter side."""
        return decode.centred(self.decode(position), self.size)

    def batches(self, batch: int, workers: int | None = None) -> Iterator[Tensor]:
        """Consecutive (b, 3, S, S) uint8 parts, centred, b = `batch` but for the last.

        Args:
            workers: processes that decode; default: a core each; 0: this process.

        Raises:
            DataError: names a file that cannot be decoded.
        """
        return _batches(self, batch, workers)


def load(
    listing: Listing, size: int, *, skip: bool, cache: Path, say: Callable[[str], None]
) -> FileSet:
    """The listed files as a set, with `skip` without those that cannot be decoded.

    Args:
        cache: a folder for what was found undecodable, so that a set is scanned once.

    Raises:
        DataError: nothing is left, or a file cannot be read.
    """
    bad = scan.cached(listing, cache, say) if skip else {}
    kept = [place for place, file in enumerate(listing.files) if file not in bad]
    if not kept:
        raise DataError(f"{listing.root}: none of {len(bad)} image files can be decoded")
    return FileSet(
        tuple(str(listing.root / listing.files[place]) for place in kept),
        torch.tensor(listing.labels, dtype=torch.int64)[torch.tensor(kept)],
        listing.classes,
        size,
        skipped=len(bad) + len(listing.others),
    )


class _Parts(Dataset[Tensor]):
    """Item (start, stop): those images, centred."""

    def __init__(self, images: FileSet) -> None:
        self.images = images

    def __getitem__(self, part: tuple[int, int]) -> Tensor:
        return torch.stack([self.images.centred(position) for position in range(*part)])


def _batches(images: FileSet, batch: int, processes: int | None) -> Iterator[Tensor]:
    starts = range(0, len(images), batch)
    parts = [
        (at, min(at + _PART, start + batch, len(images)))
        for start in starts
        for at in range(start, min(start + batch, len(images)), _PART)
    ]
    wanted = workers.cores() if processes is None else processes
    with workers.loader(_Parts(images), parts, min(wanted, len(parts))) as found:
        for start in starts:
            count = -(-min(batch, len(images) - start) // _PART)
            yield torch.cat([next(found) for _ in range(count)])
