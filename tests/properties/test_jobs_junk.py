"""Whatever lies in the queue, in an attempt or in SLURM's answer: no traceback, none stuck."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import finished
import pytest
from conftest import tiny
from hypothesis import example, given
from hypothesis import strategies as st

from carectl import runs
from carectl.backends import local, queue, squeue, tickets
from carectl.plan import Planner
from carectl.runs import Run
from properties.generating import JUNK, TEXTS, carectl, cases

TICKET = {"run": "RUN", "attempt": 1, "depends": [], "slots": ["cpu-0"], "count": 1}
SUBMISSION = {"backend": "slurm", "job": "12", "at": 1.0, "logs": "x", "after": None}
NAMES = ["good", "waits"]


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One run that is done, and one that waits for a slot; no queue process is started."""
    folder = tmp_path_factory.mktemp("project") / "runs"
    for name in NAMES:
        planned = Planner(folder, folder.parent / "data").pretrain(tiny(name=name, seed=len(name)))
        finished.finish(planned, folder, {"kind": "pretrain", "steps": 9})
        Run(folder / planned.run_id).new_attempt()
    (waits,) = folder.glob("waits-*")
    (waits / "result.json").unlink()
    tickets.write(folder, tickets.Ticket(waits.name, 1, [], ["cpu-0"], 1))
    shutil.copytree(folder, folder.with_name("whole"))
    slots = {"CARECTL_SLOTS_DIR": str(folder.with_name("slots"))}  # no other test's jobs
    with mock.patch.object(local.LocalBackend, "ensure"), mock.patch.dict(os.environ, slots):
        yield folder


def mend(runs_dir: Path) -> None:
    """Put everything back, the queue's folder in its place: it knows where it was made."""
    for path in runs_dir.iterdir():
        if path.name != ".queue":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for path in (runs_dir / ".queue").iterdir():
        if path.name != "home":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in runs_dir.with_name("whole").iterdir():
        if path.name != ".queue":
            shutil.copytree(path, runs_dir / path.name)
    for path in (runs_dir.with_name("whole") / ".queue").glob("[0-9]*"):
        shutil.copy(path, runs_dir / ".queue")


