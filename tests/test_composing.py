"""The composition probe, on encoders of which is known whether their rotations compose."""

from __future__ import annotations

import math
from pathlib import Path

import digit_files
import eyes
import pytest
from conftest import tiny

from care_core import models
from care_core.files import read_json
from care_core.measures import composition
from care_core.models import Encoder


def measure(encoder: Encoder, untrained: Encoder, folder: Path) -> dict[str, float]:
    train, test = digit_files.digits("train", 200), digit_files.digits("test", 100)
    spec = eyes.spec(composition={"pairs": 3, "images": 150})
    return composition.measure(spec, encoder, untrained, train, test, folder)


def test_shifts_of_the_hue_compose_where_they_are_rotations(tmp_path: Path) -> None:
    found = measure(eyes.Circle(), models.build(tiny()).eval(), tmp_path)
    assert found["error"] < 0.02 and found["error_median"] < 0.02
    assert found["displacement"] > 0.3 and found["rank"] == 2
    assert found["held"] == pytest.approx(1)
    assert found["error_identity"] == 1
    assert found["untrained_error"] > 5 * found["error"]
    assert found["untrained_rank"] >= 2 and found["untrained_displacement"] > 0
    drawn = read_json(tmp_path / "artifacts" / "composition.json")
    assert (drawn["fitted_on"], drawn["read_on"]) == (150, 100)
    assert len(drawn["pairs"]) == 3 and all(len(pair) == 2 for pair in drawn["pairs"])
    errors = [row["error"] for row in drawn["trained"]]
    assert sum(errors) / 3 == pytest.approx(found["error"])
    for (a, b), row in zip(drawn["pairs"], drawn["trained"], strict=True):
        turn = a["jitter"]["hue"] + b["jitter"]["hue"]
        assert row["displacement"] == pytest.approx(2 * abs(math.sin(math.pi * turn)), abs=0.03)


def test_of_an_embedding_that_does_not_move_no_error_is_told(tmp_path: Path) -> None:
    found = measure(eyes.Constant(), eyes.Circle(), tmp_path)
    assert math.isnan(found["error"]) and math.isnan(found["error_median"])
    assert found["displacement"] == pytest.approx(0, abs=1e-6)
    assert found["untrained_error"] < 0.02
