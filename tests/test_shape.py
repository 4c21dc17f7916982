"""The geometry probe, on encoders of which is known what shape their embedding has."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import digit_files
import eyes
import numpy as np
import pytest
import torch

from care_core import augment, draws
from care_core.files import read_json
from care_core.measures import embeddings, shape


def test_an_encoder_that_turns_with_the_hue_is_found_to_rotate(tmp_path: Path) -> None:
    images = digit_files.digits("test", 120)
    found = shape.measure(eyes.spec(), eyes.Circle(), images, tmp_path)
    for key in ("wahba", "wahba_held_out", "gamma"):
        assert found[key] < 0.01
    assert found["wahba_raw"] == pytest.approx(found["wahba"] * math.sqrt(120))
    assert found["wahba_identity"] > 0.5 and found["displacement"] > 0.5
    assert found["wahba_shuffled"] > 0.5
    assert not found["collapsed"] and abs(found["mean_cosine"]) < 0.1


def test_the_histograms_are_of_the_cosines_by_which_each_hue_turns(tmp_path: Path) -> None:
    spec = eyes.spec()
    shape.measure(spec, eyes.Circle(), digit_files.digits("test", 120), tmp_path)
    drawn = read_json(tmp_path / "artifacts" / "geometry.json")
    cosines = drawn["cosines"]
    assert np.allclose(cosines["edges"], np.linspace(-1, 1, 101))
    assert [sum(each) for each in cosines["each"]] == [120] * 3
    assert cosines["counts"] == [sum(column) for column in zip(*cosines["each"], strict=True)]
    middles = np.convolve(cosines["edges"], [0.5, 0.5], "valid")
    for one, each in zip(drawn["parameters"], cosines["each"], strict=True):
        turn = math.cos(2 * math.pi * one["jitter"]["hue"])
        assert np.average(middles, weights=each) == pytest.approx(turn, abs=0.03)


def test_the_invariance_loss_is_between_the_images_under_two_augmentations(
    tmp_path: Path,
) -> None:
    shape.measure(eyes.spec(), eyes.Circle(), digit_files.digits("test", 50), tmp_path)
    drawn = read_json(tmp_path / "artifacts" / "geometry.json")
    turns = [one["jitter"]["hue"] for one in drawn["parameters"]]
    chords = [2 * abs(math.sin(math.pi * (b - a))) for a, b in itertools.pairwise(turns)]
    found = [row["invariance"] for row in drawn["augmentations"]]
    assert found[:2] == pytest.approx(chords, abs=0.01)


def test_images_on_the_circle_are_followed_around_it(tmp_path: Path) -> None:
    spec = eyes.spec(geometry={"augmentations": 1, "path_images": 7, "path_steps": 8})
    images = digit_files.digits("test", 120)
    shape.measure(spec, eyes.Circle(), images, tmp_path)
    drawn = read_json(tmp_path / "artifacts" / "geometry.json")
    assert images.hues is not None
    angles = torch.tensor(drawn["angles"]) / (2 * math.pi)
    assert float(shape.paths.angles(torch.tensor([[0.0, 1.0]]))) == pytest.approx(math.pi / 2)
    torch.testing.assert_close(angles % 1, images.hues, atol=0.01, rtol=0)
    path = drawn["paths"]["hue"]
    assert path["strength"] == path["value"] == [n / 8 for n in range(9)]
    assert len(path["angles"]) == len(drawn["path_images"]) == 7
    for image, row in zip(drawn["path_images"], path["angles"], strict=True):
        wanted = [drawn["angles"][image] + 2 * math.pi * n / 8 for n in range(9)]
        assert np.allclose(np.exp(1j * np.array(row)), np.exp(1j * np.array(wanted)), atol=0.03)
    assert path["displacement"][4] == pytest.approx(2, abs=0.01)
    assert path["displacement"][8] == pytest.approx(0, abs=0.03)


def test_paths_of_the_crop_and_of_the_brightness_move_what_sees_them(tmp_path: Path) -> None:
    spec = eyes.spec(geometry={"augmentations": 1, "path_images": 5, "path_steps": 4})
    spec = spec.model_copy(
        update={"augment": spec.augment.model_copy(update={"crop_scale": (0.25, 1.0)})}
    )
    shape.measure(spec, eyes.Blind(), digit_files.digits("test", 30), tmp_path)
    found = read_json(tmp_path / "artifacts" / "geometry.json")
    assert found["angles"] is None and found["paths"]["crop"]["angles"] is None
    crop = found["paths"]["crop"]
    assert crop["value"][0] == 1 and crop["value"][-1] == 0.25
    assert crop["displacement"] == sorted(crop["displacement"]) and crop["displacement"][-1] > 0.5
    assert max(found["paths"]["hue"]["displacement"]) < 0.01  # it is blind to it


def test_a_constant_embedding_is_named_collapsed(tmp_path: Path) -> None:
    found = shape.measure(eyes.spec(), eyes.Constant(), digit_files.digits("test", 40), tmp_path)
    assert found["collapsed"] == 1 and found["mean_cosine"] == pytest.approx(1)
    assert found["displacement"] == 0 and math.isnan(found["gamma"])
    embedding = read_json(tmp_path / "artifacts" / "geometry.json")["embedding"]
    assert embedding["collapsed"] is True
    assert embedding["effective_rank"] == pytest.approx(1) and embedding["dimensions"] == 4


def test_more_augmentations_begin_with_the_same_ones(tmp_path: Path) -> None:
    images = digit_files.digits("test", 30)
    for number in (2, 20):
        spec = eyes.spec(geometry={"augmentations": number})
        shape.measure(spec, eyes.Circle(), images, tmp_path / str(number))
    few, many = (read_json(tmp_path / str(n) / "artifacts" / "geometry.json") for n in (2, 20))
    assert few["parameters"] == many["parameters"][:2]
    assert len(many["parameters"]) == len(many["augmentations"]) == 20


def test_augmentations_of_a_chain_act_one_after_the_other() -> None:
    spec, images = eyes.spec(), digit_files.digits("test", 40).images
    a, b = embeddings.hue_shift(1, 0.1), embeddings.hue_shift(1, 0.25)
    both = embeddings.embed(spec, eyes.Circle(), images, a, b).projection
    once = embeddings.embed(spec, eyes.Circle(), images, embeddings.hue_shift(1, 0.35)).projection
    torch.testing.assert_close(both, once, atol=0.02, rtol=0)
    first = embeddings.augmented_pixels(spec, images, a)
    torch.testing.assert_close(embeddings.embed(spec, eyes.Circle(), first, b).projection, both)


def test_a_row_an_image_acts_on_each_by_itself_in_whatever_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec, images = eyes.spec(), digit_files.digits("test", 40).images
    drawn = augment.sample(40, 16, 16, spec.augment, draws.generator(0, "test"))
    singly = torch.cat(
        [
            embeddings.embed(
                spec, eyes.Circle(), images[[n]], drawn.rows(slice(n, n + 1))
            ).projection
            for n in range(40)
        ]
    )
    for batch in (512, 7):
        monkeypatch.setattr(embeddings, "pass_size", lambda *_, batch=batch: batch)
        found = embeddings.embed(spec, eyes.Circle(), images, drawn).projection
        torch.testing.assert_close(found, singly, atol=1e-3, rtol=0)


def test_a_shift_of_the_hue_alone_leaves_a_digit_but_for_its_hue() -> None:
    spec, images = eyes.spec(), digit_files.digits("test", 20).images
    assert (
        int(
            (
                embeddings.augmented_pixels(spec, images, embeddings.hue_shift(1)).int()
                - images.int()
            )
            .abs()
            .max()
        )
        <= 1
    )
    shifted = embeddings.augmented_pixels(spec, images, embeddings.hue_shift(1, -0.7))
    again = embeddings.augmented_pixels(spec, images, embeddings.hue_shift(1, 0.3))
    assert torch.equal(shifted, again) and not torch.equal(shifted, images)
