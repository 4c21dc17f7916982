"""Mistakes in specs and grids: all at once, each at its place, in words that say what was meant."""

from __future__ import annotations

import pytest
from spec_files import GOOD, Write, mistakes

from carectl import specs
from carectl.specs import SpecFileError

DATASETS = "digits, cifar10, cifar100, stl10, imagenet100, flowers102, folder, chains, proteins"
METHODS = "simclr, moco, barlow, byol, equimod"


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
         "unknown key; there are: name, image_size, path, points, mean, std, unreadable"),
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
        ("loss: {method: 0}", "loss.method",
         "0 leaves nothing to optimise; give loss.alignment, loss.uniformity or "
         "equivariance.weight a weight, or take 1"),
        ("model: {backbone: timm/resnt18}", "model.backbone",
         "timm has no model 'resnt18', did you mean timm/resnet18?"),
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


def test_required_keys_that_are_missing_are_all_told(write: Write) -> None:
    assert [m[2:] for m in mistakes(write("data: {}\n"))] == [
        ("name", "is required"),
        ("data.name", f"is required; one of {DATASETS}"),
    ]


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
