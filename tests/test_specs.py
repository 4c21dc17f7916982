"""Spec files: every mistake at its place, in words that say what was meant."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from care_core.spec import PretrainSpec
from carectl import specs
from carectl.errors import CommandError
from carectl.specs import SpecFileError
from carectl.yamlpos import MAX_BYTES

GOOD = "name: a\ndata: {name: digits}\n"
DATASETS = "digits, cifar10, cifar100, stl10, imagenet100, flowers102, folder, chains, proteins"
METHODS = "simclr, moco, barlow, byol, equimod"
Write = Callable[[str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def put(text: str | bytes) -> Path:
        path = tmp_path / "spec.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return put


def mistakes(path: Path, *overrides: str) -> list[tuple[int, int, str, str]]:
    """(line, column, key, message) of every problem."""
    with pytest.raises(SpecFileError) as caught:
        specs.load(path, overrides)
    return [(p.line, p.column, p.key, p.message) for p in caught.value.problems]


def test_all_mistakes_are_told_at_once_each_at_its_place(write: Write) -> None:
    path = write(
        "name: a\n"
        "data: {name: cifra10}\n"
        "seed: -1\n"
        "augment:\n"
        "  crop_scale: [0.5, 0.1]\n"
        "  blur_kernel: 4\n"
        "equivariance:\n"
        "  weight: 0.1\n"
        "  splits: 7\n"
        "schedule:\n"
        "  warmup_epochs: 20\n"
        "training:\n"
        "  epochs: 10\n"
        "  batchsize: 64\n"
        "  batch_size: 64\n"
    )
    assert mistakes(path) == [
        (2, 14, "data.name",
         f"must be one of {DATASETS}, not 'cifra10', did you mean 'cifar10' or 'cifar100'?"),
        (3, 7, "seed", "must be ≥ 0, not -1"),
        (5, 15, "augment.crop_scale", "the lower end 0.5 is above the upper end 0.1"),
        (6, 16, "augment.blur_kernel", "must be odd, not 4"),
        (11, 18, "schedule.warmup_epochs", "20 leaves nothing of 10 epochs"),
        (14, 3, "training.batchsize", "unknown key, did you mean 'batch_size'?"),
    ]  # fmt: skip


def test_a_cross_field_mistake_is_told_beside_an_unrelated_one(write: Write) -> None:
    path = write(GOOD + "sed: 1\nequivariance: {weight: 1, splits: 7}\n")
    assert [(line, column, key) for line, column, key, _ in mistakes(path)] == [
        (3, 1, "sed"),
        (4, 35, "equivariance.splits"),
    ]


@pytest.mark.parametrize(
    "wrong", ["training: {batch_size: x}", "training: {batchsize: 70}", "batch_size: 70"]
)
def test_a_cross_field_mistake_is_not_guessed_from_a_default(write: Write, wrong: str) -> None:
    path = write(GOOD + wrong + "\nequivariance: {weight: 1, splits: 7}\n")
    assert len(mistakes(path)) == 1


def test_a_cross_field_mistake_of_an_unwritten_key_points_at_its_section(write: Write) -> None:
    path = write(GOOD + "training: {batch_size: 100}\nequivariance:\n  weight: 1\n")
    assert [m[:3] for m in mistakes(path)] == [(4, 1, "equivariance.splits")]


def test_a_problem_is_shown_with_its_source_line_and_a_caret(write: Write) -> None:
    path = write(GOOD + "equivariance:\n  weight: -1\n")
    with pytest.raises(SpecFileError) as caught:
        specs.load(path)
    assert str(caught.value) == (
        f"{path}:4:11: equivariance.weight: must be ≥ 0, not -1\n    weight: -1\n            ^"
    )


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ("lr: 1", "lr", "unknown key, did you mean 'optimizer.lr' or 'probe.linear.optimizer.lr'?"),
        ("method: {temprature: 1}", "method.temprature",
         "unknown key, did you mean 'temperature'?"),
        ("data: {x: 1, name: digits}", "data.x",
         "unknown key; there is: name, image_size, path, points, mean, std, unreadable"),
        ("probe: {data: {name: stl10, pth: a}}", "probe.data.pth",
         "unknown key, did you mean 'path'?"),
        ("queue: 1", "queue", "unknown key, did you mean 'method.queue'?"),
        ("equivariance: {shared_by: stp}", "equivariance.shared_by",
         "must be one of split, step or a whole number, not 'stp', did you mean 'step'?"),
        ("checkpoint: {keep: lst}", "checkpoint.keep",
         "must be one of last, all or a whole number, not 'lst', did you mean 'last'?"),
        ("checkpoint: {keep: 0}", "checkpoint.keep", "must be one of last, all or ≥ 1, not 0"),
        ("optimizer: {lr: 0}", "optimizer.lr", "must be > 0, not 0"),
        ("optimizer: {lr: .inf}", "optimizer.lr", "must be a finite number, not inf"),
        ("optimizer: {lr: '1'}", "optimizer.lr", "must be a number, not '1'"),
        ("seed: true", "seed", "must be a whole number, not true"),
        ("training: {epochs: 1.5}", "training.epochs", "must be a whole number, not 1.5"),
        ("model: {width: 8}", "model.width",
         "only the small backbone and deepset have one; resnet50 is fixed"),
        ("augment: {crop_ratio: [1]}", "augment.crop_ratio", "must have at least 2 items"),
        ("augment:", "augment", "must be a section of key: value lines, not empty"),
        ("schedule: {milestones: [1, x]}", "schedule.milestones[1]",
         "must be a whole number, not 'x'"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_plain_words(write: Write, text: str, key: str, message: str) -> None:
    good = "name: a\n" if text.startswith("data") else GOOD
    assert [m[2:] for m in mistakes(write(good + text + "\n"))] == [(key, message)]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("partition: 'gpu; touch x'", "launch.partition"),
        ('partition: "gpu\\n#SBATCH --uid=0"', "launch.partition"),
        ("account: --wrap", "launch.account"),
        ("qos: 'a b'", "launch.qos"),
        ("constraint: '$(id)'", "launch.constraint"),
        ("exclude: 'n1`id`'", "launch.exclude"),
        ("mem: 64GB --uid=0", "launch.mem"),
        ("time: 1:2:3:4", "launch.time"),
        ('sbatch: {reservation: "x\\ny"}', "launch.sbatch"),
        ("sbatch: {array: 0-9}", "launch.sbatch"),
        ("sbatch: {'a=b --uid': 1}", "launch.sbatch"),
        ('setup: ["a\\nb"]', "launch.setup"),
        ("setup: ['#SBATCH --uid=0']", "launch.setup"),
    ],
)
def test_a_launch_value_that_could_become_more_than_a_value_is_refused(
    write: Write, text: str, key: str
) -> None:
    assert [m[2] for m in mistakes(write(GOOD + f"launch: {{{text}}}\n"))] == [key]


@pytest.mark.parametrize(
    ("time", "minutes"), [("90", 90), ("1:30", 90), ("2-00:00:30", 2881), ("0:00:10", 1)]
)
def test_a_time_limit_is_minutes_or_slurms_clock(write: Write, time: str, minutes: int) -> None:
    assert specs.load(write(GOOD + f"launch: {{time: {time}}}\n")).launch.minutes == minutes


@pytest.mark.parametrize(
    ("text", "place", "key", "message"),
    [
        ("method: {name: mocoo}", (3, 16), "method.name",
         f"must be one of {METHODS}, not 'mocoo', did you mean 'moco'?"),
        ("method: {name: 3}", (3, 16), "method.name", f"must be one of {METHODS}, not 3"),
        ("method: moco", (3, 9), "method",
         "must be a section of key: value lines, not 'moco', did you mean {name: moco}?"),
        ("method:", (3, 8), "method", "must be a section of key: value lines, not empty"),
        ("method: {name: moco, queu: 3}", (3, 22), "method.queu",
         "unknown key, did you mean 'queue'?"),
        ("method: {name: moco, temperature: -1}", (3, 35), "method.temperature",
         "must be > 0, not -1"),
        ("method: {name: barlow, temperature: 1}", (3, 24), "method.temperature",
         "unknown key of this method; simclr, moco and equimod have it"),
        ("method: {name: byol, queue: 512}", (3, 22), "method.queue",
         "unknown key of this method; moco has it"),
        ("method: {name: equimod, base: {name: moco}}", (3, 38), "method.base.name",
         "must be one of simclr, byol, not 'moco'"),
        ("method: {name: equimod, base: {name: byol, momentum: 2}}", (3, 54),
         "method.base.momentum", "must be ≤ 1, not 2"),
        ("method: {name: equimod, base: {name: byol, temperature: 1}}", (3, 44),
         "method.base.temperature", "unknown key of this base; simclr has it"),
        ("method: {name: moco, queue: 1000}", (3, 29), "method.queue",
         "1000 keys are not a multiple of the batch of 256, which is put in at each step; "
         "take 1024"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_method_is_told_in_the_methods_own_words(
    write: Write, text: str, place: tuple[int, int], key: str, message: str
) -> None:
    assert mistakes(write(f"{GOOD}{text}\n")) == [(*place, key, message)]


@pytest.mark.parametrize("wrong", ["method: {name: mo, queue: 1000}", "training: {batch_size: x}"])
def test_a_queue_is_not_judged_by_a_method_or_batch_that_is_itself_wrong(
    write: Write, wrong: str
) -> None:
    rest = "" if wrong.startswith("method") else "method: {name: moco, queue: 1000}\n"
    assert len(mistakes(write(f"{GOOD}{wrong}\n{rest}"))) == 1


def test_another_method_keeps_the_keys_that_it_has_too(write: Write) -> None:
    path = write(GOOD + "method: {name: simclr, temperature: 0.3}\n")
    assert specs.load(path, ["method.name=moco"]).method.model_dump() == {
        "name": "moco", "temperature": 0.3, "queue": 65536, "momentum": 0.999, "shuffle_bn": True,
    }  # fmt: skip
    assert specs.load(path, ["method.name=barlow"]).method.name == "barlow"
    based = specs.load(path, ["method={name: equimod}", "method.base.name=byol"]).method
    assert based.model_dump()["base"]["name"] == "byol"


def test_another_method_drops_nothing_that_was_asked_for_or_is_misspelt(write: Write) -> None:
    path = write(GOOD + "method: {name: simclr, temprature: 0.3}\n")
    asked = ["method.temperature=0.2", "method.name=barlow"]
    told = [key for _, _, key, _ in mistakes(path, *asked)]
    assert told == ["method.temprature", "method.temperature"]


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


def test_required_keys_that_are_missing_are_all_told(write: Write) -> None:
    assert [m[2:] for m in mistakes(write("data: {}\n"))] == [
        ("name", "is required"),
        ("data.name", f"is required; one of {DATASETS}"),
    ]


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


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("optimizer.lr=abc", "1:14: optimizer.lr: must be a number, not 'abc'"),
        ("optimizer.lrr=1", "1:11: optimizer.lrr: unknown key, did you mean 'lr'?"),
        ("optimiser.lr=1", "1:1: optimiser: unknown key, did you mean 'optimizer'?"),
        ("seed.x=1", "1:1: seed.x: 'seed' holds a value, not a section of keys"),
        ("schedule.milestones=[1, x]", "1:25: schedule.milestones[1]: must be a whole number"),
        ("optimizer.lr=", "1:14: optimizer.lr: must be a number, not empty"),
        ("optimizer.lr=[1", "1:16: not YAML"),
        ("epochs", "1:1: 'epochs' is not a setting; write key=value"),
        ("=3", "1:1: '=3' is not a setting"),
    ],
)
def test_a_wrong_override_is_shown_at_its_place(write: Write, text: str, place: str) -> None:
    with pytest.raises(SpecFileError) as caught:
        specs.load(write(GOOD + "seed: 0\n"), [text])
    assert len(caught.value.problems) == 1
    assert str(caught.value).startswith(f"-o {text}:{place}")


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


def test_a_grid_has_the_same_errors(write: Write) -> None:
    path = write(
        "title: t\nsource: s\ncolumns: [cifar10]\nprofiles:\n  p: {datasets: [cifar], seed: [0]}\n"
        "rows:\n  SimCLR:\n    cifar10: {mena: 1, sd: -2}\n    cifar1: {mean: 3}\n"
    )
    with pytest.raises(SpecFileError) as caught:
        specs.load_grid(path)
    assert [(p.line, p.column, p.key, p.message) for p in caught.value.problems] == [
        (5, 3, "profiles.p.seeds", "is required"),
        (5, 26, "profiles.p.seed", "unknown key, did you mean 'seeds'?"),
        (8, 15, "rows.SimCLR.cifar10.mena", "unknown key, did you mean 'mean'?"),
        (8, 28, "rows.SimCLR.cifar10.sd", "must be ≥ 0, not -2"),
    ]


def test_a_grids_datasets_must_be_columns(write: Write) -> None:
    path = write(
        "title: t\nsource: s\ncolumns: [cifar10]\nprofiles:\n  p: {datasets: [cifar], seeds: [0]}\n"
        "rows:\n  SimCLR:\n    cifar1: {mean: 3}\n"
    )
    with pytest.raises(SpecFileError) as caught:
        specs.load_grid(path)
    assert [(p.line, p.column, p.key) for p in caught.value.problems] == [
        (5, 17, "profiles.p.datasets"),
        (8, 13, "rows.SimCLR.cifar1"),
    ]


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
