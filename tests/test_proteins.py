"""Structures are read from PDB and mmCIF files; what is no protein is named."""

from __future__ import annotations

import builtins
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structures
import torch

from care_core import data
from care_core.data import proteins
from care_core.data.clouds import CloudSet, standardised
from care_core.data.decode import UndecodableError
from care_core.errors import DataError
from care_core.files import write_json
from care_core.spec.sections import Data

LINE = np.arange(20)[:, None] * np.array([[2.0, 2.5, 2.0]])


def spec_of(path: Path, **changes: Any) -> Data:
    return Data.model_validate({"name": "proteins", "path": str(path), "points": 16, **changes})


@pytest.mark.parametrize("ending", [".pdb", ".ent", ".cif", ".pdb.gz", ".cif.gz", ".mmcif"])
def test_a_backbone_is_read_back_from_every_kind_of_file(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"1abc{ending}"
    if ending == ".mmcif":
        trace = structures.write(tmp_path / "other.cif")
        (tmp_path / "other.cif").rename(path)
    else:
        trace = structures.write(path)
    np.testing.assert_allclose(proteins.trace(path), trace, atol=1e-3)  # a file has 3 decimals


def test_the_longest_protein_chain_of_the_first_model_counts(tmp_path: Path) -> None:
    long, short = LINE, LINE[:17] + 5
    water = "HETATM  900  O   HOH W   1      50.000  50.000  50.000  1.00 20.00           O  \n"
    text = structures.pdb(("A", short), ("B", long), extra=water, model=True)
    second = structures.pdb(("C", np.repeat(LINE, 2, axis=0)), model=True)
    second = second.replace("MODEL        1", "MODEL        2")
    path = tmp_path / "x.pdb"
    path.write_text(text.removesuffix("END\n") + second)
    np.testing.assert_allclose(proteins.trace(path), long, atol=1e-3)


def test_of_alternative_places_the_first_one_counts_and_gaps_are_passed_over(
    tmp_path: Path,
) -> None:
    lines = structures.pdb(("A", LINE)).splitlines()
    fifth = lines[4]
    lines[4:5] = [f"{fifth[:16]}A{fifth[17:]}", f"{fifth[:16]}B{fifth[17:30]}  99.000{fifth[38:]}"]
    del lines[10]  # a residue
    path = tmp_path / "x.pdb"
    path.write_text("\n".join(lines) + "\n")
    found = proteins.trace(path)
    assert len(found) == len(LINE) - 1
    np.testing.assert_allclose(found, np.delete(LINE, 9, axis=0), atol=1e-3)


NUCLEIC = "".join(
    f"ATOM  {n:5d}  P    DA A{n:4d}    {3.0 * n:8.3f}   0.000   0.000  1.00 20.00           P  \n"
    for n in range(1, 30)
)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.pdb", b"", r"cannot be read as PDB or mmCIF \(it is empty\)"),
        ("b.pdb", b"nothing of the kind\n", "has no protein chain of 16 residues with a CA"),
        ("c.cif", b"nothing of the kind\n", "cannot be read as PDB or mmCIF"),
        ("d.cif", b"data_x\nloop_\n_atom_site.id\n_atom_site.type\n1\n", "cannot be read as PDB"),
        ("e.pdb.gz", b"\x1f\x8b\x08\x00broken", "cannot be read as PDB or mmCIF"),
        ("cut.pdb.gz", gzip.compress(structures.pdb(("A", LINE)).encode())[:-9], "cannot be read"),
        ("f.pdb", structures.pdb(("A", LINE[:9])).encode(), r"\(the longest has 9\)"),
        ("g.pdb", NUCLEIC.encode(), r"has no protein chain .*\(the longest has 0\)"),
    ],
)
def test_a_file_that_is_no_protein_is_named_with_why(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UndecodableError, match=f"{path}: .*{said}"):
        proteins.trace(path)


