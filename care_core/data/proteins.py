"""`proteins`: a folder of PDB or mmCIF files, read with gemmi; a cloud each, without classes.

A structure's cloud is the CA trace of the longest protein chain of its first model, brought to the
points that a spec asks for (`clouds.resampled`). Reading takes some milliseconds a file, so what
was read is kept below the data folder until a file changes.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from care_core.data import workers
from care_core.data.clouds import CloudSet, Floats, as_set, resampled, standardised
from care_core.data.decode import UndecodableError
from care_core.data.layout import Split
from care_core.data.listing import Listing, signature
from care_core.data.structures import listing, splits
from care_core.errors import DataError, StorageError
from care_core.files import write_bytes
from care_core.spec.sections import Data

#: Raised when what is read of a file changes.
VERSION = 1

MIN_RESIDUES = 16  #: of the longest chain: less is a peptide, with no shape of its own

MAX_BYTES = 2**29  #: of a structure, unpacked: the largest ones that are known have half of that
MAX_PLACE = 1e6  #: Å from the origin; whatever writes more did not mean it

_PART, _REPORT_EVERY = (
    32,
    5_000,
)  # files a worker reads at a time, and between two words on progress


class Read(NamedTuple):
    """What was read of a listing: standard clouds of its `kept` places, and why not the others."""

    clouds: Floats  #: (n, points, 3)
    kept: tuple[int, ...]
    bad: dict[str, str]


def load(
    spec: Data, split: Split, data_dir: Path, points: int, cache: Path, say: Callable[[str], None]
) -> CloudSet:
    """The clouds of one split; `pretrain` and `train` are the same structures.

    Args:
        cache: a folder for what was read, so that a set is read once.

    Raises:
        DataError: a file is not a structure with a protein chain (with data.unreadable: skip,
            only if none is), or gemmi is not installed.
    """
    _require_gemmi()
    found = listing(spec, split, data_dir)
    read = cached(found, points, cache, say)
    if read.bad and (spec.unreadable == "error" or not read.kept):
        first, *others = read.bad.values()
        raise UndecodableError(
            first
            + (f" (so are {len(others)} others)" if others else "")
            + "; repair or remove it, or set data.unreadable: skip to leave such files out"
        )
    labels = np.full(len(read.kept), -1, dtype=np.int64)
    return as_set(read.clouds, labels, 0, skipped=len(read.bad))


def cached(found: Listing, points: int, cache: Path, say: Callable[[str], None]) -> Read:
    """The clouds of all files of a listing, from the folder `cache` if nothing changed since.

    Changed is what has another name, size or time of change.
    """
    about = f"{signature(found, times=True)}/{points}/{VERSION}"
    note = cache / f"proteins-{hashlib.sha256(about.encode()).hexdigest()[:16]}.npz"
    if (known := _known(note, found, points)) is not None:
        return known
    say(f"{found.root}: reading {len(found.files)} structures")
    read = _read(found, points, say)
    packed = io.BytesIO()
    np.savez(packed, clouds=read.clouds, kept=np.array(read.kept, dtype=np.int64),
             bad=np.array(json.dumps(read.bad)))  # fmt: skip
    with contextlib.suppress(StorageError):  # without it each run reads them again
        write_bytes(note, packed.getvalue())
    return read


def _known(note: Path, found: Listing, points: int) -> Read | None:
    """What was kept of a listing, if it is all there."""
    try:
        with np.load(note, allow_pickle=False) as file:
            bad = json.loads(str(file["bad"]))
            read = Read(file["clouds"], tuple(file["kept"].tolist()), dict(bad))
        clouds = read.clouds
        whole = clouds.dtype == np.float64 and clouds.shape == (len(read.kept), points, 3)
        files = [*(found.files[place] for place in read.kept), *read.bad]
        whole = whole and bool(np.isfinite(clouds).all()) and sorted(files) == sorted(found.files)
        return read if whole else None
    except Exception:  # the reader raises whatever a damaged file makes it raise
        return None


def verify(spec: Data, data_dir: Path, say: Callable[[str], None]) -> list[str]:
    """What is wrong with each file of the folder; nothing, if all is well."""
    try:
        _require_gemmi()
        parts = [listing(spec, split, data_dir) for split in splits(spec, data_dir)]
    except DataError as error:
        return [str(error)]
    return [why for part in parts for why in _read(part, MIN_RESIDUES, say).bad.values()]


def trace(path: Path) -> Floats:
    """(n, 3) in Å: CA by CA, the longest protein chain of a structure's first model.

    Of alternative places the first one counts; a residue without a CA is passed over.

    Raises:
        UndecodableError: not a structure, or no chain of `MIN_RESIDUES` residues; names the file.
    """
    import gemmi

    try:
        structure = gemmi.read_structure_string(_text(path), format=_format(path))
        structure.setup_entities()
        chains = [_chain(chain.get_polymer()) for chain in structure[0]] if len(structure) else []
    except (OSError, EOFError, zlib.error, RuntimeError, ValueError, IndexError) as error:
        why = (str(error).splitlines() or ["damaged"])[0][:200]
        raise UndecodableError(f"{path}: cannot be read as PDB or mmCIF ({why})") from None
    longest = max(chains, key=len, default=[])
    if len(longest) < MIN_RESIDUES:
        raise UndecodableError(
            f"{path}: has no protein chain of {MIN_RESIDUES} residues with a CA (the longest has "
            f"{len(longest)})"
        )
    places = np.array(longest, dtype=np.float64)
    if not (np.abs(places) < MAX_PLACE).all() or np.ptp(places, axis=0).max() == 0:
        raise UndecodableError(
            f"{path}: the CA of its longest chain lie all in one place, or beyond {MAX_PLACE:.0e} Å"
        )
    return places


def _text(path: Path) -> str:
    """A file's text, unpacked here: gemmi takes what there is of a packed file that is cut off."""
    packed = path.suffix.lower() == ".gz"
    with gzip.open(path) if packed else path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if not content:
        raise ValueError("it is empty")
    if len(content) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES >> 20} MiB")
    return content.decode("latin-1")


