"""Whatever lies where a dataset should, it is images or clouds, or a sentence with the place."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structures as written
from hypothesis import example, given
from hypothesis import strategies as st
from pictures import classes

from care_core import data
from care_core.data import flowers, proteins, scan
from care_core.data.decode import UndecodableError
from care_core.data.layout import FILES, is_folder
from care_core.data.listing import Listing
from care_core.errors import DataError
from care_core.spec.sections import Data
from properties.generating import JUNK, TEXTS, cases


def told(error: DataError, *places: Path | str) -> None:
    text = str(error)
    assert any(str(place) in text for place in places)
    assert len(text) < 20_000


def of(name: str, **more: Any) -> Data:
    return Data.model_validate({"name": name, **more})


# ── CIFAR, STL10, Flowers: files in place of the published ones ─────────────────────────────────


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.path),)


FILE = st.one_of(
    st.none(),  # a folder
    st.binary(max_size=100),
    JUNK.map(lambda value: pickle.dumps(value, protocol=2)),
    st.sampled_from([{"data": "x", "labels": [1]}, {"data": np.zeros((2, 3072)), "labels": 3}]).map(
        lambda value: pickle.dumps(value, protocol=2)
    ),
)


@cases(60)
@given(st.sampled_from(["cifar10", "cifar100", "stl10"]), FILE, st.integers(0, 6), st.booleans())
@example("cifar10", None, 0, True)
@example("stl10", b"", 1, False)
def test_other_files_in_place_of_the_published_ones_are_refused_by_name_and_run_nothing(
    folder: Path, name: str, content: bytes | None, which: int, hostile: bool
) -> None:
    where, names = folder / FILES[name][0], FILES[name][1]
    mark = folder / "mark"
    shutil.rmtree(where, ignore_errors=True)
    where.mkdir(parents=True)
    for number, file in enumerate(names):
        (where / file).write_bytes(pickle.dumps(Touch(mark)) if hostile else b"x")
        if number == which % len(names):
            (where / file).unlink()
            (where / file).mkdir() if content is None else (where / file).write_bytes(content)
    with pytest.raises(DataError) as caught:
        data.load(of(name), "pretrain", folder)
    told(caught.value, where)
    assert "carectl data prepare" in str(caught.value)
    assert len(data.verify(name, folder).problems) >= 1
    try:
        assert len(data.fingerprint(of(name), folder)) == 64
    except DataError as error:
        told(error, where)
    assert not mark.exists()


def _mat(**values: Any) -> bytes:
    from scipy.io import savemat

    packed = io.BytesIO()
    savemat(packed, values)
    return packed.getvalue()


@cases(50)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.sampled_from(
            [[], [0], [-1], [1.5, 2], [float("nan")], [[1, 2], [3, 4]], ["a"], [1 + 2j],
             [{"a": 1}], 3, [1e300], [8189], list(range(1, 60))]
        ).flatmap(
            lambda value: st.sampled_from(["labels", "trnid", "valid", "tstid", "x"]).map(
                lambda key: _mat(**{"labels": [1] * 60, "trnid": [1], "valid": [2], "tstid": [3],
                                    key: value})
            )
        ),
        st.integers(0, 300).map(lambda cut: _mat(labels=[1] * 60, trnid=[1], valid=[2])[:cut]),
    ),
    st.sampled_from(["imagelabels.mat", "setid.mat"]),
)  # fmt: skip
@example(_mat(labels=[]), "imagelabels.mat")
@example(_mat(trnid=[], valid=[], tstid=[]), "setid.mat")
@example(_mat(labels=[[1, 2], [3, 4]]), "imagelabels.mat")
def test_a_mat_file_is_a_list_of_numbers_or_is_told(folder: Path, raw: bytes, name: str) -> None:
    root = folder / "flowers-102"
    root.mkdir(exist_ok=True)
    (root / "imagelabels.mat").write_bytes(_mat(labels=[1] * 60))
    (root / "setid.mat").write_bytes(_mat(trnid=[1], valid=[2], tstid=[3]))
    (root / name).write_bytes(raw)
    for split in ("train", "test"):
        try:
            found = flowers.listing(split, folder)  # type: ignore[arg-type]
            assert len(found.files) == len(found.labels) > 0
            assert all(isinstance(label, int) and 0 <= label < 102 for label in found.labels)
        except DataError as error:
            told(error, root)
            assert "carectl data prepare flowers102" in str(error)


# ── a folder of one's own ───────────────────────────────────────────────────────────────────────

ENTRIES = st.sampled_from(["file", "empty", "folder", "loop", "broken", "image", "unreadable name"])
PLACES = st.sampled_from(
    ["train", "test", "val", "unlabeled", "train/a", "train/b", "test/a", "test/z", "train/a/x.png",
     "train/a/y.JPG", "train/.hidden", "unlabeled/u.webp", "test/a/t.jpeg", "train/a/notes.txt"]
)  # fmt: skip


def _make(place: Path, kind: str, image: bytes) -> None:
    if place.exists() or place.is_symlink():
        return
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        if kind in ("loop", "broken"):
            place.symlink_to(place if kind == "loop" else "nowhere")
        elif kind == "folder":
            place.mkdir()
        elif kind == "unreadable name":
            Path(os.fsdecode(os.fsencode(place) + b"\xff.png")).write_bytes(image)
        else:
            place.write_bytes({"image": image, "file": b"\x89PNG junk"}.get(kind, b""))
    except OSError:
        pass  # such as a file in the place of a folder


@cases(80)
@given(st.lists(st.tuples(PLACES, ENTRIES), max_size=7), st.sampled_from(["error", "skip"]))
@example([("train/a/x.png", "loop"), ("train/b", "loop")], "skip")
@example([("train/a/x.png", "image"), ("train/a/y.JPG", "file")], "skip")
@example([("train", "file")], "error")
def test_any_folder_is_images_or_is_told_with_its_place(
    folder: Path, entries: list[tuple[str, str]], unreadable: str
) -> None:
    root = folder / "mine"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    image = next(classes(folder / "source", train=1).glob("train/*")).read_bytes()
    for place, kind in entries:
        _make(root / place, kind, image)
    spec = of("folder", path="mine", unreadable=unreadable, image_size=8)
    for split in ("pretrain", "train", "test"):
        try:
            found = data.load(spec, split, folder)  # type: ignore[arg-type]
            assert len(found) == len(found.labels) > 0
            assert next(iter(found.batches(2, workers=0))).shape[1:] == (3, 8, 8)
        except DataError as error:
            told(error, root)
    try:
        data.fingerprint(spec, folder)
    except DataError as error:
        told(error, root)
    data.verify(spec, folder, decode=False)


@cases(40)
@given(TEXTS.filter(lambda text: "\ud800" not in text))
@example("x" * 5000)
@example("x/" * 3000)
@example("\x00")
def test_any_path_is_a_folder_or_is_told(folder: Path, path: str) -> None:
    here = folder / "nothing-here"
    if is_folder(here / path):
        return  # such as the whole disk
    for name in ("folder", "proteins"):
        try:
            data.fingerprint(of(name, path=path), here)
        except DataError as error:
            assert "data.path" in str(error) or str(here) in str(error) or path in str(error)


# ── what was kept of a look before ──────────────────────────────────────────────────────────────


@cases(50)
@given(
    st.one_of(
        st.binary(max_size=30), JUNK.map(lambda value: json.dumps(value).encode()),
        st.one_of(JUNK, st.dictionaries(st.sampled_from(["a.png", "b.png"]), JUNK, max_size=2)).map(
            lambda value: json.dumps({"unreadable": value}).encode()
        ),
    )
)  # fmt: skip
@example(b"[" * 100_000)
@example(json.dumps({"unreadable": {"other.png": "x"}}).encode())
def test_a_damaged_memory_of_a_scan_is_a_new_scan(folder: Path, raw: bytes) -> None:
    root = folder / "scanned"
    root.mkdir(exist_ok=True)
    for name in ("a.png", "b.png"):
        if not (root / name).exists():  # else it would be another set each time
            (root / name).write_bytes(b"junk")
    found = Listing(root, ("a.png", "b.png"), (0, 0), 1)
    memory = folder / "memory"
    bad = scan.cached(found, memory, lambda text: None)
    (note,) = memory.glob("unreadable-*.json")
    whole = note.read_bytes()
    note.write_bytes(raw)
    again = scan.cached(found, memory, lambda text: None)
    assert again.keys() <= bad.keys()
    assert all(isinstance(why, str) for why in again.values())
    note.write_bytes(whole)


@cases(60)
@given(st.one_of(st.binary(max_size=30), JUNK.map(lambda value: json.dumps(value).encode()), JUNK))
def test_a_damaged_cache_of_digests_changes_no_fingerprint(folder: Path, junk: Any) -> None:
    where = folder / "stl" / FILES["stl10"][0]
    where.mkdir(parents=True, exist_ok=True)
    for file in FILES["stl10"][1]:
        (where / file).write_bytes(b"x")
    cache = folder / "fingerprints.json"
    cache.unlink(missing_ok=True)
    expected = data.fingerprint(of("stl10"), folder / "stl", cache)
    if isinstance(junk, bytes):
        cache.write_bytes(junk)
    else:  # of the right files, and no digests
        cache.write_text(json.dumps(dict.fromkeys(json.loads(cache.read_text()), junk)))
    assert data.fingerprint(of("stl10"), folder / "stl", cache) == expected


def _npz(**arrays: Any) -> bytes:
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    return packed.getvalue()


def _npy(array: Any) -> bytes:
    packed = io.BytesIO()
    np.save(packed, array)
    return packed.getvalue()


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two structures, and what was kept of reading them, at a place of its own."""
    folder = tmp_path_factory.mktemp("structures")
    for number in range(2):
        written.write(folder / "mine" / f"{number}.pdb", seed=number, residues=20)
    return folder