def test_a_folder_is_read_into_standard_clouds_without_classes(tmp_path: Path) -> None:
    structures.folder(tmp_path / "pdb")
    spec = spec_of(Path("pdb"))
    train, test = (data.load(spec, split, tmp_path) for split in ("pretrain", "test"))
    assert isinstance(train, CloudSet) and isinstance(test, CloudSet)
    assert (len(train), len(test), train.classes, train.skipped) == (12, 4, 0, 0)
    assert train.images.shape == (12, 16, 3) and set(train.labels.tolist()) == {-1}
    files = sorted(path.name for path in (tmp_path / "pdb" / "train").iterdir())
    trace = proteins.trace(tmp_path / "pdb" / "train" / files[0])
    expected = standardised(proteins.resampled(trace, 16))
    torch.testing.assert_close(train.images[0].double(), torch.from_numpy(expected),
                               atol=1e-6, rtol=0)  # fmt: skip


def test_what_was_read_is_kept_until_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    structures.folder(tmp_path, train=3, test=1)
    spec, said = spec_of(tmp_path), []
    first = data.load(spec, "train", tmp_path, say=said.append)
    before = data.fingerprint(spec, tmp_path)
    again = data.load(spec, "train", tmp_path, say=said.append)
    assert len(said) == 1 and "reading 3 structures" in said[0]
    assert isinstance(first, CloudSet) and isinstance(again, CloudSet)
    assert torch.equal(first.images, again.images)
    structures.write(tmp_path / "train" / "s0.pdb", seed=99, residues=50)
    changed = data.load(spec, "train", tmp_path, say=said.append)
    assert len(said) == 2
    assert isinstance(changed, CloudSet) and not torch.equal(changed.images, first.images)
    assert data.fingerprint(spec, tmp_path) != before
    (kept,) = (p for p in (tmp_path / ".care").iterdir() if p.stat().st_mtime_ns == max(
        q.stat().st_mtime_ns for q in (tmp_path / ".care").iterdir()))  # fmt: skip
    kept.write_bytes(b"damaged")
    repaired = data.load(spec, "train", tmp_path, say=said.append)
    assert len(said) == 3
    assert isinstance(repaired, CloudSet) and torch.equal(repaired.images, changed.images)


def test_a_bad_file_stops_or_is_left_out_and_counted(tmp_path: Path) -> None:
    structures.folder(tmp_path, train=3, test=1)
    for name in ("bad.pdb", "worse.cif"):
        (tmp_path / "train" / name).write_text("no structure\n")
    with pytest.raises(DataError) as caught:
        data.load(spec_of(tmp_path), "train", tmp_path)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / 'train' / 'bad.pdb'}: has no protein chain")
    assert "(so are 1 others); repair or remove it, or set data.unreadable: skip" in said
    found = data.load(spec_of(tmp_path, unreadable="skip"), "train", tmp_path)
    assert isinstance(found, CloudSet) and (len(found), found.skipped) == (3, 2)
    problems = data.verify(spec_of(tmp_path), tmp_path).problems
    assert [p.split(":")[0].rsplit("/", 1)[1] for p in problems] == ["bad.pdb", "worse.cif"]


def test_without_a_train_folder_a_tenth_is_for_tests_by_the_name_alone(tmp_path: Path) -> None:
    for number in range(200):
        place = tmp_path / f"{number % 7}"
        place.mkdir(exist_ok=True)
        (place / f"{number}.pdb").write_text("")
    spec = spec_of(tmp_path)
    train, test = (proteins.listing(spec, split, tmp_path) for split in ("pretrain", "test"))
    assert len(train.files) + len(test.files) == 200 and 8 <= len(test.files) <= 40
    assert not set(train.files) & set(test.files)
    gone = next(iter(train.files))
    (tmp_path / gone).unlink()
    assert proteins.listing(spec, "test", tmp_path).files == test.files
    moved = tmp_path / test.files[0]
    moved.rename(moved.with_suffix(".cif.gz"))  # the same entry, packed
    assert len(proteins.listing(spec, "test", tmp_path).files) == len(test.files)


def test_an_empty_or_missing_folder_is_named_with_what_belongs_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"proteins: {tmp_path / 'x'} is not there; data.path nam"):
        data.load(spec_of(tmp_path / "x"), "train", tmp_path)
    write_json(tmp_path / "notes.json", {})
    with pytest.raises(DataError, match=r"there is no structure to train on \(.pdb, .pdb.gz"):
        data.load(spec_of(tmp_path), "train", tmp_path)


def test_without_gemmi_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "gemmi":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    structures.folder(tmp_path, 1, 1)
    with pytest.raises(DataError, match=r"gemmi, which is not installed; pip install 'care-lab\["):
        data.load(spec_of(tmp_path), "train", tmp_path)