def junk(whole: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """A file that should hold `whole`: any bytes, any JSON, or one value that is wrong or gone."""
    keys = st.sampled_from(sorted(whole))
    return st.one_of(
        st.binary(max_size=20),
        JUNK.map(lambda value: json.dumps(value).encode()),
        st.tuples(keys, JUNK).map(lambda pair: json.dumps({**whole, pair[0]: pair[1]}).encode()),
        keys.map(lambda key: json.dumps({k: v for k, v in whole.items() if k != key}).encode()),
    )


COMMANDS = [
    ("status",), ("status", "RUN"), ("status", "--json"), ("logs", "RUN"), ("cancel", "RUN"),
    ("retry", "RUN", "--dry-run"), ("retry", "--failed", "--dry-run"), ("cancel", "good"),
]  # fmt: skip


def loop(place: bytes) -> None:
    """A link to itself."""
    os.symlink(place, place)  # noqa: PTH211


def look(runs_dir: Path, command: tuple[str, ...]) -> None:
    """A command ends as foreseen, and the good run is shown all the while."""
    (waits,) = runs_dir.glob("waits-*")
    shown = carectl("status", "--runs-dir", str(runs_dir))
    assert shown.code == 0, shown.err
    assert {line.split()[0] for line in shown.out.splitlines()} >= {waits.name}
    words = [waits.name if word == "RUN" else word for word in command]
    done = carectl(*words, "--runs-dir", str(runs_dir))
    assert done.code in (0, 2, 3), done.err
    assert "Traceback" not in done.err


@cases(40)
@given(
    st.one_of(
        st.sampled_from([f"{7:020d}-RUN.json", "1.json", "0-.json", "12-x", "2--RUN.json"]),
        TEXTS.filter(lambda text: text.isprintable() and "/" not in text and len(text) < 99).map(
            lambda text: f"3-{text}.json"
        ),
    ),
    junk(TICKET),
    st.sampled_from(COMMANDS),
)
@example("1.json", b"{}", COMMANDS[0])
@example(f"{7:020d}-RUN.json", b'{"depends": 1}', COMMANDS[0])
@example(f"{7:020d}-RUN.json", b'{"depends": [1]}', COMMANDS[0])
def test_a_ticket_that_is_none_is_not_believed(
    runs_dir: Path, name: str, raw: bytes, command: tuple[str, ...]
) -> None:
    (waits,) = runs_dir.glob("waits-*")
    place = runs_dir / ".queue" / name.replace("RUN", waits.name)
    try:
        place.write_bytes(raw.replace(b"RUN", waits.name.encode()))
        look(runs_dir, command)
        with (
            mock.patch.object(queue, "POLL_S", 0.0),
            mock.patch.object(queue, "_start", side_effect=OSError("not here")) as start,
        ):
            queue._serve_locked(runs_dir)
        assert tickets.waiting(runs_dir) == []
        if command != ("cancel", "RUN"):  # the ticket beside it was served
            assert {call.args[2].run for call in start.call_args_list} == {waits.name}
    finally:
        mend(runs_dir)


@cases(40)
@given(
    st.dictionaries(
        st.sampled_from(
            ["submission.json", "blocked.json", "closed.json", "requeues.json", "handle-1.json"]
        ),
        junk({**SUBMISSION, "message": "x", "host": "h", "pid": 1}),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from(COMMANDS),
)
@example({"submission.json": b"[1]"}, COMMANDS[3])
@example({"submission.json": b'{"job": "12", "logs": "x", "at": "x"}'}, COMMANDS[0])
@example({"submission.json": b'{"job": "12", "logs": "\\u0000"}'}, COMMANDS[3])
@example({"submission.json": b'{"job": "12", "logs": ".."}'}, COMMANDS[3])
def test_what_a_job_left_may_be_anything(
    runs_dir: Path, left: dict[str, bytes], command: tuple[str, ...]
) -> None:
    (waits,) = runs_dir.glob("waits-*")
    try:
        for name, raw in left.items():
            (waits / "attempts" / "1" / name).write_bytes(raw)
        look(runs_dir, command)
    finally:
        mend(runs_dir)


@cases(30)
@given(
    st.one_of(
        st.sampled_from(["0", "01", "-1", "x", "٣", "²", "9" * 200, "2", ".", "1.5", " 2", "007"]),
        TEXTS.filter(lambda text: 0 < len(text) < 60 and "/" not in text and "\0" not in text),
    ),
    st.sampled_from(["file", "folder", "link"]),
    st.sampled_from(COMMANDS),
)
@example("9" * 200, "folder", COMMANDS[5])
@example("٣", "folder", COMMANDS[0])
@example("2", "file", COMMANDS[4])
def test_what_lies_among_the_attempts_may_be_anything(
    runs_dir: Path, name: str, kind: str, command: tuple[str, ...]
) -> None:
    (waits,) = runs_dir.glob("waits-*")
    try:
        place = os.fsencode(waits / "attempts") + b"/" + name.encode(errors="replace")
        if not os.path.lexists(place):
            if kind == "file":
                with open(place, "w") as file:  # noqa: PTH123
                    file.write("x")
            else:
                (os.mkdir if kind == "folder" else loop)(place)
        look(runs_dir, command)
        number = int(Run(waits).new_attempt().name)
        assert number >= 2 and runs.status(Run(waits)).state
    finally:
        mend(runs_dir)


def test_a_file_where_the_attempts_should_lie_is_told(runs_dir: Path) -> None:
    (waits,) = runs_dir.glob("waits-*")
    try:
        shutil.rmtree(waits / "attempts")
        (waits / "attempts").write_text("x")
        for command in COMMANDS:
            look(runs_dir, command)
    finally:
        mend(runs_dir)


ANSWER = [1.0, {"12": ["RUNNING", "", "node"]}, "", False]


@cases(40)
@given(
    st.one_of(
        st.binary(max_size=20),
        JUNK.map(lambda value: json.dumps(value).encode()),
        st.tuples(st.integers(0, 3), JUNK).map(
            lambda pair: json.dumps([*ANSWER[: pair[0]], pair[1], *ANSWER[pair[0] + 1 :]]).encode()
        ),
        JUNK.map(lambda value: json.dumps([1.0, {"12": value}, "", False]).encode()),
    ),
    st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]), max_size=40)),
    st.sampled_from(COMMANDS),
)
@example(b"[1]", None, COMMANDS[0])
@example(b'[1.0, {"12": 3}, "", false]', None, COMMANDS[0])
@example(b'["x", {}, "", false]', "12|RUNNING", COMMANDS[4])
def test_slurm_s_answer_may_be_anything(
    runs_dir: Path, kept: bytes, said: str | None, command: tuple[str, ...]
) -> None:
    """What lies in the cache of it, and what squeue itself says (None: it is not there)."""
    (waits,) = runs_dir.glob("waits-*")
    try:
        (waits / "attempts" / "1" / "submission.json").write_text(json.dumps(SUBMISSION))
        (runs_dir / ".cache").mkdir(exist_ok=True)
        (runs_dir / ".cache" / "squeue.json").write_bytes(kept)
        squeue._memory.clear()
        silent = OSError("not here") if said is None else None
        answer = mock.Mock(returncode=0, stdout=said, stderr="")
        with mock.patch.object(subprocess, "run", return_value=answer, side_effect=silent):
            look(runs_dir, command)
    finally:
        squeue._memory.clear()
        mend(runs_dir)
