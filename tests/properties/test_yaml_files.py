"""Whatever a file holds, reading it as a spec ends soon: with a spec, or with places and words."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from carectl import identity, specs, yamlpos
from carectl.places import MAX_TOLD
from carectl.specs import Resolved, SpecFileError
from carectl.yamlpos import MAX_BYTES
from properties.generating import cases
from properties.test_spec_values import flow, good, put, told

PIECES = [
    "name", "data", "digits", "a", ":", ": ", "- ", "-", "? ", "[", "]", "{", "}", ",", "&a ", "*a",
    "!t ", "!!python/object/apply:os.system [id]", "|", "|9", ">-", "%YAML 1.1", "%TAG ! a", "---",
    "...", "#", "'", '"', "\\x", "\\U00110000", "\\ud800", "\n", "\n ", "\n  ", "\t", "\r", "\r\n",
    "\x85", "\u2028", "\ufeff", "\x00", "@", "`", "<<", "~", "null", "1e400", "0x", "0o9", ".nan",
    "\U0001f600",
]  # fmt: skip
GOOD = "name: a\ndata: {name: digits}\n"


def resolved(folder: Path, raw: bytes, overrides: tuple[str, ...] = ()) -> Resolved | str:
    path = folder / "file.yaml"
    path.write_bytes(raw)
    try:
        return specs.resolve(path, overrides)
    except SpecFileError as error:
        return told(error, (str(path), "-o "))


@cases(320)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.lists(st.sampled_from(PIECES), max_size=25).map(lambda p: "".join(p).encode()),
        st.lists(st.sampled_from(PIECES), max_size=8).map(lambda p: (GOOD + "".join(p)).encode()),
        st.binary(max_size=8).map(lambda raw: GOOD.encode() + raw),
    )
)
@example(b"")
@example(GOOD.encode("utf-16"))
@example(b'x: "\\U00110000"')
@example(b'x: "\\UFFFFFFFF"')
@example(b"%YAML 1." + b"9" * 5000 + b"\n---\n" + GOOD.encode())
@example(GOOD.encode() + b"seed: 0x" + b"f" * 5000)
@example(GOOD.encode() + b"seed: " + b"9" * 5000)
@example(GOOD.encode() + b"training: {epochs: 1" + b"0" * 400 + b"}")
@example(GOOD.encode() + b"probe: {linear: {seeds: [a, -1]}}")
def test_any_bytes_are_a_spec_or_mistakes_with_places(folder: Path, raw: bytes) -> None:
    found = resolved(folder, raw)
    if isinstance(found, Resolved):
        good(found, folder)


def test_a_list_of_wrong_items_is_not_said_to_be_short(folder: Path) -> None:
    text = resolved(folder, GOOD.encode() + b"probe: {linear: {seeds: [a, -1]}}")
    assert "seeds[0]: must be a whole number" in str(text)
    assert "at least" not in str(text)


LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "anchors (&a0) are not allowed"),
        ("[" * 150_000, "nested more than 40 deep"),
        ("{a: " * 40_000, "nested more than 40 deep"),
        ("- " * 50_000, "nested more than 40 deep"),
        ("? " * 50_000, "nested more than 40 deep"),
        ("".join(" " * i + "a:\n" for i in range(300)), "nested more than 40 deep"),
        ("x: 1\n" * 3000, "is set twice"),
        ("x: [" + "*a," * 2000 + "]", "aliases"),
        (GOOD + "".join(f"k{i}: 1\n" for i in range(2000)), "unknown key"),
    ],
)  # fmt: skip
def test_a_bomb_is_refused_and_told_in_few_words(folder: Path, text: str, said: str) -> None:
    path = folder / "bomb.yaml"
    path.write_text(text)
    with pytest.raises(SpecFileError) as caught:
        specs.resolve(path)
    assert said in str(caught.value)
    assert len(caught.value.problems) <= MAX_TOLD
    assert len(str(caught.value)) < 50_000


def test_of_very_many_mistakes_the_first_are_told_and_the_others_counted(folder: Path) -> None:
    text = resolved(folder, (GOOD + "".join(f"k{i}: 1\n" for i in range(500))).encode())
    assert isinstance(text, str)
    assert text.count("unknown key") == MAX_TOLD
    assert f"{500 - MAX_TOLD} more mistakes" in text


@pytest.mark.parametrize("size", [10**7, 10**13])
def test_a_file_too_large_is_refused_by_its_limit_without_being_read(
    folder: Path, size: int
) -> None:
    path = folder / "large.yaml"
    path.write_text(GOOD)
    os.truncate(path, size)  # a hole: who reads it all runs out of memory
    with pytest.raises(SpecFileError, match=f"is larger than {MAX_BYTES // 1000} kB"):
        specs.resolve(path)


def test_a_file_that_cannot_be_read_is_told_by_its_name(folder: Path) -> None:
    with pytest.raises(SpecFileError, match=r"file\.yaml/x\.yaml:1:1: cannot be read \(Not a dir"):
        (folder / "file.yaml").write_text("")
        specs.resolve(folder / "file.yaml" / "x.yaml")


# ── a spec that is valid ────────────────────────────────────────────────────────────────────────

SETTINGS: dict[str, st.SearchStrategy[Any]] = {
    "seed": st.integers(0, 2**31 - 1),
    "fidelity": st.sampled_from(["paper", "official"]),
    "augment.hue": st.floats(0, 0.5),
    "augment.crop_scale": st.tuples(st.floats(0.01, 0.5), st.floats(0.5, 1)).map(list),
    "data.mean": st.lists(st.floats(-2, 2), min_size=3, max_size=3),
    "model.hidden": st.integers(1, 4096),
    "equivariance.weight": st.floats(0, 1e6),
    "equivariance.crop": st.booleans(),
    "equivariance.shared_by": st.sampled_from(["split", "step", 4]),
    "optimizer.lr": st.floats(1e-300, 1e300),
    "optimizer.name": st.sampled_from(["adam", "sgd", "lars"]),
    "schedule": st.sampled_from(
        [{"name": "cosine"}, {"name": "multistep", "milestones": [1, 2], "gamma": 0.5}]
    ),
    "training.epochs": st.integers(10, 10**6),
    "checkpoint.keep": st.sampled_from(["last", "all", 7]),
    "checkpoint.every_minutes": st.none() | st.floats(0.1, 1e6),
    "launch.sbatch": st.dictionaries(
        st.from_regex(r"x[a-z0-9-]{0,8}", fullmatch=True),
        st.one_of(
            st.text(st.characters(exclude_categories=["C", "Zl", "Zp", "Zs"]), max_size=9),
            st.integers(-(2**60), 2**60), st.booleans(),
        ),
        max_size=2,
    ),
    "launch.setup": st.lists(
        st.sampled_from(["module load a", "yes", "1e3", "- x", "a: b", "é #", "0x1"]), max_size=2
    ),
    "probe.linear.seeds": st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=3),
    "probe.knn.temperature": st.floats(1e-6, 1e6),
}  # fmt: skip
SMALL = {"name": "a/b", "data": {"name": "digits"}, "training": {"batch_size": 128}}


@st.composite
def valid_settings(draw: st.DrawFn) -> dict[str, Any]:
    keys = draw(st.lists(st.sampled_from(sorted(SETTINGS)), unique=True, max_size=5))
    return {key: draw(SETTINGS[key]) for key in keys}


def shuffled(values: Any, source: random.Random) -> Any:
    if not isinstance(values, dict):
        return values
    keys = source.sample(list(values), len(values))
    return {key: shuffled(values[key], source) for key in keys}


@cases(80)
@given(valid_settings(), st.randoms(use_true_random=False), st.data())
def test_a_spec_is_the_same_however_it_is_written(
    folder: Path, settings: dict[str, Any], source: random.Random, data: st.DataObject
) -> None:
    """In any order of its keys, in blocks or braces or JSON, in the file or on the command line."""
    values = json.loads(json.dumps(SMALL))
    for key, value in settings.items():
        put(values, key, value)
    one = resolved(folder, flow(values).encode())
    assert isinstance(one, Resolved)
    good(one, folder)
    blocks = yaml.dump(shuffled(values, source), Dumper=yamlpos.Dumper, sort_keys=False)
    moved = data.draw(st.sets(st.sampled_from(sorted(settings)))) if settings else set()
    rest = json.loads(json.dumps(SMALL))
    for key in settings.keys() - moved:
        put(rest, key, settings[key])
    overrides = source.sample(sorted(moved), len(moved))
    spaced = [f"{key}={source.choice(['', ' '])}{flow(settings[key])}" for key in overrides]
    others = [
        resolved(folder, ("\ufeff# a comment\n" + blocks).encode()),
        resolved(folder, flow(shuffled(rest, source)).encode(), tuple(spaced)),
        resolved(folder, GOOD.encode(), (*_dotted(values), *spaced)),
    ]
    for other in others:
        assert isinstance(other, Resolved), other
        assert other.spec == one.spec
        marks = [identity.of_pretrain(r.spec, "0" * 64) for r in (one, other)]
        assert marks[0] == marks[1]


def _dotted(values: dict[str, Any], at: str = "") -> list[str]:
    """A spec's settings as overrides, one each."""
    found = []
    for key, value in values.items():
        if isinstance(value, dict) and key != "sbatch" and value:
            found += _dotted(value, f"{at}{key}.")
        else:
            found.append(f"{at}{key}={flow(value)}")
    return found
