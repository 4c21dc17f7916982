"""Checkpoints: what is saved comes back, what is damaged or hostile is refused, two always stay."""

from __future__ import annotations

import errno
import io
import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from care_core import checkpoint
from care_core.errors import CheckpointError, StorageError
from care_core.files import read_json, read_whole, storage_error, write_json
from care_core.interchange import official


def state(step: int = 0) -> dict[str, Any]:
    return {
        "model": {"weight": torch.arange(6.0).view(2, 3) + step, "count": torch.tensor(step)},
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]},
        "step": step,
        "spec": "{}",
    }


def save(folder: Path, *places: tuple[int, int]) -> list[checkpoint.Entry]:
    """Checkpoints at (epoch, step); a step that is no multiple of the epoch lies within one."""
    return [
        checkpoint.save(folder, state(step), epoch=e, step=step, whole=e == 0 or step % e == 0)
        for e, step in places
    ]


def steps(folder: Path) -> list[int]:
    return [entry.step for entry in checkpoint.entries(folder)]


class Hostile:
    """Unpickling it creates a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_what_is_saved_is_read_back_bit_by_bit(tmp_path: Path) -> None:
    (entry,) = save(tmp_path / "new" / "folder", (30, 330))
    assert entry.path.name == f"e0030-s00000330-{entry.digest}.pt"
    found, wanted = checkpoint.read(entry.path), state(330)
    for key, value in wanted["model"].items():
        assert torch.equal(found["model"][key], value)
    assert found["optimizer"] == wanted["optimizer"]
    assert (found["step"], found["spec"]) == (330, "{}")
    assert [path.name for path in entry.path.parent.iterdir()] == [entry.path.name]


def test_entries_are_in_the_order_of_steps_and_other_files_are_not_taken_for_one(
    tmp_path: Path,
) -> None:
    save(tmp_path, (9, 99), (10, 110), (2, 22), (10000, 110000))
    for name in ("best.pt", "e0001-s00000011.pt", ".e0001-s00000011-0123456789abcdef.pt.7.tmp"):
        (tmp_path / name).touch()
    assert steps(tmp_path) == [22, 99, 110, 110000]
    assert checkpoint.entries(tmp_path / "none") == []


def test_a_step_saved_again_replaces_its_file(tmp_path: Path) -> None:
    first = checkpoint.save(tmp_path, state(1), epoch=1, step=11)
    second = checkpoint.save(tmp_path, state(2), epoch=1, step=11)
    assert first.digest != second.digest
    assert [path.name for path in tmp_path.iterdir()] == [second.path.name]
    assert checkpoint.save(tmp_path, state(2), epoch=1, step=11).path.exists()
    assert steps(tmp_path) == [11]


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        ("last", [50, 60]),
        ("all", [10, 20, 25, 30, 40, 50, 60]),
        (1, [10, 20, 30, 40, 50, 60]),
        (2, [20, 40, 50, 60]),
        (3, [30, 50, 60]),
        (100, [50, 60]),
    ],
)
def test_the_policy_decides_what_stays_and_the_newest_two_always_do(
    tmp_path: Path, keep: str | int, kept: list[int]
) -> None:
    save(tmp_path, (1, 10), (2, 20), (2, 25), (3, 30), (4, 40), (5, 50), (6, 60))
    checkpoint.prune(tmp_path, keep)
    assert steps(tmp_path) == kept


@pytest.mark.parametrize("keep", ["last", 7])
def test_pruning_two_leaves_both(tmp_path: Path, keep: str | int) -> None:
    save(tmp_path, (1, 10), (1, 15))
    checkpoint.prune(tmp_path, keep)
    assert steps(tmp_path) == [10, 15]


@pytest.mark.parametrize("keep", ["last", "all"])
def test_what_a_killed_write_left_behind_is_cleaned_up(tmp_path: Path, keep: str) -> None:
    (entry,) = save(tmp_path, (1, 10))
    (tmp_path / f".{entry.path.name}.123.tmp").write_bytes(b"half")
    checkpoint.prune(tmp_path, keep)
    assert [path.name for path in tmp_path.iterdir()] == [entry.path.name]


@pytest.mark.parametrize("form", ["pickle", "torch", "torch in a model", "legacy torch"])
def test_a_pickle_that_is_not_tensors_is_refused_and_its_code_never_runs(
    tmp_path: Path, form: str
) -> None:
    mark, path = tmp_path / "mark", tmp_path / "weights.pt"
    hostile = Hostile(mark)
    if form == "pickle":
        path.write_bytes(pickle.dumps(hostile, protocol=2))
    else:
        value = {"model": {"weight": hostile}} if "model" in form else hostile
        torch.save(value, path, _use_new_zipfile_serialization="legacy" not in form)
    with pytest.raises(CheckpointError, match=rf"{path}: refused.*could run code"):
        checkpoint.read(path)
    assert not mark.exists()
    torch.load(path, weights_only=False) if form != "pickle" else pickle.loads(path.read_bytes())
    assert mark.exists()  # so the file was a hostile one


@pytest.mark.parametrize("cut", [0, 1, 500, -1])
def test_a_truncated_file_is_told_by_its_name(tmp_path: Path, cut: int) -> None:
    (entry,) = save(tmp_path, (1, 10))
    entry.path.write_bytes(entry.path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match=rf"{entry.path}: damaged or truncated"):
        checkpoint.read(entry.path)


def test_a_single_changed_bit_is_told(tmp_path: Path) -> None:
    (entry,) = save(tmp_path, (1, 10))
    content = bytearray(entry.path.read_bytes())
    content[len(content) // 2] ^= 1
    entry.path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        checkpoint.read(entry.path)


def test_damage_without_a_digest_in_the_name_is_still_a_sentence(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(state(), buffer)
    whole, path = buffer.getvalue(), tmp_path / "weights.pt"
    # The last three make the unpickler itself stumble.
    stumbling = [b"\x80\x02}q\x00.", b"\x80\x02s.", b"\x80\x02e."]
    for content in [b"", b"text", whole[:100], whole[: len(whole) // 2], whole[:-1], *stumbling]:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=str(path)):
            checkpoint.read(path)


@pytest.mark.parametrize("value", [{"weights": torch.ones(2)}, [torch.ones(2)], torch.ones(2)])
def test_tensors_that_are_not_a_checkpoint_are_refused(tmp_path: Path, value: Any) -> None:
    torch.save(value, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of this engine"):
        checkpoint.read(tmp_path / "weights.pt")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none.pt: is not there"):
        checkpoint.read(tmp_path / "none.pt")


def test_the_newest_whole_checkpoint_is_taken_and_the_others_are_set_aside(tmp_path: Path) -> None:
    first, second, third = save(tmp_path, (1, 10), (2, 20), (3, 30))
    second.path.write_bytes(b"")
    third.path.write_bytes(third.path.read_bytes()[:-1])
    said: list[str] = []
    found = checkpoint.latest(tmp_path, said.append)
    assert found is not None
    assert found["step"] == 10
    assert len(said) == 2
    for entry, sentence in zip((third, second), said, strict=True):
        assert entry.path.name in sentence
        assert "falling back to the checkpoint before it" in sentence
        assert entry.path.with_suffix(".damaged").exists()
    assert checkpoint.entries(tmp_path) == [first]


def test_without_a_whole_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path, pytest.fail) is None
    (entry,) = save(tmp_path, (1, 10))
    entry.path.write_bytes(b"")
    assert checkpoint.latest(tmp_path, lambda _: None) is None


def test_at_epoch_finds_the_file_or_names_the_epochs_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="pretrain the run first"):
        checkpoint.at_epoch(tmp_path, None)
    first, _, third = save(tmp_path, (2, 22), (4, 44), (10, 110))
    save(tmp_path, (2, 23), (5, 57))  # within epochs 3 and 6
    assert checkpoint.at_epoch(tmp_path, 2) == first.path
    assert checkpoint.at_epoch(tmp_path, None) == third.path
    with pytest.raises(CheckpointError, match=r"no checkpoint of epoch 3; there are: 2, 4, 10 \("):
        checkpoint.at_epoch(tmp_path, 3)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.json"
    write_json(path, 1)

    def fail(handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("care_core.files.os.fsync", fail)
    with pytest.raises(StorageError, match=rf"{tmp_path}: cannot write x.json \(Input/output"):
        write_json(path, 2)
    assert read_json(path) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_pipe_or_a_device_is_no_file_and_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.pt"
    os.mkfifo(pipe)  # nobody writes into it: who opens it as a file waits without end
    for path in (pipe, Path("/dev/zero")):
        with pytest.raises(StorageError, match="is not a regular file"):
            checkpoint.read(path)
        with pytest.raises(CheckpointError, match="is not a regular file"):
            official.read(path)
        assert read_json(path) is None
    with pytest.raises(IsADirectoryError):
        read_whole(tmp_path)


def test_a_file_larger_than_the_memory_is_told(tmp_path: Path) -> None:
    path = tmp_path / "large.pt"
    with path.open("wb") as file:
        file.truncate(2**43)  # holes: it takes no room
    with pytest.raises(StorageError, match="larger than the memory"):
        checkpoint.read(path)
    with pytest.raises(CheckpointError, match="larger than the memory"):
        official.read(path)


def test_what_is_refused_is_told_once_without_a_warning_of_torch(tmp_path: Path) -> None:
    path = tmp_path / "odd.pt"
    path.write_bytes(pickle.dumps(os.system, protocol=4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CheckpointError, match="refused"):
            checkpoint.read(path)
        with pytest.raises(CheckpointError, match="refused"):
            official.read(path)


@pytest.mark.parametrize("named", [(3, 22, True), (2, 33, True), (2, 22, False)])
def test_a_state_under_a_name_of_another_step_or_epoch_is_told(
    tmp_path: Path, named: tuple[int, int, bool]
) -> None:
    epoch, step, whole = named
    entry = checkpoint.save(
        tmp_path, {**state(22), "steps_per_epoch": 11}, epoch=epoch, step=step, whole=whole
    )
    with pytest.raises(CheckpointError, match="is not what its name says, but the state after"):
        checkpoint.read(entry.path)


def test_a_packed_file_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "packed.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(2**20))
    with pytest.raises(CheckpointError, match="its parts are compressed"):
        checkpoint.read(path)


def test_the_digest_of_weights_is_of_their_names_too() -> None:
    one, other = torch.nn.Module(), torch.nn.Module()
    one.register_buffer("a", torch.ones(2))
    other.register_buffer("b", torch.ones(2))
    assert checkpoint.weights_sha256(one) != checkpoint.weights_sha256(other)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_and_a_used_up_quota_are_told_alike(tmp_path: Path, number: int) -> None:
    assert "the disk is full" in str(storage_error(tmp_path / "x", OSError(number, "no")))


def test_json_that_is_nested_without_end_is_no_json(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b"[" * 100_000)
    assert read_json(path) is None


def test_a_state_within_an_epoch_is_not_taken_for_its_end(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(25), epoch=2, step=25, whole=False)
    with pytest.raises(CheckpointError, match="no checkpoint of epoch 2; there are: none"):
        checkpoint.at_epoch(tmp_path, 2)
    end = checkpoint.save(tmp_path, state(22), epoch=2, step=22)
    assert checkpoint.at_epoch(tmp_path, 2) == end.path
