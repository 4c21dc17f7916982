"""A recipe's official section, and what the fidelity preset chose."""

from __future__ import annotations

import pytest
from spec_files import GOOD, Write, mistakes

from carectl import specs

OFFICIAL = """name: a
data: {name: cifar10}
equivariance: {weight: 0.01, splits: 16}
official:
  equivariance:
    weight: 0.03
  schedule: {milestones: [3, 5]}
"""


def test_the_official_section_lies_over_the_rest_under_its_preset_alone(write: Write) -> None:
    path = write(OFFICIAL)
    assert specs.load(path).equivariance.weight == 0.01
    found = specs.resolve(path, ["fidelity=official"])
    assert (found.spec.equivariance.weight, found.spec.equivariance.splits) == (0.03, 16)
    assert found.official == {"equivariance.weight": 0.03, "schedule.milestones": [3, 5]}
    assert specs.load(write(OFFICIAL + "fidelity: official\n")).equivariance.weight == 0.03
    assert specs.load(path, ["fidelity=official", "fidelity=paper"]).equivariance.weight == 0.01


@pytest.mark.parametrize(
    "overrides",
    [
        ["fidelity=official", "equivariance.weight=0.5"],
        ["equivariance.weight=0.5", "fidelity=official"],
    ],
)
def test_overrides_go_over_the_official_section(write: Write, overrides: list[str]) -> None:
    assert specs.load(write(OFFICIAL), overrides).equivariance.weight == 0.5


def test_a_mistake_in_the_official_section_is_told_where_it_stands(write: Write) -> None:
    wrong = write(OFFICIAL.replace("0.03", "-3"))
    assert mistakes(wrong, "fidelity=official") == [
        (6, 13, "equivariance.weight", "must be ≥ 0, not -3")
    ]
    uneven = write(OFFICIAL.replace("weight: 0.03", "splits: 7"))
    assert mistakes(uneven, "fidelity=official")[0][:3] == (6, 13, "equivariance.splits")


@pytest.mark.parametrize("preset", ["paper", "official"])
@pytest.mark.parametrize(
    ("text", "place", "key", "message"),
    [
        ("official: {equivariance: {wieght: 1}}", (3, 27), "official.equivariance.wieght",
         "unknown key, did you mean 'weight'?"),
        ("official: {fidelity: paper}", (3, 12), "official.fidelity",
         "is official here by itself; leave it out"),
        ("official: 3", (3, 11), "official", "must be a section of key: value lines"),
    ],
)  # fmt: skip
def test_an_official_section_that_makes_no_sense_is_told_under_both_presets(
    write: Write, preset: str, text: str, place: tuple[int, int], key: str, message: str
) -> None:
    told = mistakes(write(f"{GOOD}{text}\n"), f"fidelity={preset}")
    assert told == [(*place, key, message)]


def test_an_official_section_cannot_be_written_on_the_command_line(write: Write) -> None:
    (told,) = mistakes(write(OFFICIAL), "official.seed=3")
    assert told[2:] == (
        "official.seed",
        "is a section of a recipe's file; give the setting itself, without it",
    )


@pytest.mark.parametrize("preset", ["paper", "official"])
def test_a_shown_spec_says_what_the_preset_chose_and_can_be_loaded(
    write: Write, preset: str
) -> None:
    found = specs.resolve(write(OFFICIAL), [f"fidelity={preset}"])
    shown = write(f"{specs.dump(found.spec)}\n{found.comments()}\n")
    assert specs.load(shown) == found.spec
    lines = found.comments().splitlines()
    assert all(line.startswith("#") for line in lines)
    chosen = [line for line in lines if "equivariance.shared_by" in line]
    expected = {
        "paper": "#   1 equivariance.shared_by: split (each split has its own pair",
        "official": "#   1 equivariance.shared_by: step (one pair for all splits of a step",
    }
    assert len(chosen) == 1 and chosen[0].startswith(expected[preset])
    assert any("equivariance.weight: 0.03" in line for line in lines) == (preset == "official")
    assert {one["key"] for one in found.values["preset"]} >= {"bn.sync", "checkpoint.select"}
    again = specs.resolve(shown)
    assert again.chosen == [] and "Nothing is from the preset" in again.comments()
