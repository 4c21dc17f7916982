"""ImageNet100: built by links from a local ImageNet, and judged against what ImageNet has."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from conftest import Project
from pictures import cut, picture, write

from care_core import data
from care_core.data import imagenet100
from care_core.data.files import FileSet
from care_core.data.imagenet100 import WNIDS
from care_core.errors import DataError
from care_core.spec.facts import DATASETS
from care_core.spec.sections import Data

SPEC = Data(name="imagenet100", image_size=32)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("image") / "a.JPEG", picture())


def build(root: Path, image: Path, train: int = 2, val: int = 1) -> Path:
    """Class folders as ImageNet's, of which ImageNet100 takes some; images are links to one."""
    for split, count in (("train", train), ("val", val)):
        for name in (*WNIDS, "n01440764"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                (root / split / name / f"{name}_{number}.JPEG").symlink_to(image)
    return root


def say(text: str) -> None:
    pass


def links(data_dir: Path) -> dict[str, str]:
    root = data_dir / "imagenet100"
    return {str(p.relative_to(root)): str(p.readlink()) for p in root.glob("*/n*")}


def test_the_classes_are_a_hundred_in_order() -> None:
    assert len(set(WNIDS)) == len(WNIDS) == DATASETS["imagenet100"].classes == 100
    assert list(WNIDS) == sorted(WNIDS)
    assert (WNIDS[0], WNIDS[-1]) == ("n01558993", "n13040303")
    assert DATASETS["imagenet100"].pretrain_images == imagenet100.TRAIN_IMAGES


def test_it_is_built_by_links_to_the_class_folders(tmp_path: Path, image: Path) -> None:
    source, place = build(tmp_path / "imagenet", image), tmp_path / "data"
    data.prepare("imagenet100", place, say, source=source)
    expected = {f"{s}/{n}": str(source / s / n) for s in ("train", "val") for n in WNIDS}
    assert links(place) == expected
    train, test = (data.load(SPEC, split, place) for split in ("pretrain", "test"))
    assert isinstance(train, FileSet)
    assert train.labels.tolist() == [label for label in range(100) for _ in range(2)]
    assert test.labels.tolist() == list(range(100))
    assert train.classes == 100
    assert Path(train.paths[2]).name == f"{WNIDS[1]}_0.JPEG"
    assert train.centred(0).shape == (3, 32, 32)


def test_building_again_changes_nothing_and_mends_what_is_gone(tmp_path: Path, image: Path) -> None:
    source, place = build(tmp_path / "imagenet", image), tmp_path / "data"
    data.prepare("imagenet100", place, say, source=source)
    first, before = links(place), (place / "imagenet100/train" / WNIDS[0]).lstat().st_ino
    mark = data.fingerprint(SPEC, place)
    (place / "imagenet100/val" / WNIDS[3]).unlink()
    wrong = place / "imagenet100/train" / WNIDS[4]
    wrong.unlink()
    wrong.symlink_to(tmp_path / "gone")
    own = place / "imagenet100/train" / WNIDS[5]
    own.unlink()
    shutil.copytree(source / "train" / WNIDS[5], own)
    assert not data.available("imagenet100", place).present
    data.prepare("imagenet100", place, say, source=source)
    del first[f"train/{WNIDS[5]}"]
    assert not own.is_symlink()
    own.rename(tmp_path / "own")
    assert links(place) == first
    assert (place / "imagenet100/train" / WNIDS[0]).lstat().st_ino == before
    (tmp_path / "own").rename(own)
    assert data.available("imagenet100", place).present
    assert data.fingerprint(SPEC, place) == mark


def test_it_may_be_built_from_itself_without_harm(tmp_path: Path, image: Path) -> None:
    source, place = build(tmp_path / "imagenet", image), tmp_path / "data"
    data.prepare("imagenet100", place, say, source=source)
    before = links(place)
    data.prepare("imagenet100", place, say, source=place / "imagenet100")
    assert links(place) == before


def test_a_kill_while_building_leaves_what_the_same_command_finishes(
    tmp_path: Path, image: Path
) -> None:
    source, place = build(tmp_path / "imagenet", image), tmp_path / "data"

    def slow(self: Path, target: Path, target_is_directory: bool = False) -> None:
        time.sleep(0.01)
        os.symlink(target, self)  # noqa: PTH211 - the method itself is replaced

    def child() -> None:
        Path.symlink_to = slow  # type: ignore[method-assign, assignment]
        data.prepare("imagenet100", place, say, source=source)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    while len(links(place)) < 20:
        assert process.is_alive()
        time.sleep(0.005)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert len(links(place)) < 200
    assert not data.available("imagenet100", place).present
    with pytest.raises(DataError, match=r"lacks .* more of 200 class folders.*--imagenet DIR"):
        data.load(SPEC, "train", place)
    data.prepare("imagenet100", place, say, source=source)
    assert len(links(place)) == 200
    assert not list((place / "imagenet100").glob("*/.*"))


def test_what_lacks_in_the_source_is_told_by_name_before_anything_is_linked(
    tmp_path: Path, image: Path
) -> None:
    source, place = build(tmp_path / "imagenet", image), tmp_path / "data"
    shutil.rmtree(source / "train" / WNIDS[7])
    shutil.rmtree(source / "train" / WNIDS[9])
    (source / "val" / WNIDS[8] / f"{WNIDS[8]}_0.JPEG").unlink()
    with pytest.raises(DataError) as caught:
        data.prepare("imagenet100", place, say, source=source)
    assert str(caught.value).splitlines() == [
        f"{source / 'train'}: 2 of 100 classes missing: {WNIDS[7]}, {WNIDS[9]}",
        f"{source / 'val'}: 1 of 100 classes empty: {WNIDS[8]}",
    ]
    assert not any(place.rglob("*"))


def test_a_source_of_another_layout_is_told_what_it_lacks(tmp_path: Path, image: Path) -> None:
    source = build(tmp_path / "imagenet", image)
    shutil.rmtree(source / "val")
    with pytest.raises(DataError, match="val: is not there; it has to be a folder of class"):
        data.prepare("imagenet100", tmp_path, say, source=source)
    write(source / "val/ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(DataError, match="val: 1 images lie in it without class folders; sort"):
        data.prepare("imagenet100", tmp_path, say, source=source)
    with pytest.raises(DataError, match=r"(?s)train: is not there.*val: is not there"):
        data.prepare("imagenet100", tmp_path, say, source=tmp_path / "nowhere")
    with pytest.raises(DataError, match="--imagenet DIR` builds it from a local ImageNet"):
        data.prepare("imagenet100", tmp_path, say)


def full() -> dict[str, dict[str, int]]:
    """Counts as of the full ImageNet: 126,689 training images, no class below 732."""
    counts = {"train": dict.fromkeys(WNIDS, 1300), "val": dict.fromkeys(WNIDS, 50)}
    for name in WNIDS[:6]:
        counts["train"][name] = 750
    counts["train"][WNIDS[6]] = 1300 - (130_000 - 126_689 - 6 * 550)
    return counts


def test_the_full_set_is_good_and_what_is_short_is_told_by_class() -> None:
    root, counts = Path("there"), full()
    assert imagenet100.judge(root, counts) == ([], [])
    counts["train"][WNIDS[50]] = 700
    counts["val"][WNIDS[51]] = 49
    problems, notes = imagenet100.judge(root, counts)
    assert problems == []
    assert notes[0].startswith("there/train: 1 of 100 classes short (ImageNet has at least 732")
    assert notes[0].endswith(f": {WNIDS[50]} (700)")
    assert notes[1] == f"there/val: 1 of 100 classes short (50 images each): {WNIDS[51]} (49)"
    assert "126089 images in all, ImageNet has 126689" in notes[2]
    counts = full()
    counts["train"][WNIDS[60]] = 1290  # no class too small, so the sum tells
    (note,) = imagenet100.judge(root, counts)[1]
    assert "126679 images in all" in note
    assert f"{WNIDS[60]} (1290)" in note
    counts["train"][WNIDS[60]] = 1301
    assert f"more than the 1300 images of ImageNet: {WNIDS[60]} (1301)" in str(
        imagenet100.judge(root, counts)[1]
    )


def test_on_the_command_line_short_is_said_and_usable_missing_is_an_error(
    project: Project, image: Path
) -> None:
    source = build(project.path / "imagenet", image)
    command = ("data", "prepare", "imagenet100", "--imagenet", "imagenet")
    done = project.carectl(*command)
    assert done.stdout.startswith("imagenet100: usable, though short of the full set\nNext: ")
    assert "100 of 100 classes short (ImageNet has at least 732" in done.stderr
    assert "200 images in all, ImageNet has 126689" in done.stderr
    assert (project.path / "data/imagenet100/val" / WNIDS[0]).readlink().is_absolute()
    bad = project.path / "data/imagenet100/val" / WNIDS[2] / f"{WNIDS[2]}_0.JPEG"
    bad.unlink()
    write(bad)
    cut(bad)
    done = project.carectl("data", "verify", "imagenet100", code=3)
    assert f"{bad.relative_to(project.path)}: cannot be decoded" in done.stderr
    shutil.rmtree(source / "val" / WNIDS[2])
    done = project.carectl("data", "verify", "imagenet100", code=3)
    assert f"1 of 100 classes missing: {WNIDS[2]}" in done.stderr
    assert "carectl data prepare imagenet100 --imagenet DIR" in done.stderr
    done = project.carectl("data", "prepare", "cifar10", "--imagenet", "imagenet", code=3)
    assert "cifar10: is not built from a local ImageNet" in done.stderr
    found = {each["name"]: each for each in project.json("data", "list")["datasets"]}
    assert found["imagenet100"]["detail"] == f"data/imagenet100 lacks val/{WNIDS[2]}"


def test_other_files_in_a_class_folder_are_no_images(tmp_path: Path, image: Path) -> None:
    root = build(tmp_path / "imagenet100", image)
    (root / "train" / WNIDS[0] / "n01558993.tar").write_bytes(b"x")
    assert len(data.load(SPEC, "train", tmp_path)) == 200
    assert torch.equal(data.load(SPEC, "train", tmp_path).labels.bincount(), torch.full((100,), 2))
