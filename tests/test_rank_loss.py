"""A rank that is gone is named by the others, in time, and the run goes on from its checkpoint."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FAST, Project, tiny, wait_until
from ranks import Launch, ask, training

from care_core import checkpoint, presence
from care_core.distributed import World, join
from care_core.errors import CareError, PeerLostError
from care_core.files import read_json


def meet(rank: int, size: int, folder: Path, patience_s: float) -> World:
    return join(
        rank=rank, size=size, local_rank=rank, meeting=folder / "meeting.json",
        single_host=True, timeout_s=60, patience_s=patience_s,
    )  # fmt: skip


def exchanging(
    rank: int, size: int, folder: Path, how: str, who: list[int], patience_s: float = 600
) -> dict[str, Any]:
    """Exchange for ever; after some times the ranks `who` end, in a way. What the others say."""
    presence.BEAT_S = 0.1
    if len(who) == size - 1:  # nobody is left who might be slow
        presence.SILENCE_S = 0.5
    world = meet(rank, size, folder, patience_s)
    pids = world.stack(torch.tensor(os.getpid())).tolist()
    try:
        with world.naming_lost_ranks():
            for turn in range(1000):
                world.any(False)
                world.gather(torch.ones(1, 1))
                if rank in who and turn == 3:
                    time.sleep(2 * presence.BEAT_S)  # so that all have shown signs of life
                    if how == "raise":
                        raise CareError("seven.jpg: cannot be decoded; repair it")
                    os.kill(os.getpid(), getattr(signal, how))
    except PeerLostError as error:
        if how == "SIGSTOP":
            for number in who:
                os.kill(pids[number], signal.SIGKILL)  # else nobody would ever end it
        return {"error": str(error), "speaks": error.speaks}
    except CareError:
        return {}
    finally:
        world.close()
    return {}


@pytest.mark.parametrize(
    ("size", "who", "named", "speaks"),
    [
        (2, [1], "rank 0 of 2 lost rank 1; ", [0]),
        (2, [0], "rank 1 of 2 lost rank 0; ", [1]),
        (3, [1], "rank {} of 3 lost rank 1; ", [0]),
        (3, [1, 2], "rank 0 of 3 lost rank 1 and rank 2; ", [0]),
    ],
    ids=["one of two", "the first of two", "one of three", "two of three"],
)
def test_ranks_that_are_killed_are_named_by_all_others(
    launch: Launch, tmp_path: Path, size: int, who: list[int], named: str, speaks: list[int]
) -> None:
    codes = launch(exchanging, size, tmp_path, how="SIGKILL", who=who)
    assert codes == [-signal.SIGKILL if rank in who else 0 for rank in range(size)]
    for rank in set(range(size)) - set(who):
        found = torch.load(tmp_path / f"rank-{rank}.pt")
        assert found["error"].startswith(named.format(rank))
        assert "same command again, it goes on from the last checkpoint" in found["error"]
        assert found["speaks"] == (rank in speaks)


def test_a_rank_that_ends_by_an_error_tells_the_others_which(
    launch: Launch, tmp_path: Path
) -> None:
    first, _ = ask(launch, exchanging, 2, tmp_path, how="raise", who=[1])
    assert "lost rank 1 (it said: seven.jpg: cannot be decoded; repair it); " in first["error"]


def test_a_rank_that_is_silent_is_waited_for_as_long_as_patience_lasts(
    launch: Launch, tmp_path: Path
) -> None:
    codes = launch(exchanging, 2, tmp_path, how="SIGSTOP", who=[1], patience_s=6)
    assert codes == [0, -signal.SIGKILL]
    found = torch.load(tmp_path / "rank-0.pt")
    assert found["error"].startswith("rank 0 of 2 lost rank 1; ") and "Timed out" in found["error"]


def test_signs_of_life_end_with_the_world(launch: Launch, tmp_path: Path) -> None:
    for found in ask(launch, threads_left, 2, tmp_path):
        assert found == [True, False]


def threads_left(rank: int, size: int, folder: Path) -> list[bool]:
    """Whether this rank gives signs of life while it is in a world, and afterwards."""

    def alive() -> bool:
        return any(thread.name == "presence" for thread in threading.enumerate())

    world = meet(rank, size, folder, 60)
    found = [alive()]
    world.close()
    wait_until(lambda: not alive())
    return [*found, alive()]


def test_a_run_whose_first_rank_is_killed_fails_by_its_number_and_a_retry_ends_it_bitwise(
    project: Project, launch: Launch, tmp_path: Path
) -> None:
    """Rank 0 writes what there is one of, but for why it is gone itself."""
    long = {**FAST, "training": {"epochs": 8, "batch_size": 256}}
    spec = tiny(**long, launch={"gpus": 2, "threads": 1}, monitor={"every_epochs": 0})
    ask(launch, training, 2, tmp_path / "undisturbed", spec=spec.model_dump_json())
    waiting = project.start("pretrain", project.write(spec), "--devices", "cpu:2")
    wait_until(lambda: project.steps() and project.steps()[0] >= 7)
    (folder,) = project.runs.glob("*/attempts/1")
    os.kill(read_json(folder / "handle.json")["pid"], signal.SIGKILL)
    assert waiting.wait(60) == 1
    wait_until(lambda: (folder / "error.json").exists())
    assert read_json(folder / "error.json")["message"].startswith("rank 1 of 2 lost rank 0; ")
    assert project.json("status")["runs"][0]["state"] == "failed"
    run = folder.parent.parent
    assert checkpoint.entries(run / "checkpoints")
    project.carectl("retry", "--failed", "--devices", "cpu:2")
    result, wanted = (read_json(f / "result.json") for f in (run, tmp_path / "undisturbed"))
    assert result["weights_sha256"] == wanted["weights_sha256"]
