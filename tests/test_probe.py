"""Probing: frozen features, classifiers that classify, and a test set that folds never read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny
from pydantic import ValidationError
from sklearn.linear_model import Ridge
from torch import Tensor

from care_core import checkpoint, data, draws, knn, models, pretrain, probe, probing
from care_core.data.base import ImageSet
from care_core.errors import CheckpointError
from care_core.facts import DATASETS
from care_core.features import extract
from care_core.files import read_json
from care_core.spec import LinearProbe, Optimizer, PretrainSpec, ProbeSpec

LINEAR = {"epochs": 30, "seeds": [0, 1], "optimizer": {"name": "adam", "lr": 1e-2}}
MEASURES = {"linear": LINEAR, "knn": {"k": 20}, "geometry": {"augmentations": 2, "images": 100}}


def probe_spec(spec: PretrainSpec, **changes: Any) -> ProbeSpec:
    fields = {"name": spec.name, "source": "0" * 64, "data": spec.data, "augment": spec.augment}
    return ProbeSpec.model_validate({**fields, "probe": {**MEASURES, **changes.pop("probe", {})},
                                     **changes})  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of three epochs."""
    run_dir = tmp_path_factory.mktemp("trained")
    pretrain(tiny(training={"epochs": 3, "batch_size": 128}), run_dir, threads=1)
    return checkpoint.at_epoch(run_dir / "checkpoints", None)


def untrained(folder: Path) -> Path:
    """The checkpoint of an encoder as it is initialised."""
    spec = tiny()
    encoder = models.build(spec.model, draws.generator(spec.seed, "init"))
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
    spec, encoder = tiny(), probing.load_encoder(trained)
    pixels = data.load("digits", "test", Path(), 16).images[:100]
    for mode in (True, False):
        encoder.train(mode)
        before = {key: value.clone() for key, value in encoder.state_dict().items()}
        whole = extract(encoder, pixels, spec)
        assert encoder.training is mode
        assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
        assert [part.shape for part in whole] == [(100, 32), (100, 8)]
        for batch in (1, 7, 64):
            for x, y in zip(extract(encoder, pixels, spec, batch), whole, strict=True):
                torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(whole[1], encoder.project(whole[0]))


