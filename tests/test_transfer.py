"""Transfer: an encoder is probed on another dataset than it was trained on, files or not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import digit_files
import probes
import pytest
import test_data_binary
import torch
from conftest import Project, tiny
from probes import LINEAR, MEASURES, probe_spec

from care_core import data, probe
from care_core.data.base import ImageSet
from care_core.measures import probing
from care_core.spec import Data, ProbeSpec
from carectl.plan import Planned, Planner


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return probes.train(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """A dataset of PNG files of digits 0 to 4, without the other classes."""
    root = tmp_path_factory.mktemp("pictures") / "few"
    for split, count in {"train": 300, "test": 120}.items():
        images = digit_files.digits("test" if split == "test" else "train", count)
        digit_files.save(root / split, images.take((images.labels < 5).nonzero()[:, 0]))
    return Data(name="folder", path=str(root))


def test_another_dataset_is_probed_at_the_encoders_size_and_normalisation(
    tmp_path: Path, trained: Path, folder: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    linear = {**LINEAR, "augmentation": "crop_flip", "batch_size": 32}
    spec = probe_spec(
        tiny(), data=folder, pretrained_on=tiny().data, probe={"linear": linear, "knn": {"k": 5}}
    )
    assert spec.image_size == 16
    assert spec.normalization == tiny().data.normalization
    sides, extracted = set(), probing.extract

    def watched(encoder: Any, images: data.Images, normalization: Any, **rest: Any) -> Any:
        sides.update(part.shape[-2:] for part in images.batches(64, 0))
        assert normalization == tiny().data.normalization
        return extracted(encoder, images, normalization, **rest)

    monkeypatch.setattr(probing, "extract", watched)
    result = probe(spec, tmp_path, trained, threads=1, decoders=0)
    assert sides == {(16, 16)}
    assert (result["data"], result["pretrained_on"]) == (folder.path, "digits")
    assert "hue_r2" not in result
    assert 40 < result["images"] < 120
    for accuracy in (*result["linear"]["backbone"], result["knn"]["backbone"]):
        assert 30 < accuracy <= 100  # of five classes; by chance it is 20


def test_the_number_of_classes_is_that_of_the_images_and_not_of_the_pretraining(
    tmp_path: Path, trained: Path, folder: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    classified = probing.classify

    def watched(*arguments: Any) -> Any:
        seen.append(arguments[4])
        return classified(*arguments)

    monkeypatch.setattr(probing, "classify", watched)
    spec = probe_spec(tiny(), data=folder, pretrained_on=tiny().data, kinds=["linear"])
    probe(spec, tmp_path, trained, threads=1, decoders=0)
    assert set(seen) == {5}


def test_files_and_the_images_in_them_have_the_same_result(
    tmp_path: Path, trained: Path, folder: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = probe_spec(tiny(), data=folder, pretrained_on=tiny().data)
    files = probe(spec, tmp_path / "files", trained, threads=1, decoders=0)
    load = data.load

    def into_memory(*arguments: Any) -> ImageSet:
        found = load(*arguments)
        return ImageSet(torch.cat(list(found.batches(50, 0))), found.labels, found.classes)

    monkeypatch.setattr(data, "load", into_memory)
    memory = probe(spec, tmp_path / "memory", trained, threads=1)
    assert {**files, "seconds": 0} == {**memory, "seconds": 0}


@pytest.mark.parametrize("folds", [0, 2])
def test_files_that_were_left_out_are_counted_in_the_result(
    tmp_path: Path, trained: Path, folder: Data, folds: int
) -> None:
    root = shutil.copytree(str(folder.path), tmp_path / "few")
    for split in ("train", "test"):
        (root / split / "0" / "broken.png").write_bytes(b"not an image")
    asked = Data(name="folder", path=str(root), unreadable="skip")
    probe_of = {"folds": folds, "knn": {"k": 5}}
    spec = probe_spec(tiny(), data=asked, pretrained_on=tiny().data, kinds=["knn"], probe=probe_of)
    result = probe(spec, tmp_path / "run", trained, threads=1, decoders=0, data_dir=tmp_path)
    assert result["skipped"] == (1 if folds else 2)


def test_digits_transfer_to_the_hundred_classes_of_cifar100(
    tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test_data_binary.write("cifar100", tmp_path, monkeypatch)
    spec = probe_spec(
        tiny(), data={"name": "cifar100"}, pretrained_on=tiny().data, kinds=["linear", "knn"]
    )
    result = probe(spec, tmp_path / "run", trained, data_dir=tmp_path, threads=1)
    assert (result["data"], result["pretrained_on"]) == ("cifar100", "digits")
    test = data.load(spec.data, "test", tmp_path, spec.image_size)
    assert (result["images"], test.classes) == (len(test), 100)


def plan(tmp_path: Path, kinds: tuple[str, ...] = ("linear", "knn"), **probe: Any) -> Planned:
    spec = tiny(probe={**MEASURES, **probe})
    planner = Planner(tmp_path / "runs", tmp_path)
    return planner.probe(spec, planner.pretrain(spec), kinds=kinds)


def planned(tmp_path: Path, **probe: Any) -> ProbeSpec:
    found = plan(tmp_path, **probe).spec
    assert isinstance(found, ProbeSpec)
    return found


def test_a_planned_probe_is_of_the_dataset_that_was_trained_on_unless_it_names_another(
    tmp_path: Path, folder: Data
) -> None:
    same, other = planned(tmp_path), planned(tmp_path, data=folder)
    assert (same.name, other.name) == ("tiny/care-simclr-s0", "tiny/care-simclr-s0-on-few")
    assert same.data.name == "digits" and other.data.path == folder.path
    assert same.image_size == other.image_size == 16
    assert other.pretrained_on == tiny().data and other.normalization == tiny().data.normalization
    assert other.probe.data is None  # it is said once


def test_naming_the_dataset_that_was_trained_on_is_the_same_probe(tmp_path: Path) -> None:
    assert planned(tmp_path, data=Data(name="digits", image_size=16)) == planned(tmp_path)


def test_where_a_folder_lies_and_what_is_not_measured_make_no_other_probe(
    tmp_path: Path, folder: Data
) -> None:
    moved = shutil.copytree(str(folder.path), tmp_path / "few")
    here, there = (plan(tmp_path, data={"name": "folder", "path": str(path)})
                   for path in (folder.path, moved))  # fmt: skip
    assert here.identity == there.identity
    shape_of_more = {"augmentations": 9, "images": 50}
    few, more = (plan(tmp_path, geometry=settings) for settings in ({}, shape_of_more))
    assert few.identity == more.identity
    asked = ("linear", "geometry")
    few, more = (plan(tmp_path, asked, geometry=settings) for settings in ({}, shape_of_more))
    assert few.identity != more.identity
    assert plan(tmp_path, knn={"k": 7}).identity != plan(tmp_path).identity


def test_measures_that_are_not_asked_for_are_no_part_of_the_identity(tmp_path: Path) -> None:
    shift, pairs = {"hue_shift": 0.1}, {"pairs": 3}
    for kind, settings in (("colour", shift), ("composition", pairs)):
        without, asked = ("linear", "knn", "geometry"), (kind,)
        assert kind not in plan(tmp_path, without).identity.fields["spec"]["probe"]
        one, other = (plan(tmp_path, without, **part) for part in ({}, {kind: settings}))
        assert one.identity == other.identity
        one, other = (plan(tmp_path, asked, **part) for part in ({}, {kind: settings}))
        assert one.identity != other.identity
        assert "augment" in one.identity.fields["spec"]
        assert set(one.identity.fields["spec"]["probe"]) == {"folds", "precision", kind}


def test_eval_probes_another_dataset_that_an_override_names(project: Project) -> None:
    digit_files.write(project.path / "data" / "few", train=120, test=60)
    spec = project.write(tiny(training={"epochs": 1, "batch_size": 128}))
    project.carectl("pretrain", spec)
    found = project.json(
        "eval", "tiny-care-simclr", "-o", "probe.data={name: folder, path: few}",
        "--probe", "linear", "--probe", "knn",
    )  # fmt: skip
    (run,) = found["runs"]
    assert run["run"].startswith("probe-tiny-care-simclr-s0-on-few-")
    assert (run["result"]["data"], run["result"]["pretrained_on"]) == ("few", "digits")
    assert run["result"]["images"] == 60
    assert len(run["result"]["linear"]["backbone"]) == 2
