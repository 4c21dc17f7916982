"""Probing: frozen features, classifiers that classify, and a test set that folds never read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import digit_files
import probes
import pytest
import torch
from conftest import tiny
from probes import LINEAR, probe_spec
from pydantic import ValidationError

from care_core import checkpoint, data, models, probe
from care_core.data.base import ImageSet
from care_core.errors import CheckpointError
from care_core.files import read_json
from care_core.measures import probing, shape
from care_core.measures.features import extract
from care_core.spec import Data
from care_core.spec.facts import DATASETS

ALWAYS = {"kind", "data", "pretrained_on", "measured_on", "images", "seconds"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return probes.train(tmp_path_factory.mktemp("trained"))


def untrained(folder: Path) -> Path:
    """The checkpoint of an encoder as it is initialised."""
    spec = tiny()
    encoder = models.build(spec)
    state = {"model": encoder.state_dict(), "spec": spec.model_dump_json()}
    return checkpoint.save(folder, state, epoch=0, step=0).path


def test_the_encoder_of_a_checkpoint_is_loaded_whole_and_in_eval_mode(trained: Path) -> None:
    encoder = probing.load_encoder(trained)
    assert not any(module.training for module in encoder.modules())
    saved = checkpoint.read(trained)["model"]
    found = encoder.state_dict()
    assert found.keys() == saved.keys()
    assert all(torch.equal(found[key], saved[key]) for key in saved)
    assert found["backbone.1.num_batches_tracked"] == 33 * 4  # a pass a view a step


@pytest.mark.parametrize(
    "change",
    [{"spec": None}, {"spec": "{}"}, {"spec": 3}, {"model": {}}, {"model": torch.ones(2)}],
)
def test_a_checkpoint_whose_spec_and_weights_do_not_fit_is_refused(
    tmp_path: Path, trained: Path, change: dict[str, Any]
) -> None:
    state = {**checkpoint.read(trained), **change}
    state = {key: value for key, value in state.items() if value is not None}
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"weights.pt: not a checkpoint of this engine"):
        probing.load_encoder(tmp_path / "weights.pt")


def test_extracting_features_changes_nothing_and_depends_on_no_batch(trained: Path) -> None:
    encoder, images = probing.load_encoder(trained), digit_files.digits("test", 100)
    normalization = tiny().data.normalization
    for mode in (True, False):
        encoder.train(mode)
        before = {key: value.clone() for key, value in encoder.state_dict().items()}
        whole = extract(encoder, images, normalization)
        assert encoder.training is mode
        assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
        assert [part.shape for part in whole] == [(100, 32), (100, 8)]
        for batch in (1, 7, 64):
            again = extract(encoder, images, normalization, batch=batch)
            for x, y in zip(again, whole, strict=True):
                torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(whole[1], encoder.project(whole[0]))


@pytest.fixture
def no_test_set(monkeypatch: pytest.MonkeyPatch) -> None:
    load = data.load

    def guarded(spec: Data, split: data.Split, *arguments: Any) -> data.Images:
        assert split != "test"
        return load(spec, split, *arguments)

    monkeypatch.setattr(data, "load", guarded)


@pytest.mark.usefixtures("no_test_set")
@pytest.mark.parametrize("folds", [2, 3, 10])
def test_folds_hold_out_every_training_image_once_and_learn_from_all_others(folds: int) -> None:
    count = 101
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 3, 8, 8)
    train = ImageSet(images, torch.arange(count), count, torch.arange(count) / count)
    spec = probe_spec(tiny(), probe={"folds": folds})
    splits = list(probing._splits(spec, train, Path(), print))
    assert len(splits) == folds
    held = [part.labels.tolist() for _, part in splits]
    assert sorted(n for part in held for n in part) == list(range(count))
    assert max(map(len, held)) - min(map(len, held)) <= 1
    for learned, part in splits:
        assert sorted([*learned.labels.tolist(), *part.labels.tolist()]) == list(range(count))
        for half in (learned, part):
            assert half.hues is not None
            assert torch.equal(half.images[:, 0, 0, 0].long(), half.labels)
            assert torch.equal(half.hues, half.labels / count)


@pytest.mark.usefixtures("no_test_set")
def test_a_probe_by_folds_never_reads_the_test_set(tmp_path: Path, trained: Path) -> None:
    spec = probe_spec(tiny(), probe={"folds": 3})
    result = probe(spec, tmp_path, trained, threads=1)
    assert result["measured_on"] == "3 folds of the training set"
    assert result["images"] == DATASETS["digits"].probe_images
    assert result["knn"]["backbone"] > 20
    with pytest.raises(AssertionError):  # so the guard would have spoken
        probe(probe_spec(tiny()), tmp_path / "test", trained, threads=1)


def test_the_folds_are_averaged_and_the_classifier_seeds_are_not(
    tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measures: list[dict[str, Any]] = []
    measure = probing._Fold.measure

    def spy(fold: probing._Fold) -> dict[str, Any]:
        measures.append(measure(fold))
        return measures[-1]

    monkeypatch.setattr(probing._Fold, "measure", spy)
    result = probe(probe_spec(tiny(), probe={"folds": 2}), tmp_path, trained, threads=1)
    first, second = measures
    for layer in ("backbone", "projection"):
        mean = (first["knn"][layer] + second["knn"][layer]) / 2
        assert result["knn"][layer] == pytest.approx(mean)
        pairs = zip(first["linear"][layer], second["linear"][layer], strict=True)
        assert result["linear"][layer] == pytest.approx([(a + b) / 2 for a, b in pairs])
    wahba = (first["geometry"]["wahba"] + second["geometry"]["wahba"]) / 2
    assert result["geometry"]["wahba"] == pytest.approx(wahba)


def test_a_single_fold_would_leave_nothing_to_learn_from() -> None:
    with pytest.raises(ValidationError, match="folds: 1 leaves nothing to learn from"):
        probe_spec(tiny(), probe={"folds": 1})


def test_the_result_has_every_measure_and_asking_again_measures_nothing(
    tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    result = probe(probe_spec(tiny()), tmp_path, trained, threads=1, say=said.append)
    assert result == read_json(tmp_path / "result.json")
    assert set(result) == {*ALWAYS, "linear_report", "linear", "knn", "hue_r2", "geometry"}
    assert (result["kind"], result["measured_on"], result["images"]) == ("probe", "test", 360)
    assert (result["data"], result["pretrained_on"]) == ("digits", "digits")
    assert result["linear_report"] == "last"
    for key in ("linear", "knn", "hue_r2"):
        assert set(result[key]) == {"backbone", "projection"}
    for layer in ("backbone", "projection"):
        assert len(result["linear"][layer]) == 2
        for accuracy in (*result["linear"][layer], result["knn"][layer]):
            assert 11 < accuracy < 100  # per cent, and no share; by chance it is 10
        assert 0 < result["hue_r2"][layer] < 1
    found = result["geometry"]
    assert 0 < found["wahba"] <= found["wahba_identity"] <= 2
    assert found["wahba"] < found["wahba_shuffled"] <= 2
    assert all(found[key] > 0 for key in ("gamma", "gamma_median", "gamma_shuffled"))
    assert found["displacement"] > 0 and found["gamma_excluded"] == 0
    assert found["collapsed"] in (0, 1) and -1 <= found["mean_cosine"] <= 1
    assert "features of 1437 training images" in said
    drawn = read_json(tmp_path / "artifacts" / "geometry.json")
    wahba = [row["wahba"] for row in drawn["augmentations"]]
    assert len(wahba) == 2 and sum(wahba) / 2 == pytest.approx(found["wahba"])
    assert len(drawn["components"]) == len(drawn["labels"]) == len(drawn["hues"]) == 100

    monkeypatch.setattr(probing, "load_encoder", lambda *_: pytest.fail("measured again"))
    assert probe(probe_spec(tiny()), tmp_path, trained) == result


@pytest.mark.parametrize(
    ("kinds", "keys"),
    [
        (["knn"], {"knn"}),
        (["linear"], {"linear", "linear_report", "hue_r2"}),
        (["geometry"], {"geometry"}),
        (["colour"], {"colour"}),
        (["composition"], {"composition"}),
    ],
)
def test_only_what_is_asked_for_is_measured(
    tmp_path: Path, trained: Path, kinds: list[str], keys: set[str]
) -> None:
    result = probe(probe_spec(tiny(), kinds=kinds), tmp_path, trained, threads=1)
    assert set(result) - ALWAYS == keys


def test_folds_average_the_colour_and_the_composition_too(tmp_path: Path, trained: Path) -> None:
    settings = {"colour": {"images": 60, "pairs": 60}, "composition": {"pairs": 1, "images": 200}}
    spec = probe_spec(tiny(), kinds=["colour", "composition"], probe={"folds": 2, **settings})
    result = probe(spec, tmp_path, trained, threads=1)
    assert all(isinstance(value, float) for value in result["colour"].values())
    for layer in ("backbone", "projection"):
        assert 0 <= result["colour"][f"agreement_{layer}"] <= 1
        assert result["colour"][f"hue_r2_{layer}"] <= 1
    found = result["composition"]
    assert found["error"] > 0 and found["untrained_error"] > 0
    assert found["displacement"] != found["untrained_displacement"]


def test_an_encoder_without_training_is_the_one_that_the_spec_initialises(trained: Path) -> None:
    fresh, wanted = probing.load_encoder(trained, trained=False), models.build(tiny())
    assert not any(module.training for module in fresh.modules())
    found, learnt = fresh.state_dict(), probing.load_encoder(trained).state_dict()
    assert all(torch.equal(found[key], value) for key, value in wanted.state_dict().items())
    assert not torch.equal(found["projector.0.weight"], learnt["projector.0.weight"])


def test_a_probe_ignores_the_global_generator(tmp_path: Path, trained: Path) -> None:
    found = []
    for number in range(2):
        torch.manual_seed(number)
        result = probe(probe_spec(tiny()), tmp_path / str(number), trained, threads=1)
        found.append({key: value for key, value in result.items() if key != "seconds"})
    assert found[0] == found[1]


def test_the_geometry_of_an_augmentation_that_does_nothing_is_rest(
    tmp_path: Path, trained: Path
) -> None:
    plain = {"crop_scale": [1, 1], "crop_ratio": [1, 1], "flip": 0, "jitter": 0, "gray": 0,
             "blur": 0}  # fmt: skip
    spec = probe_spec(tiny(), augment=plain)
    images = digit_files.digits("test", 100)
    found = shape.measure(spec, probing.load_encoder(trained), images, tmp_path)
    for key in ("wahba", "wahba_identity", "displacement"):
        assert found[key] < 1e-4


def test_pretraining_with_care_keeps_the_hue_in_the_projection(
    tmp_path: Path, trained: Path
) -> None:
    spec = probe_spec(tiny(), kinds=["linear"])
    random = probe(spec, tmp_path / "random", untrained(tmp_path), threads=1)
    learned = probe(spec, tmp_path / "learned", trained, threads=1)
    assert learned["hue_r2"]["projection"] > random["hue_r2"]["projection"] + 0.2


def test_the_geometry_is_of_images_spread_over_a_set_that_is_sorted_by_class(
    tmp_path: Path, trained: Path
) -> None:
    images = digit_files.digits("test", 300)
    spec = probe_spec(tiny(), probe={"geometry": {"augmentations": 1, "images": 30}})
    shape.measure(spec, probing.load_encoder(trained), images, tmp_path)
    labels = read_json(tmp_path / "artifacts" / "geometry.json")["labels"]
    assert len(labels) == 30 and set(labels) == set(range(10))


@pytest.mark.parametrize("augmentation", ["none", "simclr"])
def test_an_official_probe_says_what_it_reports_and_what_the_last_epoch_gave(
    tmp_path: Path, trained: Path, augmentation: str
) -> None:
    linear = {**LINEAR, "epochs": 4, "backbone": "train", "augmentation": augmentation}
    spec = probe_spec(tiny(), kinds=["linear"], probe={"linear": {**linear, "report": "best"}})
    best = probe(spec, tmp_path / "best", trained, threads=1)
    last_spec = probe_spec(tiny(), kinds=["linear"], probe={"linear": linear})
    last = probe(last_spec, tmp_path / "last", trained, threads=1)
    assert (best["linear_report"], last["linear_report"]) == ("best", "last")
    assert best["linear_last"] == last["linear"]
    assert "linear_last" not in last
    for layer in ("backbone", "projection"):
        assert all(
            a >= b for a, b in zip(best["linear"][layer], last["linear"][layer], strict=True)
        )


def test_a_probe_in_train_mode_is_not_the_one_in_eval_mode_and_moves_no_other_measure(
    tmp_path: Path, trained: Path
) -> None:
    found = []
    for mode in ("eval", "train"):
        linear = {**LINEAR, "epochs": 3, "augmentation": "crop_flip", "backbone": mode}
        spec = probe_spec(tiny(), probe={"linear": linear})
        found.append(probe(spec, tmp_path / mode, trained, threads=1))
    assert found[0]["linear"] != found[1]["linear"]
    for key in ("knn", "hue_r2", "geometry"):
        assert found[0][key] == found[1][key]


def test_a_probe_that_takes_long_shows_that_it_is_alive(
    tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing._Progress, "EVERY_S", 0.0)
    probe(probe_spec(tiny(), probe={"folds": 2}), tmp_path, trained, threads=1)
    progress = read_json(tmp_path / "progress.json")
    assert progress["epochs"] == 30 * 2 * 2  # of a classifier, seeds, folds
    assert progress["epoch"] == 119  # before the last step, all but one were done
    assert progress["heartbeat"] > 0
