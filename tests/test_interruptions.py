"""A run that is killed, torn or out of space ends as if it had not been."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import FAST, tiny
from ranks import After, assert_as_uninterrupted

from care_core import checkpoint, metrics, pretrain
from care_core.errors import Interrupted, StorageError

#: CARE's term has tests of its own for this, in the ranks' and the faults'.
SPEC = tiny(**FAST, equivariance={"weight": 0.0})


def train(run_dir: Path, **options: Any) -> dict[str, Any]:
    return pretrain(SPEC, run_dir, threads=1, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    run_dir = tmp_path_factory.mktemp("whole")
    train(run_dir)
    return run_dir


#: Each moment is a fork of this process that kills itself there: torch is imported once.
KILLED = """
import json, os, signal, sys, traceback
from pathlib import Path

from care_core import pretrain
from care_core.spec import PretrainSpec

folder, spec = Path(sys.argv[1]), PretrainSpec.model_validate_json(sys.argv[2])
replace, fsync, count = Path.replace, os.fsync, 0


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def nth(wanted):
    global count
    count += 1
    return count == wanted


def at_step(wanted, run_dir):
    def stop():
        if nth(wanted):
            with (run_dir / "metrics.jsonl").open("ab") as file:
                file.write(b'{"key": "loss", "va')
            die()
        return False

    return stop


def torn(wanted):
    def patched(handle):
        if os.fstat(handle).st_size > 100_000 and nth(wanted):
            os.ftruncate(handle, 50_000)
            die()
        fsync(handle)

    os.fsync = patched


def renaming(ending, wanted, when):
    def patched(self, target):
        hit = target.name.endswith(ending) and nth(wanted)
        if hit and when == "before":
            die()
        replace(self, target)
        if hit:
            die()

    Path.replace = patched


def run(moment, number, run_dir):
    stop = lambda: False
    if moment == "step":
        stop = at_step(number, run_dir)
    elif moment == "torn checkpoint":
        torn(number)
    elif moment == "result":
        renaming("result.json", number, "before")
    else:
        renaming(".pt", number, moment.split()[0])
    pretrain(spec, run_dir, threads=1, stop=stop)


ended = []
for number, (moment, nth_time) in enumerate(json.loads(sys.argv[3])):
    child = os.fork()
    if child == 0:
        try:
            run(moment, nth_time, folder / str(number))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    ended.append(os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0)
print(json.dumps(ended))
"""

#: (where it is killed, at which time it comes there, the steps of the checkpoints that stand)
MOMENTS: list[tuple[str, int, list[int]]] = [
    ("step", 3, []),
    ("step", 8, [5]),
    ("torn checkpoint", 1, []),
    ("torn checkpoint", 2, [5]),
    ("before renaming a checkpoint", 2, [5]),
    ("after renaming a checkpoint", 1, [5]),
    ("after renaming a checkpoint", 3, [5, 10, 15]),
    ("result", 1, [10, 15]),
]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder for each of the moments, as SIGKILL left it."""
    folder = tmp_path_factory.mktemp("killed")
    places = json.dumps([moment[:2] for moment in MOMENTS])
    command = [sys.executable, "-c", KILLED, str(folder), SPEC.model_dump_json(), places]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [signal.SIGKILL] * len(MOMENTS), done.stderr
    return folder


@pytest.mark.parametrize("number", range(len(MOMENTS)), ids=[f"{m} {n}" for m, n, _ in MOMENTS])
def test_a_killed_process_loses_nothing(killed: Path, whole: Path, number: int) -> None:
    run_dir, (moment, _, stand) = killed / str(number), MOMENTS[number]
    folder = run_dir / "checkpoints"
    assert [entry.step for entry in checkpoint.entries(folder)] == stand
    assert bool(list(folder.glob(".*.tmp"))) == moment.startswith(("torn", "before"))
    said: list[str] = []
    train(run_dir, say=said.append)
    resumed = [text for text in said if not text.startswith("epoch ")]
    assert resumed == ([f"resuming after step {stand[-1]} of 15"] if stand else [])
    assert_as_uninterrupted(run_dir, whole)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100_000] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty])
def test_a_damaged_checkpoint_is_said_and_the_one_before_gives_the_same_end(
    tmp_path: Path, whole: Path, damage: Callable[[Path], None], published: bool
) -> None:
    class Tracker:
        def committed(self, step: int) -> None:
            metrics.publishing(tmp_path, step)

    with pytest.raises(Interrupted):
        train(tmp_path, stop=After(12), tracker=Tracker() if published else None)
    newest = checkpoint.entries(tmp_path / "checkpoints")[-1].path
    before = list(metrics.read(tmp_path))
    damage(newest)
    said: list[str] = []
    train(tmp_path, say=said.append)
    assert len([text for text in said if not text.startswith("epoch ")]) == 2
    assert newest.name in said[0] and "damaged" in said[0] and "falling back" in said[0]
    assert said[1] == "resuming after step 10 of 15"
    assert_as_uninterrupted(tmp_path, whole)
    if published:
        assert list(metrics.read(tmp_path))[: len(before)] == before  # with their timestamps


def test_without_any_whole_checkpoint_the_run_begins_again(tmp_path: Path, whole: Path) -> None:
    with pytest.raises(Interrupted):
        train(tmp_path, stop=After(7))
    for entry in checkpoint.entries(tmp_path / "checkpoints"):
        empty(entry.path)
    said: list[str] = []
    train(tmp_path, say=said.append)
    assert ["falling back" in sentence for sentence in said] == [True, True, False, False, False]
    assert_as_uninterrupted(tmp_path, whole)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB, which takes six checkpoints."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = [mount or "false", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system is not allowed here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize(("left", "where"), [(0, "run"), (100_000, "run/checkpoints")])
def test_a_full_disk_is_said_and_the_run_goes_on_once_there_is_space(
    small_disk: Path, whole: Path, left: int, where: str
) -> None:
    run_dir, ballast = small_disk / "run", small_disk / "ballast"
    after = After(7)

    def fill() -> bool:
        if after():
            ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - left))
        return False

    with pytest.raises(StorageError) as caught:
        train(run_dir, stop=fill)
    said = str(caught.value)
    assert said.startswith(f"{small_disk / where}: the disk is full (0 MiB free)")
    assert "free some space and run the same command again, nothing is lost" in said
    assert [entry.step for entry in checkpoint.entries(run_dir / "checkpoints")] == [5]
    assert not list((run_dir / "checkpoints").glob(".*"))
    ballast.unlink()
    train(run_dir)
    assert_as_uninterrupted(run_dir, whole)


def test_a_disk_that_fills_within_a_checkpoint_leaves_the_one_before(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    fsync = os.fsync

    def full(handle: int) -> None:
        if os.fstat(handle).st_size > 100_000:
            written.append(handle)
            if len(written) == 2:
                raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match=rf"{tmp_path}/checkpoints: the disk is full .*free"):
            train(tmp_path)
    assert [entry.step for entry in checkpoint.entries(tmp_path / "checkpoints")] == [5]
    train(tmp_path)
    assert_as_uninterrupted(tmp_path, whole)