def clusters(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Three separable clouds in 5 dimensions."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    return torch.eye(5)[labels] * 4 + torch.randn(count, 5, generator=generator) * 0.3, labels


def test_the_linear_probe_separates_what_is_separable_and_is_read_on_the_other_rows() -> None:
    (x, labels), (y, truth) = clusters(300, 1), clusters(90, 2)
    spec = LinearProbe(epochs=40, batch_size=32, optimizer=Optimizer(lr=1e-2))
    assert probing._linear(spec, 0, x, labels, y, truth, 3) == 100
    assert probing._linear(spec, 0, x, labels, y, (truth + 1) % 3, 3) == 0
    chance = torch.randint(0, 3, (300,), generator=torch.Generator().manual_seed(3))
    assert 15 < probing._linear(spec, 0, x, chance, y, truth, 3) < 60


def test_the_linear_probe_depends_on_its_seed_alone() -> None:
    (x, labels), (y, truth) = clusters(300, 1), clusters(90, 2)
    noisy = x + 3 * torch.randn(300, 5, generator=torch.Generator().manual_seed(4))
    spec = LinearProbe(epochs=1, batch_size=64, optimizer=Optimizer(lr=1e-2))

    def accuracies(outside: int) -> list[float]:
        torch.manual_seed(outside)
        return [probing._linear(spec, seed, noisy, labels, y, truth, 3) for seed in range(6)]

    first = accuracies(1)
    assert accuracies(2) == first
    assert len(set(first)) > 1


def literal_knn(
    bank: Tensor, labels: Tensor, queries: Tensor, k: int, temperature: float, classes: int
) -> list[int]:
    found = []
    for q in queries.double():
        cosines = [float(q @ row / (q.norm() * row.norm())) for row in bank.double()]
        nearest = sorted(range(len(bank)), key=lambda n: -cosines[n])[:k]
        votes = [0.0] * classes
        for n in nearest:
            votes[int(labels[n])] += math.exp(cosines[n] / temperature)
        found.append(max(range(classes), key=lambda c: votes[c]))
    return found


@pytest.mark.parametrize(
    ("k", "temperature"), [(1, 0.5), (7, 0.5), (7, 0.02), (60, 0.1), (500, 0.5)]
)
def test_knn_equals_a_literal_loop(k: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(k)
    bank = torch.randn(60, 6, generator=generator) * torch.rand(60, 1, generator=generator) * 9
    queries = torch.randn(40, 6, generator=generator)
    labels = torch.randint(0, 4, (60,), generator=generator)
    found = knn.predict(bank, labels, queries, k=k, temperature=temperature, classes=4)
    assert found.tolist() == literal_knn(bank, labels, queries, k, temperature, 4)


def test_the_check_while_training_holds_out_a_fixed_tenth_of_the_images() -> None:
    images = ImageSet(torch.zeros(57, 3, 8, 8, dtype=torch.uint8), torch.arange(57))
    bank, queries = knn.hold_out(images)
    assert (len(bank), len(queries)) == (52, 5)
    assert sorted([*bank.labels.tolist(), *queries.labels.tolist()]) == list(range(57))
    assert torch.equal(knn.hold_out(images)[1].labels, queries.labels)


def noise(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def test_a_hue_that_the_features_hold_is_found_and_noise_explains_nothing() -> None:
    hues, truth = (torch.rand(n, generator=torch.Generator().manual_seed(n)) for n in (900, 300))

    def features(hues: Tensor, seed: int) -> Tensor:
        angle = 2 * math.pi * hues[:, None]
        plain = torch.cat([angle.cos(), angle.sin(), noise(len(hues), 3, seed)], dim=1)
        return plain @ noise(5, 5, 0) * 7 + 3

    assert probing.hue_r2(features(hues, 1), hues, features(truth, 2), truth) > 0.9999
    blind = probing.hue_r2(noise(900, 5, 3), hues, noise(300, 5, 4), truth)
    assert -0.05 < blind <= 0.01
    # A feature that is linear in the hue is not the hue: it jumps where red meets red.
    assert 0.1 < probing.hue_r2(hues[:, None], hues, truth[:, None], truth) < 0.9


def test_the_hue_regression_is_scikit_learns_ridge_on_standardised_features() -> None:
    hues, truth = torch.rand(80), torch.rand(50)
    x, y = noise(80, 4, 5) * 3 + 1 + hues[:, None], noise(50, 4, 6) * 3 + 1 + truth[:, None]
    mean, std = x.mean(dim=0), x.std(dim=0)
    ridge = Ridge(alpha=0.1 * 80).fit((x - mean) / std, probing._circle(hues))
    guess, goal = torch.from_numpy(ridge.predict((y - mean) / std)), probing._circle(truth)
    wanted = 1 - (goal - guess).square().sum() / (goal - goal.mean(dim=0)).square().sum()
    assert probing.hue_r2(x, hues, y, truth, ridge=0.1) == pytest.approx(float(wanted), abs=1e-5)


def test_a_feature_that_is_constant_does_not_spoil_the_hue_regression() -> None:
    hues = torch.rand(100)
    x = torch.cat([probing._circle(hues).float(), torch.full((100, 1), 7.0)], dim=1)
    assert probing.hue_r2(x, hues, x, hues) > 0.99


@pytest.fixture
def no_test_set(monkeypatch: pytest.MonkeyPatch) -> None:
    load = data.load

    def guarded(name: str, split: data.Split, data_dir: Path, size: int) -> ImageSet:
        assert split != "test"
        return load(name, split, data_dir, size)

    monkeypatch.setattr(data, "load", guarded)


@pytest.mark.usefixtures("no_test_set")
@pytest.mark.parametrize("folds", [2, 3, 10])
def test_folds_hold_out_every_training_image_once_and_learn_from_all_others(folds: int) -> None:
    count = 101
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 3, 8, 8)
    train = ImageSet(images, torch.arange(count), torch.arange(count) / count)
    spec = probe_spec(tiny(), probe={"folds": folds})
    splits = list(probing._splits(spec, train, Path(), 8))
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
    measure = probing._measure

    def spy(*arguments: Any) -> dict[str, Any]:
        measures.append(measure(*arguments))
        return measures[-1]

    monkeypatch.setattr(probing, "_measure", spy)
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
    assert set(result) == {
        "kind", "measured_on", "images", "linear", "knn", "hue_r2", "geometry", "seconds"
    }  # fmt: skip
    assert (result["kind"], result["measured_on"], result["images"]) == ("probe", "test", 360)
    for key in ("linear", "knn", "hue_r2"):
        assert set(result[key]) == {"backbone", "projection"}
    for layer in ("backbone", "projection"):
        assert len(result["linear"][layer]) == 2
        for accuracy in (*result["linear"][layer], result["knn"][layer]):
            assert 11 < accuracy < 100  # per cent, and no share; by chance it is 10
        assert 0 < result["hue_r2"][layer] < 1
    shape = result["geometry"]
    assert 0 < shape["wahba"] <= shape["wahba_identity"] <= 2
    assert shape["gamma"] > 0 and shape["gamma_median"] > 0 and shape["displacement"] > 0
    assert "features of 1437 training images" in said
    drawn = read_json(tmp_path / "artifacts" / "geometry.json")
    wahba = [row["wahba"] for row in drawn["augmentations"]]
    assert len(wahba) == 2 and sum(wahba) / 2 == pytest.approx(shape["wahba"])
    assert len(drawn["components"]) == len(drawn["labels"]) == len(drawn["hues"]) == 100

    monkeypatch.setattr(probing, "load_encoder", lambda *_: pytest.fail("measured again"))
    assert probe(probe_spec(tiny()), tmp_path, trained) == result


@pytest.mark.parametrize(
    ("kinds", "keys"),
    [(["knn"], {"knn"}), (["linear"], {"linear", "hue_r2"}), (["geometry"], {"geometry"})],
)
def test_only_what_is_asked_for_is_measured(
    tmp_path: Path, trained: Path, kinds: list[str], keys: set[str]
) -> None:
    result = probe(probe_spec(tiny(), kinds=kinds), tmp_path, trained, threads=1)
    assert set(result) - {"kind", "measured_on", "images", "seconds"} == keys


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
    images = data.load("digits", "test", Path(), 16)
    found = probing._geometry(spec, probing.load_encoder(trained), images, tmp_path)
    for key in ("wahba", "wahba_identity", "displacement"):
        assert found[key] < 1e-4


def test_pretraining_with_care_keeps_the_hue_in_the_projection(
    tmp_path: Path, trained: Path
) -> None:
    spec = probe_spec(tiny(), kinds=["linear"])
    random = probe(spec, tmp_path / "random", untrained(tmp_path), threads=1)
    learned = probe(spec, tmp_path / "learned", trained, threads=1)
    assert learned["hue_r2"]["projection"] > random["hue_r2"]["projection"] + 0.2
