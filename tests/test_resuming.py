"""A stopped run of any method goes on as if it had not been; on other ranks only if asked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FAST, tiny
from ranks import After, Launch, assert_as_uninterrupted, left, newest, rows, run

from care_core import checkpoint, pretrain
from care_core.errors import Interrupted, SpecError
from care_core.files import read_json
from care_core.spec import PretrainSpec

BYOL = {"name": "byol", "momentum": 0.9, "hidden": 16}
MODULE = {"name": "equimod", "hidden": 16, "embedding": 8}
MOCO = {"name": "moco", "queue": 1024, "momentum": 0.9}
#: Methods, with a state of their own beside the encoder.
METHODS: dict[str, dict[str, Any]] = {
    "moco": {"method": MOCO},
    "barlow": {"method": {"name": "barlow"}, "optimizer": {"name": "lars", "momentum": 0.9}},
    "byol": {"method": BYOL, "optimizer": {"name": "sgd", "momentum": 0.9, "lr": 0.1}},
    "equimod of byol": {"method": {**MODULE, "base": BYOL}},
    "replicas": {"method": MOCO, "bn": {"replicas": 2, "views": "together"}},
}


def spec_of(name: str, **changes: Any) -> PretrainSpec:
    """Two epochs of five steps."""
    training = {"epochs": 2, "batch_size": 256}
    return tiny(**{**FAST, **METHODS[name], **changes, "training": training})


@pytest.mark.parametrize("name", METHODS)
def test_a_stopped_run_of_any_method_goes_on_as_if_it_had_not_been(
    tmp_path: Path, name: str
) -> None:
    spec = spec_of(name)
    pretrain(spec, tmp_path / "whole", threads=1)
    for steps in (3, 4):  # after step 3, and again after step 7
        with pytest.raises(Interrupted):
            pretrain(spec, tmp_path / "cut", threads=1, stop=After(steps))
    pretrain(spec, tmp_path / "cut", threads=1)
    assert_as_uninterrupted(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("moco", {}),
        ("moco", {"bn": {"sync": True}}),
        ("equimod of byol", {"loss": {"uniformity": 0.1}}),
    ],
    ids=["moco, shuffled", "moco, synchronised", "equimod"],
)
def test_two_ranks_that_are_stopped_go_on_as_if_they_had_not_been(
    launch: Launch, tmp_path: Path, name: str, changes: dict[str, Any]
) -> None:
    spec = spec_of(name, **changes)
    run(launch, tmp_path / "whole", spec)
    run(launch, tmp_path / "cut", spec, stop_at={"1": 4})
    run(launch, tmp_path / "cut", spec)
    assert_as_uninterrupted(tmp_path / "cut", tmp_path / "whole", 2)


@pytest.fixture(scope="module")
def stopped(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks that stopped after step 7 of 15."""
    folder = tmp_path_factory.mktemp("stopped")
    run(launch, folder, tiny(**FAST), stop_at={"0": 7})
    return folder


def copied(stopped: Path, to: Path) -> Path:
    """A run folder of its own."""
    (to / "checkpoints").mkdir(parents=True)
    for path in (stopped / "metrics.jsonl", *(stopped / "checkpoints").iterdir()):
        (to / path.relative_to(stopped)).write_bytes(path.read_bytes())
    return to


def test_a_run_of_another_number_of_ranks_is_refused_with_what_would_change(
    launch: Launch, tmp_path: Path, stopped: Path
) -> None:
    with pytest.raises(SpecError) as caught:
        pretrain(tiny(**FAST), stopped, threads=1)
    said = str(caught.value)
    assert said.startswith(f"{stopped} holds a run of 2 rank(s), not 1; go on with 2, or set laun")
    assert "batch norm sees 256 images instead of 128" in said
    assert "bitwise neither run" in said
    for rank in run(launch, copied(stopped, tmp_path / "4"), tiny(**FAST), size=4):
        kind, sentence = rank["error"]
        assert kind == "SpecError" and "a run of 2 rank(s), not 4" in sentence
        assert "batch norm sees 64 images instead of 128" in sentence
    assert not (tmp_path / "4" / "result.json").exists()