def _format(path: Path) -> Any:
    """By the name's ending, since that is what a person would go by too."""
    import gemmi

    kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    return gemmi.CoorFormat.Mmcif if kind in ("cif", "mmcif") else gemmi.CoorFormat.Pdb


def _chain(polymer: Any) -> list[list[float]]:
    """The places of a polymer's CA, none if it is no protein."""
    import gemmi

    proteins = (gemmi.PolymerType.PeptideL, gemmi.PolymerType.PeptideD)
    if polymer.check_polymer_type() not in proteins:
        return []
    atoms = (residue.get_ca() for residue in polymer.first_conformer())
    return [atom.pos.tolist() for atom in atoms if atom is not None]


def _read(found: Listing, points: int, say: Callable[[str], None]) -> Read:
    count = len(found.files)
    parts = [range(start, min(start + _PART, count)) for start in range(0, count, _PART)]
    clouds: list[Floats] = []
    kept: list[int] = []
    bad: dict[str, str] = {}
    with workers.loader(
        _Parsed(found, points), parts, min(workers.cores(), len(parts) - 1)
    ) as all_:
        for part, made in zip(parts, all_, strict=True):
            for at, cloud in zip(part, made, strict=True):
                if isinstance(cloud, str):
                    bad[found.files[at]] = cloud
                else:
                    clouds.append(cloud)
                    kept.append(at)
            if part.stop % _REPORT_EVERY < len(part):
                say(f"{found.root}: {part.stop} of {count} read, {len(bad)} of them unreadable")
    return Read(np.array(clouds).reshape(-1, points, 3), tuple(kept), bad)


class _Parsed(Dataset[Sequence[Floats | str]]):
    """Item `part`: the standard clouds of that range of files, or what is wrong with one."""

    def __init__(self, found: Listing, points: int) -> None:
        self.found, self.points = found, points

    def __getitem__(self, part: range) -> list[Floats | str]:
        made: list[Floats | str] = []
        for at in part:
            try:
                cloud = resampled(trace(self.found.root / self.found.files[at]), self.points)
                made.append(standardised(cloud))
            except UndecodableError as error:
                made.append(str(error))
        return made


def _require_gemmi() -> None:
    try:
        import gemmi  # noqa: F401
    except ImportError:
        raise DataError(
            "proteins: structures are read with gemmi, which is not installed; "
            "pip install 'care-lab[proteins]'"
        ) from None
