"""Flowers-102 from files as they are published: JPEG images and two MATLAB files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from pictures import cut, picture, write
from scipy.io import loadmat, savemat
from torchvision import datasets

from care_core import data
from care_core.data import flowers
from care_core.data.files import FileSet
from care_core.errors import DataError
from care_core.spec.sections import Data

SPEC = Data(name="flowers102", image_size=32)
LABELS = [77, 1, 102, 5, 5, 9, 3]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Seven images: 2 and 5 to train on, 1 and 7 to validate, 6, 3 and 4 to test on."""
    root = tmp_path / "flowers-102"
    for number in range(1, 8):
        write(root / f"jpg/image_{number:05d}.jpg", picture(60 + number, 50, seed=number))
    savemat(root / "imagelabels.mat", {"labels": np.array([LABELS], dtype=np.uint8)})
    ids = {"trnid": [[2, 5]], "valid": [[1, 7]], "tstid": [[6, 3, 4]]}
    savemat(root / "setid.mat", {key: np.array(value, np.uint16) for key, value in ids.items()})
    monkeypatch.setattr(flowers, "IMAGES", 7)
    publish(root, monkeypatch)
    return root


def publish(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision's checksums be those of the files that lie there now."""
    listed = dict(datasets.Flowers102._file_dict)
    for key in ("label", "setid"):
        name = listed[key][0]
        listed[key] = (name, hashlib.md5((root / name).read_bytes()).hexdigest())
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", listed)


def load(split: str, place: Path) -> FileSet:
    found = data.load(SPEC, split, place)  # type: ignore[arg-type]
    assert isinstance(found, FileSet)
    return found


def test_training_and_validation_images_are_trained_on(folder: Path, tmp_path: Path) -> None:
    train, test = load("train", tmp_path), load("test", tmp_path)
    assert [Path(path).name for path in train.paths] == [
        "image_00002.jpg", "image_00005.jpg", "image_00001.jpg", "image_00007.jpg",
    ]  # fmt: skip
    assert train.labels.tolist() == [0, 4, 76, 2]
    assert test.labels.tolist() == [8, 101, 4]
    assert train.classes == 102
    assert load("pretrain", tmp_path).paths == train.paths
    assert train.decode(0).shape == (3, 50, 62)


def test_labels_and_files_are_those_of_torchvisions_own_reader(
    folder: Path, tmp_path: Path
) -> None:
    for split, part in (("train", slice(0, 2)), ("val", slice(2, 4)), ("test", slice(0, 3))):
        theirs = datasets.Flowers102(tmp_path, split)
        mine = load("test" if split == "test" else "train", tmp_path)
        assert list(mine.paths[part]) == [str(path) for path in theirs._image_files]
        assert mine.labels[part].tolist() == theirs._labels


def test_a_set_that_is_not_there_is_told_with_the_remedy(tmp_path: Path) -> None:
    said = f"flowers-102 is not there; `carectl data prepare flowers102 --data-dir {tmp_path}`"
    with pytest.raises(DataError, match=said):
        data.load(SPEC, "train", tmp_path)
    assert len(data.verify("flowers102", tmp_path).problems) == 3


@pytest.mark.parametrize("name", ["imagelabels.mat", "setid.mat"])
def test_a_damaged_table_is_told_by_its_name(folder: Path, tmp_path: Path, name: str) -> None:
    assert data.verify("flowers102", tmp_path) == ([], [])
    cut(folder / name)
    with pytest.raises(DataError, match=rf"{name}: damaged .*carectl data prepare flowers102"):
        data.load(SPEC, "train", tmp_path)
    damage = f"{folder / name}: damaged or truncated (its md5 is not the published one)"
    assert data.verify("flowers102", tmp_path).problems == [damage]
    (folder / name).unlink()
    assert data.verify("flowers102", tmp_path).problems == [f"{folder / name}: missing"]
    with pytest.raises(DataError, match=f"lacks {name}"):
        data.fingerprint(SPEC, tmp_path)


def test_tables_that_do_not_fit_each_other_are_refused(folder: Path, tmp_path: Path) -> None:
    savemat(folder / "imagelabels.mat", {"labels": np.array([[0] + [1] * 6])})
    with pytest.raises(DataError, match="a label is not in 1 to 102"):
        data.load(SPEC, "train", tmp_path)
    savemat(folder / "imagelabels.mat", {"labels": np.array([[1, 1, 1]])})
    with pytest.raises(DataError, match=r"setid\.mat: tells of images that have no label"):
        data.load(SPEC, "test", tmp_path)


def test_images_that_lack_or_do_not_decode_are_told_by_name(folder: Path, tmp_path: Path) -> None:
    bad = cut(folder / "jpg/image_00003.jpg")
    (problem,) = data.verify("flowers102", tmp_path).problems
    assert problem.startswith(f"{bad}: cannot be decoded")
    assert data.verify("flowers102", tmp_path, decode=False) == ([], [])
    bad.unlink()
    (problem,) = data.verify("flowers102", tmp_path).problems
    assert problem == f"{folder / 'jpg'}: lacks 1 of 7 images, image_00003.jpg the first"
    with pytest.raises(DataError, match=r"image_00003\.jpg: cannot be read"):
        data.fingerprint(SPEC, tmp_path)


def test_the_fingerprint_is_of_the_tables_and_the_images_sizes(
    folder: Path, tmp_path: Path
) -> None:
    first = data.fingerprint(SPEC, tmp_path, tmp_path / "cache.json")
    assert data.fingerprint(SPEC, tmp_path) == first
    write(folder / "jpg/image_00006.jpg", picture(seed=99))
    second = data.fingerprint(SPEC, tmp_path, tmp_path / "cache.json")
    labels = loadmat(folder / "imagelabels.mat")["labels"]
    labels[0, 5] = 10
    savemat(folder / "imagelabels.mat", {"labels": labels})
    third = data.fingerprint(SPEC, tmp_path, tmp_path / "cache.json")
    assert len({first, second, third}) == 3


def test_preparing_gets_nothing_if_all_is_there_and_starts_again_if_images_lack(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    data.prepare("flowers102", tmp_path, said.append)
    assert said == [f"flowers102: already in {tmp_path}"]

    def fail(*_: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(datasets.utils, "download_url", fail)
    (folder / "jpg/image_00001.jpg").unlink()
    with pytest.raises(DataError, match=r"download failed \(no route to host\).*102flowers\.tgz"):
        data.prepare("flowers102", tmp_path, said.append)
