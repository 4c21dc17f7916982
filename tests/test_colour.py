"""The colour probe, on encoders of which is known what they see of it."""

from __future__ import annotations

import io
from pathlib import Path

import digit_files
import eyes
import numpy as np
import pytest
import torch
from conftest import Project, tiny

from care_core.files import read_json
from care_core.measures import colour, embeddings, hue
from care_core.models import Encoder

LAYERS = ("backbone", "projection")


def measure(encoder: Encoder, folder: Path, **settings: object) -> dict[str, float]:
    train, test = digit_files.digits("train", 400), digit_files.digits("test", 200)
    return colour.measure(eyes.spec(colour=settings), encoder, train, test, folder)


def test_an_encoder_that_turns_with_the_hue_is_found_to_keep_the_colour(tmp_path: Path) -> None:
    found = measure(eyes.Circle(), tmp_path)
    for layer in LAYERS:
        assert found[f"agreement_{layer}"] < 0.01
        assert found[f"hue_gap_still_{layer}"] < 0.02 and found[f"hue_gap_moved_{layer}"] < 0.02
        assert found[f"hue_gap_stayed_{layer}"] == pytest.approx(0.2, abs=0.02)
        assert found[f"hue_r2_{layer}"] > 0.999
        assert found[f"hue_shift_r2_{layer}"] < 0.1  # how far is a product of both, and no sum
        assert found[f"hue_shift_r2_products_{layer}"] > 0.99
    assert found["hue_gap_chance"] == pytest.approx(0.25, abs=0.02)


def test_an_encoder_without_an_eye_for_colour_is_found_to_be_blind(tmp_path: Path) -> None:
    found = measure(eyes.Blind(), tmp_path)
    for layer in LAYERS:
        assert found[f"agreement_{layer}"] > 0.99
        assert found[f"hue_gap_moved_{layer}"] == pytest.approx(0.25, abs=0.04)
        assert found[f"hue_r2_{layer}"] < 0.2
        assert found[f"hue_shift_r2_products_{layer}"] < 0.1
        assert found[f"same_class_still_{layer}"] > 0.8  # it sees the digit


def test_what_the_augmentations_leave_alone_is_left_out(tmp_path: Path) -> None:
    found = measure(eyes.Circle(), tmp_path)
    assert not [key for key in found if "crop" in key]
    read = read_json(tmp_path / "artifacts" / "colour.json")["regression"]
    assert set(read) == {"hue_shift", "jitter"}
    assert set(read["jitter"]["backbone"]["linear"]) == {"hue"}


def test_a_brightness_that_the_embedding_holds_is_read_from_the_pair(tmp_path: Path) -> None:
    class Light(eyes.Eye):
        def see(self, images: torch.Tensor) -> torch.Tensor:
            light = images.amax(dim=1).mean(dim=(1, 2))
            return torch.stack([light.clamp_min(1e-3).log(), torch.ones(len(images))], dim=1)

    spec = eyes.spec()
    dark = {**eyes.HUE, "brightness": 0.4, "hue": 0.0, "crop_scale": [0.3, 1.0]}
    spec = type(spec).model_validate({**spec.model_dump(), "augment": dark})
    train, test = digit_files.digits("train", 400), digit_files.digits("test", 200)
    colour.measure(spec, Light(), train, test, tmp_path)
    read = read_json(tmp_path / "artifacts" / "colour.json")["regression"]
    assert set(read) == {"crop", "jitter"}
    assert set(read["crop"]["backbone"]["linear"]) == {"top", "left", "height", "width"}
    for reading in ("linear", "products"):
        assert read["jitter"]["backbone"][reading]["brightness"] > 0.7
        assert read["crop"]["backbone"][reading]["left"] < 0.3


def test_the_pictures_are_those_of_the_queries_and_their_neighbours(tmp_path: Path) -> None:
    measure(eyes.Circle(), tmp_path, queries=3, neighbours=4, images=150)
    told = read_json(tmp_path / "artifacts" / "colour.json")
    pictures = np.load(io.BytesIO((tmp_path / "artifacts" / "colour.npz").read_bytes()))
    test = digit_files.digits("test", 200)
    assert told["images"] == 150 and len(told["queries"]) == 3
    assert pictures["query"].shape == pictures["moved"].shape == (3, 16, 16, 3)
    shifted = hue.of(torch.from_numpy(pictures["moved"]).permute(0, 3, 1, 2))[0]
    assert test.hues is not None
    for number, query in enumerate(told["queries"]):
        own = test.images[query["position"]].permute(1, 2, 0).numpy()
        assert np.array_equal(pictures["query"][number], own)
        assert query["label"] == int(test.labels[query["position"]])
        goal = torch.tensor((query["hue"] + told["hue_shift"]) % 1)
        assert float(hue.distance(shifted[number], goal)) < 0.01
        for layer in LAYERS:
            for name in ("still", "moved"):
                places = query[layer][name]["positions"]
                assert len(places) == 4 and query["position"] not in places
                shown = pictures[f"{layer}_{name}"][number]
                assert np.array_equal(shown, test.images[places].permute(0, 2, 3, 1).numpy())
                assert query[layer][name]["labels"] == test.labels[places].tolist()


def test_large_pictures_are_kept_small_and_hues_are_measured_where_none_are_given(
    tmp_path: Path,
) -> None:
    train, test = (digit_files.digits(split, 60) for split in ("train", "test"))
    sets = []
    for images in (train, test):
        large = torch.nn.functional.interpolate(images.images.float(), (80, 80)).to(torch.uint8)
        sets.append(type(images)(large, images.labels, 10))
    spec = eyes.spec(colour={"queries": 2})
    spec = spec.model_copy(update={"data": spec.data.model_copy(update={"image_size": 80})})
    found = colour.measure(spec, eyes.Circle(), *sets, tmp_path)
    assert read_json(tmp_path / "artifacts" / "colour.json")["hues"] == "measured"
    assert found["hue_r2_backbone"] > 0.99
    pictures = np.load(io.BytesIO((tmp_path / "artifacts" / "colour.npz").read_bytes()))
    assert pictures["backbone_still"].shape == (2, 5, 64, 64, 3)


def test_positions_are_even_over_a_set_that_is_sorted_by_class() -> None:
    assert embeddings.evenly_spaced(7, 20).tolist() == list(range(7))
    assert embeddings.evenly_spaced(100, 4).tolist() == [0, 25, 50, 75]


def test_eval_measures_the_colour_and_the_composition_where_they_are_asked_for(
    project: Project,
) -> None:
    spec = project.write(tiny(training={"epochs": 1, "batch_size": 128}))
    project.carectl("pretrain", spec)
    found = project.json(
        "eval", "tiny-care-simclr", "--probe", "colour", "--probe", "composition",
        "-o", "probe.colour.pairs=100", "-o", "probe.composition.pairs=1",
    )  # fmt: skip
    (run,) = found["runs"]
    assert {"colour", "composition"} < set(run["result"])
    assert not {"linear", "knn", "geometry"} & set(run["result"])
    artifacts = {path.name for path in (project.runs / run["run"] / "artifacts").iterdir()}
    assert {"colour.json", "colour.npz", "composition.json"} <= artifacts
