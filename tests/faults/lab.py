"""Where trainings are disturbed: a parent that has imported everything and forks each attempt.

The parent computes nothing, so that its children, each a training of a second, start as clean as
a process of their own would.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from conftest import FAST, tiny
from ranks import assert_as_uninterrupted

from care_core import metrics, pretrain
from care_core.errors import CareError
from care_core.files import read_json, write_json
from care_core.spec import PretrainSpec


class Row(NamedTuple):
    """A line of the table: what was injected, how often, and what came of it."""

    fault: str
    injected: int
    survived: int  #: reached the same end, or were refused with a sentence where that is promised
    equal: int | None  #: of the trainings looked at, how many ended bitwise as the undisturbed one
    ended: int | None  #: how many were looked at; None where no training is
    problems: list[str]  #: what was lost or wrong


class Server:
    """A tracker such as MLflow: what it has been sent stays, and is sent again without harm."""

    def __init__(self, run_dir: Path, folder: Path) -> None:
        self.run_dir, self.folder = run_dir, folder

    def committed(self, step: int) -> None:
        metrics.publishing(self.run_dir, step)
        rows = [row for row in metrics.read(self.run_dir) if row.step <= step]
        write_json(self.folder / f"{time.monotonic_ns()}.json", rows)

    def rows(self) -> set[metrics.Row]:
        found = (read_json(path) for path in self.folder.glob("[0-9]*.json"))
        return {metrics.Row(*row) for rows in found for row in rows}


class Lab:
    """A folder, a seed, and the training that nothing disturbed: 3 epochs of 5 steps."""

    STEPS = 15

    def __init__(self, folder: Path, seed: int) -> None:
        torch.set_num_threads(1)
        self.folder, self.seed = folder, seed
        # SimCLR: CARE's term doubles the passes of a step, and no file is written otherwise
        self.spec = tiny(**FAST, equivariance={"weight": 0.0})
        self.log = folder / "log"
        self.whole = folder / "whole"
        began = time.monotonic()
        if self.attempt(self.whole) != 0:
            raise RuntimeError(self.log.read_text())
        self.span = time.monotonic() - began  #: seconds that an attempt takes

    def attempt(
        self, run_dir: Path, kill_after: float | None = None, prepare: Callable[[], Any] = int,
        then: Callable[[], Any] = int, **options: Any,
    ) -> int:  # fmt: skip
        """Train in a child, which leaves what was said (`said`); its exit code, -9 if killed.

        Args:
            prepare, then: done in the child before, and after.
            options: for `pretrain`.
        """

        def train() -> None:
            prepare()
            said: list[str] = []
            server = Server(run_dir, self._server(run_dir))
            error = None
            try:
                options.setdefault("tracker", server)
                spec = options.pop("spec", self.spec)
                pretrain(spec, run_dir, threads=1, say=said.append, **options)
                server.committed(self.STEPS)  # as carectl does with a done run
            except CareError as caught:
                error = [type(caught).__name__, str(caught)]
            write_json(self._outcome(run_dir), {"said": said, "error": error})
            then()

        self._outcome(run_dir).unlink(missing_ok=True)
        return self.forked(train, kill_after)

    def said(self, run_dir: Path) -> list[str]:
        """What the last attempt said, but for its epochs; an error's sentence is the last one."""
        found = read_json(self._outcome(run_dir)) or {"said": [], "error": None}
        error = [found["error"][1]] if found["error"] else []
        return [text for text in found["said"] if not text.startswith("epoch ")] + error

    def refused(self, run_dir: Path) -> str | None:
        """The sentence by which the last attempt ended, if it did."""
        error = (read_json(self._outcome(run_dir)) or {}).get("error")
        return str(error[1]) if error else None

    def forked(self, what: Callable[[], Any], kill_after: float | None = None) -> int:
        """Do something in a child, and kill it after so many seconds; its exit code."""
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                handle = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(handle, 1)
                os.dup2(handle, 2)
                what()
                code = 0
            except SystemExit as end:
                code = int(end.code or 0)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)
        if kill_after is not None:
            watched = os.pidfd_open(child)
            select.select([watched], [], [], kill_after)
            os.close(watched)
            os.kill(child, signal.SIGKILL)  # not yet waited for, so the number is still its own
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def problems(self, run_dir: Path, whole: Path | None = None) -> list[str]:
        """What differs from the undisturbed run; none if nothing was lost and nothing is left."""
        found = []
        try:
            assert_as_uninterrupted(run_dir, whole or self.whole)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            found.append(f"not as undisturbed: {place.line} ({error})")
        rows = list(metrics.read(run_dir))
        steps = [row.step for row in rows]
        if steps != sorted(steps):
            found.append("the record's rows are not in the order of steps")
        if len(rows) != len((run_dir / "metrics.jsonl").read_bytes().splitlines()):
            found.append("the record has lines that are no rows")
        sent = Server(run_dir, self._server(run_dir)).rows()
        if sent and sent != set(rows):
            found.append(f"{len(sent ^ set(rows))} rows differ between the record and the server")
        found += [f"left behind: {path.name}" for path in run_dir.rglob("*.tmp")]
        return [f"{run_dir.name}: {text}" for text in found]

    def _server(self, run_dir: Path) -> Path:
        return run_dir.with_name(f"{run_dir.name}.server")

    def _outcome(self, run_dir: Path) -> Path:
        return run_dir.with_name(f"{run_dir.name}.said.json")

    def seeded(self, seed: int) -> PretrainSpec:
        """The spec with another seed: another run."""
        return self.spec.model_copy(update={"seed": seed})
