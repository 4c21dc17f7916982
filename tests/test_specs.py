"""Spec files: found, read as YAML 1.2, overridden, and written again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from spec_files import GOOD, Write, mistakes

from care_core.spec import PretrainSpec
from carectl import specs
from carectl.errors import CommandError
from carectl.specs import SpecFileError
from carectl.yamlpos import MAX_BYTES


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("", (1, 1), "is empty"),
        ("# nothing\n", (1, 1), "is empty"),
        ("- a\n", (1, 1), "not a list"),
        ("just words\n", (1, 1), "not a single value"),
        ("a: 1\na: 2\n", (2, 1), "set twice, first on line 1"),
        ("a: {b: 1, b: 2}\n", (1, 11), "set twice, first on line 1"),
        ("a: &x 1\n", (1, 4), "anchors (&x) are not allowed"),
        ("a: 1\nb: *x\n", (2, 4), "aliases (*x) are not allowed"),
        ("a: !!python/object/apply:os.system [ls]\n", (1, 4), "tags (!!python/object/apply:os"),
        ("a: !own 1\n", (1, 4), "tags (!own) are not allowed"),
        ("a:\n\tb: 1\n", (2, 1), "a tab cannot"),
        ("a: 1\n---\nb: 1\n", (2, 1), "a second document"),
        ("a: [1, 2\nb: 3\n", (2, 2), "expected ',' or ']'"),
        ("a: 1\nb: \x01\n", (2, 4), "character U+0001 is not allowed"),
        ("? [a]\n: 1\n", (1, 3), "a key must be a single word"),
        ("[" * 5000, (1, 41), "nested more than 40 deep"),
        ('name: "\\ud800"\n', (1, 7), "half a character"),
        (b"a: 1\nb: \xff\n", (2, 4), "not UTF-8 text: byte 0xff"),
        (b"a: " + b"x" * MAX_BYTES, (1, 1), "larger than 200 kB"),
    ],
)  # fmt: skip
def test_bad_yaml_is_refused_at_its_place(
    write: Write, text: str | bytes, place: tuple[int, int], message: str
) -> None:
    first = mistakes(write(text))[0]
    assert first[:2] == place
    assert message in first[3]


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("1E+2", 100.0), (".5", 0.5), ("5.", 5.0), ("2", 2.0), ("010", 10.0)],
)
def test_numbers_are_those_of_yaml_1_2(write: Write, text: str, value: float) -> None:
    assert specs.load(write(GOOD + f"optimizer: {{lr: {text}}}\n")).optimizer.lr == value


@pytest.mark.parametrize("word", ["on", "off", "yes", "no", "y", "2020-01-01"])
def test_words_that_yaml_1_1_takes_for_something_else_stay_text(write: Write, word: str) -> None:
    assert specs.load(write(f"name: {word}\ndata: {{name: digits}}\n")).name == word


def test_a_byte_order_mark_is_ignored(write: Write) -> None:
    assert specs.load(write(b"\xef\xbb\xbf" + GOOD.encode())).name == "a"


def test_overrides_are_yaml_and_the_last_wins(write: Write) -> None:
    path = write(GOOD + "optimizer: {name: sgd, lr: 1}\n")
    spec = specs.load(path, ["optimizer.lr=5", "optimizer.lr=1e-2", "schedule.milestones=[3, 5]",
                             "training={epochs: 7}"])  # fmt: skip
    assert (spec.optimizer.name, spec.optimizer.lr) == ("sgd", 0.01)
    assert spec.schedule.milestones == (3, 5)
    assert spec.training.epochs == 7


def test_an_override_can_mend_a_file(write: Write) -> None:
    assert specs.load(write(GOOD + "seed: -1\n"), ["seed=3"]).seed == 3


def test_a_loaded_spec_can_be_overridden_under_the_same_checks(spec: PretrainSpec) -> None:
    assert specs.override(spec, ["probe.knn.k=5"]).probe.knn.k == 5
    assert specs.override(spec, []) == spec
    with pytest.raises(SpecFileError, match=r"-o training.batch_size=72:1:21: equivariance.splits"):
        specs.override(spec, ["training.batch_size=72"])


@pytest.mark.parametrize("name", ["tiny", "1e3", "on", "010", "2020-01-01", "1.5", "null", "true"])
def test_dump_and_load_give_an_equal_spec(spec: PretrainSpec, write: Write, name: str) -> None:
    named = PretrainSpec.model_validate({**spec.model_dump(), "name": name})
    assert specs.load(write(specs.dump(named))) == named


def test_dump_shows_the_defaults(write: Write) -> None:
    assert "temperature: 0.5" in specs.dump(specs.load(write(GOOD)))


def test_find_takes_a_path_and_a_shipped_name(write: Write) -> None:
    path = write(GOOD)
    assert specs.find(str(path)) == path
    assert specs.load(specs.find("digits/care-simclr")).name == "digits/care-simclr"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("digits/care-simcrl", "did you mean 'digits/care-simclr'"),
        ("", r"one of: .*digits/\{barlow, .*care-simclr"),
        ("../experiments/digits/simclr", "no spec"),
    ],
)
def test_find_names_what_comes_close(text: str, said: str) -> None:
    with pytest.raises(CommandError, match=said):
        specs.find(text)


def test_find_names_a_file_that_comes_close(write: Write) -> None:
    path = write(GOOD)
    with pytest.raises(CommandError, match=f"did you mean '{path}'"):
        specs.find(str(path.with_name("spce.yaml")))


def test_a_folder_and_a_link_to_nowhere_are_not_proposed_in_their_own_place(tmp_path: Path) -> None:
    (tmp_path / "lost.yaml").symlink_to(tmp_path / "lost.yaml")
    with pytest.raises(CommandError) as told:
        specs.find(str(tmp_path / "lost.yaml"))
    assert "did you mean" not in str(told.value)
    (tmp_path / "mine.yaml").mkdir()
    with pytest.raises(CommandError, match="is a folder; give a spec file in it"):
        specs.find(str(tmp_path / "mine.yaml"))


def test_the_schema_describes_every_section() -> None:
    described = specs.schema()["properties"]
    assert set(described) == {*PretrainSpec.model_fields, "official"}
    assert len(described["method"]["oneOf"]) == 5


def test_reading_a_spec_needs_no_torch() -> None:
    code = (
        "import sys; from carectl import specs; specs.load(specs.find('digits/simclr'));"
        "specs.load_grid(specs.find('table1'));"
        "sys.exit(any(m in sys.modules for m in ('torch', 'mlflow', 'submitit', 'torchvision')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
