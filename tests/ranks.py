"""Ranks for tests: real processes and real DDP over gloo, each on one CPU thread.

They are forks of a process of their own (`serve`), in which torch is imported once and has computed
nothing; what they find out they leave in a file. The fixture `launch` (conftest) starts them.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from care_core import checkpoint, methods, metrics, pretrain
from care_core.distributed import World, join
from care_core.errors import CareError, StorageError
from care_core.files import read_json
from care_core.methods import Method, Step
from care_core.spec import PretrainSpec

#: Runs `what(rank, size, folder, **options)` on so many ranks; the ranks' exit codes.
Launch = Callable[..., list[int]]


class After:
    """A `stop` that is true after so many steps of this process."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


# In the ranks.


def serve() -> None:
    """Fork the ranks of each job that is asked for on stdin, and say how they ended."""
    for line in sys.stdin:
        module, name, size, folder, options = json.loads(line)
        what = getattr(importlib.import_module(module), name)
        ranks = [os.fork() or _be(what, rank, size, Path(folder), options) for rank in range(size)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks]
        print(json.dumps(codes), flush=True)


def _be(
    what: Callable[..., Any], rank: int, size: int, folder: Path, options: dict[str, Any]
) -> int:
    """Be one rank: do `what` is asked for, leave `rank-<n>.pt`, and end."""
    code = 1
    try:
        torch.set_num_threads(1)
        torch.save(what(rank, size, folder, **options), folder / f"rank-{rank}.pt")
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def meet(rank: int, size: int, folder: Path, timeout_s: float = 60) -> World:
    return join(
        rank=rank, size=size, local_rank=rank, meeting=folder / "meeting.json",
        single_host=True, timeout_s=timeout_s,
    )  # fmt: skip


def training(
    rank: int,
    size: int,
    folder: Path,
    spec: str,
    stop_at: dict[str, int] | None = None,
    kill_at: dict[str, int] | None = None,
    full_at: int = 0,
) -> dict[str, Any]:
    """Train; tell of the outcome, of the state at the end, and of what the first step saw.

    Args:
        stop_at, kill_at: after which step a rank (as text) asks to stop, or gets SIGKILL.
        full_at: the step at whose checkpoint rank 0 finds the disk full.
    """
    made: list[Method] = []
    seen: list[Any] = []
    calls = forwards = 0
    build, forward, save = methods.build, Method.forward, checkpoint.save

    def remember(*arguments: Any) -> Method:
        made.append(build(*arguments))
        return made[-1]

    def spy(self: Method, step: Step) -> Any:
        loss, terms = forward(self, step)
        nonlocal forwards
        forwards += 1
        if forwards == (1 if size == 1 else 2):  # DDP warms up first
            seen.append({"views": step.views, "pair": step.pair, "terms": terms})
        return loss, terms

    def stop() -> bool:
        nonlocal calls
        calls += 1
        if (kill_at or {}).get(str(rank)) == calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return (stop_at or {}).get(str(rank)) == calls

    def full(*arguments: Any, **named: Any) -> Any:
        if named["step"] == full_at:
            raise StorageError("the disk is full")
        return save(*arguments, **named)

    methods.build, Method.forward, checkpoint.save = remember, spy, full  # type: ignore[method-assign]
    found: dict[str, Any] = {"said": []}
    world = meet(rank, size, folder)
    try:
        found["result"] = pretrain(
            PretrainSpec.model_validate_json(spec), folder, threads=1, stop=stop,
            say=found["said"].append, world=world,
        )  # fmt: skip
    except CareError as error:
        found["error"] = [type(error).__name__, str(error)]
    world.close()
    if made:
        found["parameters"] = {k: v.detach() for k, v in made[0].named_parameters()}
        found["buffers"] = dict(made[0].named_buffers())
    return {**found, "seen": seen}


# On the tests' side.


@contextlib.contextmanager
def serving(log: Path) -> Iterator[Launch]:
    """Within, functions of the tests' modules can be run on ranks, at the cost of a fork each."""
    here = str(Path(__file__).parent)
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [sys.executable, "-c", "from ranks import serve; serve()"],
            cwd=here, env={**os.environ, "PYTHONPATH": here}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
        ) as server,
    ):  # fmt: skip
        assert server.stdin and server.stdout

        def ask(what: Callable[..., Any], size: int, folder: Path, **options: Any) -> list[int]:
            assert server.stdin and server.stdout
            folder.mkdir(exist_ok=True, parents=True)
            job = [what.__module__, what.__name__, size, str(folder), options]
            print(json.dumps(job), file=server.stdin, flush=True)
            answer = server.stdout.readline()
            assert answer, log.read_text()
            return list(json.loads(answer))

        yield ask
        server.stdin.close()


def left(folder: Path, size: int) -> list[Any]:
    """What the ranks left."""
    return [torch.load(folder / f"rank-{rank}.pt") for rank in range(size)]


def ask(
    launch: Launch, what: Callable[..., Any], size: int, folder: Path, **options: Any
) -> list[Any]:
    """Run a function on so many ranks, all of which must end well; what they returned."""
    assert launch(what, size, folder, **options) == [0] * size
    return left(folder, size)


def run(
    launch: Launch, folder: Path, spec: PretrainSpec, size: int = 2, **options: Any
) -> list[Any]:
    """Train to the end, or to where it is stopped; what the ranks left."""
    return ask(launch, training, size, folder, spec=spec.model_dump_json(), **options)


def rows(run_dir: Path) -> list[tuple[str, float, int]]:
    return [(row.key, row.value, row.step) for row in metrics.read(run_dir)]


def newest(run_dir: Path) -> dict[str, Any]:
    """The state in the newest checkpoint."""
    return checkpoint.read(checkpoint.at_epoch(run_dir / "checkpoints", None))


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys() and ours
    for key in ours:
        assert torch.equal(ours[key], theirs[key]), key


def assert_as_uninterrupted(run_dir: Path, whole: Path, size: int = 0) -> None:
    """The same result, record and state of the newest checkpoint, and nothing left behind.

    Args:
        size: of so many ranks, what each of them held at the end, too.
    """
    found, wanted = read_json(run_dir / "result.json"), read_json(whole / "result.json")
    for key in ("weights_sha256", "metrics", "steps", "epochs"):
        assert found[key] == wanted[key]
    assert rows(run_dir) == rows(whole)
    assert len({(key, step) for key, _, step in rows(run_dir)}) == len(rows(run_dir))
    ours, theirs = newest(run_dir), newest(whole)
    for part in ("model", "statistics"):
        assert_equal(ours[part], theirs[part])
    assert ours["method"].keys() == theirs["method"].keys()
    assert all(torch.equal(value, theirs["method"][k]) for k, value in ours["method"].items())
    moments = [state["optimizer"]["state"] for state in (ours, theirs)]
    assert moments[0].keys() == moments[1].keys() and moments[0]
    for number, state in moments[1].items():
        assert_equal(moments[0][number], state)
    assert not list((run_dir / "checkpoints").glob(".*"))
    if size:
        for one, other in zip(left(run_dir, size), left(whole, size), strict=True):
            assert_equal(one["parameters"], other["parameters"])
            assert_equal(one["buffers"], other["buffers"])
