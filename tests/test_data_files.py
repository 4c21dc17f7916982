"""Sets of image files: what a folder means, what is refused and why, what is left out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Project
from pictures import classes, cut, picture, write
from torch import Tensor

from care_core import data
from care_core.data import scan
from care_core.data.decode import centred, decode
from care_core.data.files import FileSet
from care_core.errors import DataError
from care_core.spec.sections import Data


def folder(root: Path, **fields: Any) -> Data:
    return Data.model_validate({"name": "folder", "path": str(root), "image_size": 32, **fields})


def load(spec: Data, split: str, place: Path) -> FileSet:
    found = data.load(spec, split, place)  # type: ignore[arg-type]
    assert isinstance(found, FileSet)
    return found


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """3 cats and 2 dogs to train on, 1 and 2 to test on."""
    counts = {"train/cat": 3, "train/dog": 2, "test/cat": 1, "test/dog": 2}
    return classes(tmp_path / "pets", **counts)


def below(images: FileSet, root: Path) -> list[str]:
    return [str(Path(path).relative_to(root)) for path in images.paths]


def test_a_class_is_a_folder_numbered_by_its_name(pets: Path, tmp_path: Path) -> None:
    train, test = (load(folder(pets), split, tmp_path) for split in ("train", "test"))
    assert below(train, pets) == [
        "train/cat/0.JPEG", "train/cat/1.JPEG", "train/cat/2.JPEG",
        "train/dog/0.JPEG", "train/dog/1.JPEG",
    ]  # fmt: skip
    assert train.labels.tolist() == [0, 0, 0, 1, 1]
    assert train.labels.dtype == torch.int64
    assert below(test, pets) == ["test/cat/0.JPEG", "test/dog/0.JPEG", "test/dog/1.JPEG"]
    assert test.labels.tolist() == [0, 1, 1]
    assert (len(train), train.classes, train.size, train.skipped, train.hues) == (5, 2, 32, 0, None)
    assert below(load(folder(pets), "pretrain", tmp_path), pets) == below(train, pets)


def test_the_path_counts_from_the_data_folder(pets: Path, tmp_path: Path) -> None:
    spec = Data.model_validate({"name": "folder", "path": "pets"})
    found = data.load(spec, "train", tmp_path)
    assert len(found) == 5
    assert isinstance(found, FileSet)
    assert found.size == 224
    assert data.fingerprint(spec, tmp_path) == data.fingerprint(folder(pets), tmp_path / "else")


def test_val_is_the_test_set_where_there_is_no_test(pets: Path, tmp_path: Path) -> None:
    classes(pets, **{"val/dog": 1})
    assert len(load(folder(pets), "test", tmp_path)) == 3
    (pets / "test").rename(tmp_path / "gone")
    found = load(folder(pets), "test", tmp_path)
    assert below(found, pets) == ["val/dog/0.JPEG"]
    assert found.labels.tolist() == [1]


def test_unlabeled_images_are_pretrained_on_too(pets: Path, tmp_path: Path) -> None:
    before = data.fingerprint(folder(pets), tmp_path)
    classes(pets, unlabeled=2)
    found = load(folder(pets), "pretrain", tmp_path)
    assert below(found, pets)[5:] == ["unlabeled/0.JPEG", "unlabeled/1.JPEG"]
    assert found.labels.tolist() == [0, 0, 0, 1, 1, -1, -1]
    assert found.classes == 2
    assert len(load(folder(pets), "train", tmp_path)) == 5
    assert data.fingerprint(folder(pets), tmp_path) != before


def test_links_are_followed_and_hidden_files_are_not_seen(pets: Path, tmp_path: Path) -> None:
    (pets / "train" / "bird").symlink_to(classes(tmp_path / "far", birds=2) / "birds")
    (pets / "train" / "cat" / "3.jpg").symlink_to(pets / "train" / "dog" / "0.JPEG")
    (pets / "train" / "cat" / ".DS_Store").write_text("x")
    (pets / "train" / ".hidden").mkdir()
    found = load(folder(pets), "train", tmp_path)
    assert found.labels.tolist() == [0, 0, 1, 1, 1, 1, 2, 2]
    assert found.decode(5).equal(found.decode(6))


def test_taking_keeps_the_order_that_is_asked_for(pets: Path, tmp_path: Path) -> None:
    found = load(folder(pets), "train", tmp_path).take(torch.tensor([4, 0, 4]))
    assert below(found, pets) == ["train/dog/1.JPEG", "train/cat/0.JPEG", "train/dog/1.JPEG"]
    assert found.labels.tolist() == [1, 0, 1]
    assert found.decode(0).equal(decode(pets / "train/dog/1.JPEG"))
    assert found.centred(1).equal(centred(decode(pets / "train/cat/0.JPEG"), 32))


@pytest.mark.parametrize("workers", [0, 2, None])
def test_batches_are_the_centres_in_order_whoever_decodes_them(
    tmp_path: Path, workers: int | None
) -> None:
    classes(tmp_path, **{"train/cat": 40, "train/dog": 11})
    images = load(folder(tmp_path), "train", tmp_path)
    expected = torch.stack([images.centred(position) for position in range(51)])
    for batch in (51, 20, 7):
        parts = list(images.batches(batch, workers))
        assert [len(part) for part in parts] == [
            min(batch, 51 - start) for start in range(0, 51, batch)
        ]
        assert torch.cat(parts).equal(expected)
    assert images.take(torch.arange(0)).labels.shape == (0,)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_ends_the_batches_with_its_name(
    pets: Path, tmp_path: Path, workers: int
) -> None:
    bad = cut(pets / "train/dog/0.JPEG")
    images = load(folder(pets), "train", tmp_path)
    with pytest.raises(DataError, match=f"^{bad}: cannot be decoded .*unreadable: skip"):
        list(images.batches(2, workers))


def spoil(pets: Path) -> None:
    cut(pets / "train/dog/0.JPEG")
    (pets / "train/cat/1.JPEG").write_bytes(b"")
    (pets / "train/cat/notes.txt").write_text("cats")


def test_what_cannot_be_decoded_is_left_out_and_counted_if_the_spec_says_so(
    pets: Path, tmp_path: Path
) -> None:
    spoil(pets)
    said: list[str] = []
    spec = folder(pets, unreadable="skip")
    found = data.load(spec, "train", tmp_path, say=said.append)
    assert isinstance(found, FileSet)
    assert below(found, pets) == ["train/cat/0.JPEG", "train/cat/2.JPEG", "train/dog/1.JPEG"]
    assert found.labels.tolist() == [0, 0, 1]
    assert found.skipped == 3
    assert len(next(iter(found.batches(8, 0)))) == 3
    assert any("looking for files that cannot be decoded" in text for text in said)
    assert load(spec, "test", tmp_path).skipped == 0


def test_files_are_tried_once_until_one_of_them_changes(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(pets)
    spec = folder(pets, unreadable="skip")
    first, tried = load(spec, "train", tmp_path), []
    assert list((tmp_path / ".care").glob("unreadable-*.json"))
    whole = scan.undecodable

    def counted(*args: Any) -> dict[str, str]:
        tried.append(args)
        return whole(*args)

    monkeypatch.setattr(scan, "undecodable", counted)
    assert load(spec, "train", tmp_path).paths == first.paths
    assert tried == []
    write(pets / "train/cat/1.JPEG", picture())  # repaired
    again = load(spec, "train", tmp_path)
    assert (len(tried), len(again), again.skipped) == (1, 4, 2)
    good = pets / "train/cat/0.JPEG"
    good.write_bytes(bytes(good.stat().st_size))  # damaged since, of the same size
    last = load(spec, "train", tmp_path)
    assert (len(tried), len(last), last.skipped) == (2, 3, 3)


def test_of_processes_that_ask_at_once_one_tries_the_files(pets: Path, tmp_path: Path) -> None:
    spoil(pets)
    script = (
        "import sys; from pathlib import Path; from care_core import data\n"
        "from care_core.spec.sections import Data\n"
        "spec = Data(name='folder', path=sys.argv[1], unreadable='skip')\n"
        "print(data.load(spec, 'train', Path(sys.argv[2]), say=print).skipped)"
    )
    command = [sys.executable, "-c", script, str(pets), str(tmp_path)]
    asking = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate(timeout=120)[0].splitlines() for process in asking]
    assert [lines[-1] for lines in said] == ["3"] * 3
    assert sum(len(lines) > 1 for lines in said) == 1


def test_files_are_tried_each_time_where_nothing_can_be_kept(pets: Path, tmp_path: Path) -> None:
    spoil(pets)
    (tmp_path / ".care").write_text("a file where the folder should be")
    for _ in range(2):
        assert load(folder(pets, unreadable="skip"), "train", tmp_path).skipped == 3


def test_if_nothing_can_be_decoded_nothing_is_trained_on(pets: Path, tmp_path: Path) -> None:
    for path in (pets / "test").glob("*/*"):
        cut(path)
    with pytest.raises(DataError, match="none of 3 image files can be decoded"):
        load(folder(pets, unreadable="skip"), "test", tmp_path)


def remove(path: Path) -> None:
    for each in path.rglob("*.JPEG"):
        each.unlink()
    for each in sorted(path.rglob("*"), reverse=True):
        each.rmdir()


@pytest.mark.parametrize(
    ("change", "split", "said"),
    [
        (lambda r: remove(r / "train"), "train", "train: there are no class folders"),
        (lambda r: (remove(r / "train"), (r / "train").rmdir()), "train", "has no train/"),
        (lambda r: remove(r / "test"), "test", "test: no class folders"),
        (lambda r: (r / "train/eel").mkdir(), "train", "train/eel: there is no image in this"),
        (lambda r: classes(r, **{"test/eel": 1}), "test", "test: train/ has no class eel"),
        (lambda r: (r / "test").rename(r / "tset"), "test", "has neither test/ nor val/"),
        (lambda r: write(r / "train/cat/x.bmp"), "train", r"train/cat/x\.bmp: is not an image f"),
        (lambda r: classes(r, **{"train/cat/more": 1}), "train", "cat/more: is not an image file"),
        (lambda r: (r / "train/cat/x.jpg").symlink_to("gone"), "train", r"x\.jpg: is not an imag"),
    ],
)  # fmt: skip
def test_what_makes_no_dataset_is_told_with_its_place(
    pets: Path, tmp_path: Path, change: Any, split: str, said: str
) -> None:
    change(pets)
    with pytest.raises(DataError, match=said):
        load(folder(pets), split, tmp_path)
    if split == "train":  # before anything is submitted
        with pytest.raises(DataError, match=said):
            data.fingerprint(folder(pets), tmp_path)


def test_a_folder_that_is_not_there_is_told_with_the_setting_that_names_it(tmp_path: Path) -> None:
    said = f"{tmp_path / 'zoo'} is not there; data.path names the folder"
    spec = folder(tmp_path / "zoo")
    for ask in (lambda: data.load(spec, "train", tmp_path),
                lambda: data.fingerprint(spec, tmp_path)):  # fmt: skip
        with pytest.raises(DataError, match=said):
            ask()
    assert not data.available(spec, tmp_path).present
    assert data.available("folder", tmp_path).present
    assert said in data.verify(spec, tmp_path).problems[0]


def test_the_fingerprint_changes_with_names_classes_and_sizes_and_not_with_the_place(
    pets: Path, tmp_path: Path
) -> None:
    def mark() -> str:
        return data.fingerprint(folder(pets), tmp_path, tmp_path / "cache.json")

    first = mark()
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "pets").rename(elsewhere)
    assert data.fingerprint(folder(elsewhere), tmp_path) == first
    elsewhere.rename(pets)
    os.utime(pets / "train/cat/0.JPEG")
    assert mark() == first
    (pets / "train/cat/0.JPEG").rename(pets / "train/dog/9.JPEG")
    moved = mark()
    (pets / "train/dog/9.JPEG").rename(pets / "train/cat/0.JPEG")
    assert mark() == first
    with (pets / "test/dog/1.JPEG").open("ab") as file:
        file.write(b"x")
    assert len({first, moved, mark()}) == 3


def test_verifying_names_every_file_that_cannot_be_decoded(pets: Path, tmp_path: Path) -> None:
    assert data.verify(folder(pets), tmp_path) == ([], [])
    bad = [cut(pets / "train/dog/0.JPEG"), cut(pets / "test/cat/0.JPEG")]
    problems, notes = data.verify(folder(pets), tmp_path)
    assert [text.split(":")[0] for text in problems] == [str(path) for path in bad]
    assert notes == []
    assert data.verify(folder(pets), tmp_path, decode=False) == ([], [])


def test_verify_on_the_command_line_names_files_and_says_that_a_folder_is_good(
    project: Project,
) -> None:
    pets = classes(project.path / "pets", **{"train/cat": 3, "test/cat": 1})
    verify = ("data", "verify", "folder", "--path", "pets")
    assert project.carectl(*verify).stdout.startswith("folder: good\nNext: carectl pretrain ")
    bad = cut(pets / "train/cat/0.JPEG")
    assert f"error: {bad}: cannot be decoded" in project.carectl(*verify, code=3).stderr
    assert project.carectl(*verify, "--quick").stdout.startswith("folder: good\n")
    for usage in (verify[:3], ("data", "verify", "digits", "--path", "pets")):
        assert "--path" in project.carectl(*usage, code=2).stderr


def test_an_in_memory_set_answers_as_a_set_of_files_does() -> None:
    digits = data.load(Data(name="digits"), "test", Path())
    parts: list[Tensor] = list(digits.batches(100))
    assert [len(part) for part in parts] == [100, 100, 100, 60]
    assert torch.cat(parts).equal(digits.images)  # type: ignore[union-attr]
    assert parts[0].dtype == torch.uint8
    assert digits.classes == digits.take(torch.arange(3)).classes == 10
    index = torch.tensor([5, 0, 5])
    assert digits.take(index).images.equal(digits.images[index])  # type: ignore[union-attr]
    assert data.load(Data(name="digits"), "test", Path(), 8).images.shape[2:] == (8, 8)  # type: ignore[union-attr]
