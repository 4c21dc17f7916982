"""CIFAR and STL10: the published formats pixel by pixel, and damage told by name."""

from __future__ import annotations

import hashlib
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision import datasets

from care_core import data
from care_core.data.layout import FILES
from care_core.errors import DataError
from care_core.spec.sections import Data

NAMES = ("cifar10", "cifar100", "stl10")
READERS = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100, "stl10": datasets.STL10}


def of(name: str) -> Data:
    return Data.model_validate({"name": name})


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined, misc]
    """Text and bytes as Python 2 wrote them both, which the published CIFAR archives hold."""

    dispatch = {**pickle._Pickler.dispatch}  # type: ignore[attr-defined]  # noqa: RUF012

    def save_string(self, value: str | bytes) -> None:
        content = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string


def write_pickle(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        Python2Pickler(file, protocol=2).dump(value)


def noise(count: int, side: int, seed: int) -> np.ndarray:
    """(N, 3, H, W) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3, side, side), dtype=np.uint8)


def batch(images: np.ndarray, **labels: list[int]) -> dict[str, Any]:
    """A CIFAR batch: a row an image, all red pixels row by row, then the green and the blue."""
    names = [f"image_{n}.png" for n in range(len(images))]
    return {"data": images.reshape(len(images), -1), **labels, "filenames": names}


def publish(name: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision's checksums be those of the files that lie there now."""
    reader, folder = READERS[name], data_dir / FILES[name][0]

    def md5(file: str) -> str:
        return hashlib.md5((folder / file).read_bytes()).hexdigest()

    for key in ("train_list", "test_list"):
        listed = [[file, md5(file)] for file, _ in getattr(reader, key)]
        monkeypatch.setattr(reader, key, listed)
    if name != "stl10":
        meta = reader.meta["filename"]
        monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": md5(meta)})


def write_cifar10(folder: Path) -> None:
    for n in range(1, 6):
        write_pickle(folder / f"data_batch_{n}", batch(noise(3, 32, n), labels=[n, 9, 0]))
    write_pickle(folder / "test_batch", batch(noise(2, 32, 6), labels=[7, 3]))
    names = [f"class {n}" for n in range(10)]
    write_pickle(folder / "batches.meta", {"label_names": names, "num_vis": 3072})


def write_cifar100(folder: Path) -> None:
    for file, count in (("train", 4), ("test", 2)):
        fine, coarse = [99, 0, 42, 7][:count], [19, 0, 1, 2][:count]
        content = batch(noise(count, 32, count), fine_labels=fine, coarse_labels=coarse)
        write_pickle(folder / file, content)
    names = [f"class {n}" for n in range(100)]
    write_pickle(folder / "meta", {"fine_label_names": names, "coarse_label_names": names[:20]})


def write_stl10(folder: Path) -> None:
    """Pixels column by column, a plane a channel; labels from 1 to 10."""
    folder.mkdir(parents=True)
    for file, count in (("train", 3), ("unlabeled", 2), ("test", 2)):
        columns = noise(count, 96, count + len(file)).swapaxes(2, 3)
        (folder / f"{file}_X.bin").write_bytes(columns.tobytes())
    (folder / "train_y.bin").write_bytes(bytes([1, 10, 4]))
    (folder / "test_y.bin").write_bytes(bytes([10, 2]))
    (folder / "class_names.txt").write_text("airplane\nbird\n")
    (folder / "fold_indices.txt").write_text("0 1 \n" * 10)


def write(name: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small set in its published format, with its checksums; the folder."""
    folder = data_dir / FILES[name][0]
    {"cifar10": write_cifar10, "cifar100": write_cifar100, "stl10": write_stl10}[name](folder)
    publish(name, data_dir, monkeypatch)
    return folder


def test_cifar10_is_read_pixel_by_pixel_in_the_order_of_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("cifar10", tmp_path, monkeypatch)
    expected = np.concatenate([noise(3, 32, n) for n in range(1, 6)])
    for split in ("pretrain", "train"):
        found = data.load(of("cifar10"), split, tmp_path, 32)
        assert found.images.dtype == torch.uint8
        assert found.images.is_contiguous()
        assert np.array_equal(found.images.numpy(), expected)
        assert found.labels.dtype == torch.int64
        assert found.labels.tolist() == [k for n in range(1, 6) for k in (n, 9, 0)]
        assert found.hues is None
    test = data.load(of("cifar10"), "test", tmp_path, 32)
    assert np.array_equal(test.images.numpy(), noise(2, 32, 6))
    assert test.labels.tolist() == [7, 3]


def test_cifar100_is_read_with_its_fine_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("cifar100", tmp_path, monkeypatch)
    for split in ("pretrain", "train"):
        found = data.load(of("cifar100"), split, tmp_path, 32)
        assert np.array_equal(found.images.numpy(), noise(4, 32, 4))
        assert found.labels.tolist() == [99, 0, 42, 7]
    test = data.load(of("cifar100"), "test", tmp_path, 32)
    assert np.array_equal(test.images.numpy(), noise(2, 32, 2))
    assert test.labels.tolist() == [99, 0]


def test_a_cifar_row_is_the_red_then_the_green_then_the_blue_plane_row_by_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write("cifar10", tmp_path, monkeypatch)
    row = np.zeros((1, 3072), dtype=np.uint8)
    row[0, 5 * 32 + 20], row[0, 2048 + 31 * 32 + 1] = 200, 100
    content = {"data": row, "labels": [1], "batch_label": "testing batch 1 of 1"}
    write_pickle(folder / "test_batch", content)
    publish("cifar10", tmp_path, monkeypatch)
    (image,) = data.load(of("cifar10"), "test", tmp_path, 32).images
    assert image.nonzero().tolist() == [[0, 5, 20], [2, 31, 1]]
    assert (image[0, 5, 20], image[2, 31, 1]) == (200, 100)


def test_stl10_is_read_pixel_by_pixel_and_pretrains_on_the_unlabelled_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("stl10", tmp_path, monkeypatch)
    labelled, unlabelled = noise(3, 96, 8), noise(2, 96, 11)
    train = data.load(of("stl10"), "train", tmp_path, 96)
    assert np.array_equal(train.images.numpy(), labelled)
    assert train.labels.tolist() == [0, 9, 3]
    everything = data.load(of("stl10"), "pretrain", tmp_path, 96)
    assert np.array_equal(everything.images.numpy(), np.concatenate([labelled, unlabelled]))
    assert everything.labels.tolist() == [0, 9, 3, -1, -1]
    test = data.load(of("stl10"), "test", tmp_path, 96)
    assert np.array_equal(test.images.numpy(), noise(2, 96, 6))
    assert test.labels.tolist() == [9, 1]


def test_stl10_has_32_pixels_unless_the_spec_asks_for_its_own_96(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("stl10", tmp_path, monkeypatch)
    whole = Data.model_validate({"name": "stl10", "image_size": 96})
    large, small = (data.load(spec, "test", tmp_path) for spec in (whole, of("stl10")))
    assert np.array_equal(large.images.numpy(), noise(2, 96, 6))
    assert small.images.shape == (2, 3, 32, 32)
    assert small.images.equal(data.load(whole, "test", tmp_path, 32).images)
    assert large.classes == small.classes == 10


def test_an_stl10_image_is_a_plane_a_channel_column_by_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write("stl10", tmp_path, monkeypatch)
    content = bytearray(2 * 3 * 96 * 96)
    content[3 * 96 * 96 + 96 * 96 + 20 * 96 + 5] = 200  # second image, green, column 20, row 5
    (folder / "test_X.bin").write_bytes(content)
    publish("stl10", tmp_path, monkeypatch)
    images = data.load(of("stl10"), "test", tmp_path, 96).images
    assert images.nonzero().tolist() == [[1, 1, 5, 20]]


def test_images_are_resized_once_with_antialiasing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("stl10", tmp_path, monkeypatch)
    full = data.load(of("stl10"), "train", tmp_path, 96).images
    small = data.load(of("stl10"), "train", tmp_path, 32).images
    exact = F.interpolate(full.float(), (32, 32), mode="bilinear", antialias=True)
    assert small.dtype == torch.uint8
    assert (small.float() - exact).abs().max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_a_set_that_is_not_there_is_told_with_its_place_and_the_remedy(
    tmp_path: Path, name: str
) -> None:
    folder = tmp_path / FILES[name][0]
    said = f"{folder} is not there.*`carectl data prepare {name} --data-dir {tmp_path}`"
    for ask in (lambda: data.load(of(name), "test", tmp_path, 32),
                lambda: data.fingerprint(of(name), tmp_path)):  # fmt: skip
        with pytest.raises(DataError, match=said):
            ask()
    state = data.available(name, tmp_path)
    assert not state.present
    assert state.detail == f"{folder} is not there"
    assert len(data.verify(name, tmp_path).problems) == len(FILES[name][1])


@pytest.mark.parametrize(
    ("name", "file"), [(name, file) for name in NAMES for file in FILES[name][1]]
)
def test_each_file_that_is_missing_or_damaged_is_told_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, file: str
) -> None:
    folder = write(name, tmp_path, monkeypatch)
    assert data.verify(name, tmp_path) == ([], [])
    remedy = f"`carectl data prepare {name} --data-dir {tmp_path}`"
    path, content = folder / file, (folder / file).read_bytes()

    path.write_bytes(content[:-1])
    damage = f"{path}: damaged or truncated (its md5 is not the published one)"
    with pytest.raises(DataError) as caught:
        data.load(of(name), "pretrain", tmp_path, 32)
    assert str(caught.value) == f"{damage}\ndelete them and run {remedy}"
    assert data.verify(name, tmp_path).problems == [damage]
    assert data.available(name, tmp_path).present

    path.unlink()
    with pytest.raises(DataError) as caught:
        data.load(of(name), "pretrain", tmp_path, 32)
    assert str(caught.value) == f"{name}: {folder} lacks {file}; {remedy} gets it"
    assert data.verify(name, tmp_path).problems == [f"{path}: missing"]
    assert data.available(name, tmp_path).detail == f"{folder} lacks {file}"

    path.write_bytes(content)
    assert len(data.load(of(name), "pretrain", tmp_path, 32)) > 2


@pytest.mark.parametrize("file", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_cifar_file_that_is_not_the_published_one_is_never_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    mark = tmp_path / "mark"

    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (mark,)

    folder = write("cifar10", tmp_path, monkeypatch)
    (folder / file).write_bytes(pickle.dumps(Hostile()))
    for split in ("train", "test"):
        with pytest.raises(DataError, match=file):
            data.load(of("cifar10"), split, tmp_path, 32)
    assert not mark.exists()
    pickle.loads((folder / file).read_bytes())
    assert mark.exists()  # so the file was a hostile one


def test_images_without_a_label_each_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write("stl10", tmp_path, monkeypatch)
    (folder / "train_y.bin").write_bytes(bytes([1, 2]))
    publish("stl10", tmp_path, monkeypatch)
    with pytest.raises(DataError, match=r"stl10: 3 images but 2 labels(.|\n)*carectl data prep"):
        data.load(of("stl10"), "train", tmp_path, 32)


def test_an_unknown_set_is_told_with_those_that_there_are(tmp_path: Path) -> None:
    for ask in (data.available, data.verify):
        with pytest.raises(DataError, match="no dataset 'mnist'; there are: digits, cifar10"):
            ask("mnist", tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_the_fingerprint_changes_with_the_content_of_each_file_and_not_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = write(name, tmp_path / "a", monkeypatch)
    write(name, tmp_path / "b", monkeypatch)
    first = data.fingerprint(of(name), tmp_path / "a")
    assert data.fingerprint(of(name), tmp_path / "b") == first
    found = {first}
    for file in FILES[name][1]:
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        found.add(data.fingerprint(of(name), tmp_path / "a"))
        (folder / file).write_bytes(content)
    assert len(found) == len(FILES[name][1]) + 1
    assert data.fingerprint(of(name), tmp_path / "a") == first


def test_digests_are_remembered_by_size_and_time_of_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cache = write("cifar100", tmp_path, monkeypatch) / "train", tmp_path / "cache.json"
    first = data.fingerprint(of("cifar100"), tmp_path, cache)
    assert first == data.fingerprint(of("cifar100"), tmp_path)
    facts, content = path.stat(), path.read_bytes()
    path.write_bytes(content[:-1] + b"x")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert data.fingerprint(of("cifar100"), tmp_path, cache) == first  # it was not read again
    other = data.fingerprint(of("cifar100"), tmp_path)
    assert other != first
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))
    assert data.fingerprint(of("cifar100"), tmp_path, cache) == other
    path.write_bytes(content + b"x")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert data.fingerprint(of("cifar100"), tmp_path, cache) not in (first, other)


def test_the_fingerprint_does_without_a_cache_that_is_damaged_or_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("cifar100", tmp_path, monkeypatch)
    first, cache = data.fingerprint(of("cifar100"), tmp_path), tmp_path / "cache.json"
    for content in ("{", "[1]", ""):
        cache.write_text(content)
        assert data.fingerprint(of("cifar100"), tmp_path, cache) == first
    assert data.fingerprint(of("cifar100"), tmp_path, cache / "below" / "cache.json") == first


def test_preparing_a_set_that_is_there_and_whole_gets_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("cifar10", tmp_path, monkeypatch)
    monkeypatch.setattr(datasets.utils, "download_url", lambda *_: pytest.fail("a download"))
    said: list[str] = []
    data.prepare("cifar10", tmp_path, said.append)
    assert said == [f"cifar10: already in {tmp_path}"]


def test_a_download_that_fails_is_told_with_where_to_put_the_files_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(datasets.utils, "download_url", fail)
    place = tmp_path / "cifar-10-batches-py"
    said = rf"download failed \(no route to host\).*into {place} by hand.*data verify cifar10"
    with pytest.raises(DataError, match=said):
        data.prepare("cifar10", tmp_path, lambda _: None)