NO_CLOUDS = [
    b"", b"PK\x03\x04", _npy(np.zeros(3)),
    _npz(clouds=np.zeros((2, 8, 3))), _npz(clouds=np.zeros((1, 8, 3)), kept=[0, 1], bad="{}"),
    _npz(clouds=np.zeros((2, 8, 2)), kept=[0, 1], bad="{}"),
    _npz(clouds=np.full((2, 8, 3), np.nan), kept=[0, 1], bad="{}"),
    _npz(clouds=np.zeros((2, 8, 3)), kept=[0, 7], bad="{}"),
    _npz(clouds=np.zeros((2, 8, 3)), kept=[0, 0], bad="{}"),
    _npz(clouds=np.zeros((2, 8, 3)), kept=[0, 1], bad="["),
    _npz(clouds=np.zeros((2, 8, 3)), kept=["a", "b"], bad="{}"),
    _npz(clouds=np.zeros((2, 8, 3)), kept=[0, 1], bad='{"x": "y"}'),
    _npz(clouds=np.array(["x"]), kept=[0], bad="[1]"),
]  # fmt: skip


@cases(40)
@given(st.one_of(st.binary(max_size=60), st.sampled_from(NO_CLOUDS),
                 st.integers(1, 600).map(lambda cut: b"".join(NO_CLOUDS[3:5])[:cut])))  # fmt: skip
