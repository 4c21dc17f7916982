"""Workers make items in order, die with their owner and of nothing else, and hand errors on."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from care_core.data import workers
from care_core.errors import CareError, DataError


class Squares(Dataset[Tensor]):
    def __getitem__(self, key: int) -> Tensor:
        if key == 7:
            raise DataError("seven.jpg: cannot be decoded; repair it")
        if key == 8:
            raise ZeroDivisionError("a defect")
        if key == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.tensor([key * key, torch.get_num_threads(), os.getpid()])


def wait(condition: Callable[[], bool]) -> None:
    """Fail after a minute in which a condition did not come true."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def children() -> list[int]:
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    return [int(pid) for pid in path.read_text().split()]


def running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    return False


@pytest.mark.parametrize("count", [0, 1, 3])
def test_items_come_in_the_order_of_their_keys(count: int) -> None:
    keys = [3, 1, 4, 1, 5, 2, 6, 5, 3, 5]
    before = children()
    found = list(workers.loader(Squares(), iter(keys), count))
    assert [int(item[0]) for item in found] == [key * key for key in keys]
    assert len({int(item[2]) for item in found}) == max(1, count)
    assert ({int(item[2]) for item in found} == {os.getpid()}) == (count == 0)
    wait(lambda: children() == before)


def test_a_worker_computes_on_one_thread() -> None:
    assert [int(item[1]) for item in workers.loader(Squares(), range(4), 2)] == [1] * 4


def test_keys_may_go_on_for_ever_and_closing_ends_the_workers() -> None:
    before = children()
    with workers.loader(Squares(), itertools.repeat(2), 2) as found:
        assert [int(next(found)[0]) for _ in range(30)] == [4] * 30
        assert len(children()) == len(before) + 2
    wait(lambda: children() == before)
    assert list(found) == []


def test_a_loader_that_nobody_holds_any_more_ends_its_workers() -> None:
    before = children()
    found = workers.loader(Squares(), itertools.repeat(2), 2)
    next(found)
    del found
    wait(lambda: children() == before)


def test_loading_draws_nothing_from_the_global_generator() -> None:
    state = torch.get_rng_state()
    for count in (0, 2):
        list(workers.loader(Squares(), range(4), count))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("count", [0, 2])
def test_what_is_wrong_with_an_image_is_the_same_sentence_from_a_worker(count: int) -> None:
    before = children()
    found = workers.loader(Squares(), [1, 7, 2], count)
    assert int(next(found)[0]) == 1
    with pytest.raises(DataError) as caught:
        next(found)
    assert str(caught.value) == "seven.jpg: cannot be decoded; repair it"
    assert list(found) == []
    wait(lambda: children() == before)


@pytest.mark.parametrize("count", [0, 2])
def test_a_defect_keeps_its_traceback(count: int) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)__getitem__.*ZeroDivisionError: a defect"):
        list(workers.loader(Squares(), [8], count))


def test_a_worker_that_is_killed_is_told_with_what_to_do() -> None:
    with pytest.raises(CareError, match=r"(?s)images ready died.*launch\.workers"):
        list(workers.loader(Squares(), [1, 9], 1))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGUSR1, signal.SIGINT])
def test_what_warns_the_job_of_its_end_leaves_the_workers_at_work(number: int) -> None:
    before, heard = children(), []
    old = signal.signal(number, lambda *_: heard.append(os.getpid()))
    try:
        with workers.loader(Squares(), itertools.repeat(3), 2) as found:
            for _ in range(8):  # both are up
                next(found)
            mine = set(children()) - set(before)
            for pid in mine:
                os.kill(pid, number)
            assert [int(next(found)[0]) for _ in range(20)] == [9] * 20
            assert mine <= set(children())
    finally:
        signal.signal(number, old)
    assert heard == []


OWNER = """
import itertools, os, signal, sys
sys.path.insert(0, {tests!r})
from test_data_workers import Squares, children
from care_core.data import workers
found = workers.loader(Squares(), itertools.repeat(2), 2)
for _ in range(8):
    next(found)
print(*children(), flush=True)
{end}
"""


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("sys.exit(4)", 4),
        ("raise KeyError", 1),
        ("list(workers.loader(Squares(), [7], 1))", 1),
    ],
    ids=["killed", "exit", "exception", "while another fails"],
)
def test_workers_end_with_their_owner_however_it_ends(end: str, code: int) -> None:
    script = OWNER.format(tests=str(Path(__file__).parent), end=end)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code, done.stderr
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    wait(lambda: not any(running(pid) for pid in pids))