@pytest.mark.parametrize("size", [1, 4])
def test_a_run_goes_on_with_another_number_of_ranks_if_asked_and_says_what_changes(
    launch: Launch, tmp_path: Path, stopped: Path, size: int
) -> None:
    spec = tiny(**FAST, launch={"threads": 1, "resize": True})
    folder = copied(stopped, tmp_path / "run")
    before = newest(folder)
    ranks = run(launch, folder, spec, size=size)
    said = ranks[0]["said"]
    assert said[0].startswith(f"going on with {size} rank(s) instead of 2, which changes: ")
    assert f"batch norm sees {256 // size} images instead of 128" in said[0]
    assert said[1] == "resuming after step 7 of 15"
    assert read_json(folder / "result.json")["steps"] == 15
    assert [step for key, _, step in rows(folder) if key == "loss"] == list(range(1, 16))
    after = newest(folder)
    assert (before["ranks"], after["ranks"]) == (2, size)
    name = "encoder.backbone.1.num_batches_tracked"
    assert left(folder, size)[0]["buffers"][name] == 15 * 4  # it went on, it did not begin again


def test_a_checkpoint_of_another_number_of_ranks_begins_with_the_mean_statistics(
    launch: Launch, tmp_path: Path, stopped: Path
) -> None:
    """Which a step's passes then move by a share."""
    spec = tiny(**FAST, launch={"threads": 1, "resize": True})
    folder = copied(stopped, tmp_path / "run")
    saved = newest(folder)
    name = "encoder.backbone.1.running_mean"
    own = saved["statistics"][name]
    assert not torch.equal(own[0], own[1])
    torch.testing.assert_close(saved["model"][name.removeprefix("encoder.")], own.mean(dim=0))
    (rank,) = run(launch, folder, spec, size=1, stop_at={"0": 1})
    now = newest(folder)["statistics"][name]
    assert now.shape[0] == 1 and torch.equal(now[0], rank["buffers"][name])
    # a pass a view moves them by a tenth of the way each
    assert (now[0] - own.mean(dim=0)).norm() < (1 - 0.9**4) * own.norm()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"loss": {"negatives": "local"}}, "a loss compares 128 images instead of 256"),
        ({"augment": {"ranks": "alike"}}, r"2 rank\(s\) draw the same augmentations instead of 1"),
        ({"bn": {"replicas": 2}}, "batch norm sees 64 images instead of 128"),
        (
            {"equivariance": {"weight": 0.1, "splits": 16, "shared_by": 64}},
            "other images feed the equivariance term or share its augmentations",
        ),
    ],
)
def test_all_that_depends_on_the_number_of_ranks_is_said(
    launch: Launch, tmp_path: Path, setting: dict[str, Any], said: str
) -> None:
    spec = tiny(**FAST, **setting)
    with pytest.raises(Interrupted):
        pretrain(spec, tmp_path, threads=1, stop=After(1))
    sentence = run(launch, tmp_path, spec)[0]["error"][1]
    assert re.search(said, sentence), sentence


def test_what_has_no_effect_on_one_rank_does_not_refuse_it_and_on_two_it_does(
    launch: Launch, tmp_path: Path, stopped: Path
) -> None:
    with pytest.raises(Interrupted):
        pretrain(tiny(**FAST), tmp_path / "1", threads=1, stop=After(1))
    idle = tiny(
        **FAST, name="another", bn={"sync": True}, loss={"negatives": "local"},
        augment={"ranks": "alike"}, checkpoint={"keep": "all"},
    )  # fmt: skip
    with pytest.raises(Interrupted, match="after step 2"):
        pretrain(idle, tmp_path / "1", threads=1, stop=After(1))
    for number, change in enumerate(
        ({"bn": {"sync": True}}, {"loss": {"negatives": "local"}}, {"augment": {"ranks": "alike"}})
    ):
        folder = copied(stopped, tmp_path / f"2-{number}")
        found = run(launch, folder, tiny(**FAST, **change))
        for kind, sentence in (rank["error"] for rank in found):
            assert kind == "SpecError" and "holds a run of another spec" in sentence


def test_a_folder_of_another_spec_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        pretrain(tiny(**FAST), tmp_path, threads=1, stop=After(1))
    for change in ({"seed": 1}, {"method": MOCO}, {"equivariance": {"weight": 0.2}}):
        with pytest.raises(SpecError, match=r"holds a run of another spec .*take an empty folder"):
            pretrain(tiny(**FAST, **change), tmp_path, threads=1)
    assert [entry.step for entry in checkpoint.entries(tmp_path / "checkpoints")] == [1]