@example(NO_CLOUDS[0])
@example(NO_CLOUDS[2])
def test_a_damaged_memory_of_structures_is_read_anew(chains: Path, raw: bytes) -> None:
    spec, memory = of("proteins", path="mine", points=8), chains / "memory"
    found = Listing(chains / "mine", ("0.pdb", "1.pdb"), (-1, -1), 0)
    read = proteins.cached(found, spec.size, memory, lambda text: None)
    (note,) = memory.glob("*.npz")
    note.write_bytes(raw)
    again = proteins.cached(found, spec.size, memory, lambda text: None)
    assert again.kept == read.kept == (0, 1)
    assert np.array_equal(again.clouds, read.clouds)


# ── structures ──────────────────────────────────────────────────────────────────────────────────

TRACE = np.cumsum(np.full((20, 3), 2.0), axis=0)
PDB = written.pdb(("A", TRACE))
CIF = "data_x\nloop_\n_atom_site.group_PDB\n_atom_site.id\n"
PIECES = ["data_", "loop_", "_atom_site.id ", "'", ";\n", "\n", "ATOM", " 1", "?", "HETATM",
          "_cell.length_a nan ", "global_", "save_", "#", "\x00", "é"]  # fmt: skip


def _changed(parts: list[tuple[int, str]]) -> bytes:
    text = PDB
    for at, piece in parts:
        text = text[: at % len(text)] + piece + text[at % len(text) + len(piece) :]
    return text.encode("utf-8", "surrogatepass")


@cases(130)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.lists(st.tuples(st.integers(0, 5000), TEXTS), max_size=5).map(_changed),
        st.lists(
            st.sampled_from(PIECES),
            max_size=30,
        ).map(lambda parts: (CIF + " ".join(parts)).encode()),
    ),
    st.sampled_from([".pdb", ".cif", ".ent", ".mmcif", ".pdb.gz", ".cif.gz"]),
    st.booleans(),
)  # fmt: skip
@example(written.pdb(("A", np.zeros((20, 3)))).encode(), ".pdb", False)
@example(PDB.replace("   2.000", "     nan").encode(), ".pdb", False)
@example(PDB.replace("   2.000", "   1e300").encode(), ".pdb", False)
def test_any_structure_file_is_a_chain_of_places_or_is_told(
    folder: Path, raw: bytes, ending: str, packed: bool
) -> None:
    path = folder / f"x{ending}"
    path.write_bytes(gzip.compress(raw) if packed and ending.endswith(".gz") else raw)
    try:
        found = proteins.trace(path)
        assert found.shape[0] >= proteins.MIN_RESIDUES
        assert np.isfinite(proteins.standardised(proteins.resampled(found, 8))).all()
    except UndecodableError as error:
        told(error, path)


def test_a_packed_structure_is_not_unpacked_without_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proteins, "MAX_BYTES", 2**20)
    path = folder / "bomb.pdb.gz"
    path.write_bytes(gzip.compress(bytes(2**21)))
    with pytest.raises(UndecodableError, match="it has more than 1 MiB"):
        proteins.trace(path)
