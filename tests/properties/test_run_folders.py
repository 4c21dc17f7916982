"""Whatever the files of one run hold, the others are still shown, and it is told which it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import finished
import pytest
from conftest import tiny
from hypothesis import example, given
from hypothesis import strategies as st

from care_core import metrics
from carectl import estimates, records, targets
from carectl.plan import Planner
from carectl.runs import Run
from properties.generating import JUNK, TEXTS, carectl, cases

FILES = ("spec.json", "job.json", "progress.json", "result.json", "code.json")
IN_ATTEMPT = ("handle.json", "error.json", "cancelled.json", "lost.json")
PROGRESS = {
    "epoch": 1, "epochs": 3, "step": 5, "steps": 15, "images_per_s": 50.0, "eta_s": 9.0,
    "heartbeat": 1.0, "metrics": {"loss": 1.0}, "data_bound": 0.5,
}  # fmt: skip
HANDLE = {"host": "elsewhere", "boot": "x", "pid": 1, "started_ticks": 1, "since": 1.0}


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs: one that is done, one that was trained by half, and one to be damaged."""
    folder = tmp_path_factory.mktemp("project") / "runs"
    for name in ("good", "half", "bad"):
        planner = Planner(folder, folder.parent / "data")
        planned = planner.pretrain(tiny(name=name, seed=len(name)))
        finished.finish(planned, folder, {"kind": "pretrain", "steps": 9, "metrics": {"loss": 0.5}})
        run = Run(folder / planned.run_id)
        (run.new_attempt() / "handle.json").write_text(json.dumps(HANDLE))
        (run.path / "progress.json").write_text(json.dumps(PROGRESS))
        if name != "good":
            (run.path / "result.json").unlink()
    return folder


@pytest.fixture(scope="module")
def bad(runs_dir: Path) -> Path:
    """The run to be damaged; its files as they should be lie beside it in .bad."""
    (found,) = runs_dir.glob("bad-*")
    shutil.copytree(found, runs_dir / ".bad")
    return found


@st.composite
def damage(draw: st.DrawFn) -> dict[str, bytes]:
    """By the places of some files, what they hold now."""
    names = st.sampled_from([*FILES, *(f"attempts/1/{name}" for name in IN_ATTEMPT)])
    values = st.one_of(
        st.binary(max_size=30),
        JUNK.map(lambda value: json.dumps(value).encode()),
        st.tuples(st.sampled_from(sorted(KEYS)), JUNK).map(
            lambda pair: json.dumps({**WHOLE, pair[0]: pair[1]}).encode()
        ),
        st.sampled_from([b"", b"{", b"[1]", b"null", b'"x"', b"[" * 100_000, b'{"a":' * 900 + b"1"
                         + b"}" * 900, b"\xff\xfe", b"{}"]),
    )  # fmt: skip
    return draw(st.dictionaries(names, values, min_size=1, max_size=2))


WHOLE: dict[str, Any] = {
    **PROGRESS, **HANDLE, "kind": "pretrain", "name": "bad", "sha256": "0" * 64, "identity": {},
    "spec": {}, "message": "x", "job": "1", "logs": "x", "linear": {"backbone": [1.0]},
    "seconds": 1, "measured_on": "test", "checkpoint": "x", "launch": {}, "backend": "local",
    "source_run": None, "threads": 1, "data_dir": "x",
}  # fmt: skip
KEYS = [*WHOLE, "tracking"]


@pytest.fixture
def whole(bad: Path) -> Iterator[None]:
    yield
    _mend(bad)


def _mend(bad: Path) -> None:
    shutil.rmtree(bad)
    shutil.copytree(bad.parent / ".bad", bad)


COMMANDS = [
    ("status", "--json"), ("status", "RUN"), ("status", "RUN", "--json"), ("logs", "RUN"),
    ("spec", "diff", "RUN", "good"), ("eval", "RUN", "--dry-run", "--json"), ("cancel", "RUN"),
    ("retry", "RUN", "--dry-run"), ("retry", "--failed", "--dry-run"), ("export", "RUN"),
    ("pretrain", "digits/simclr", "--dry-run"),
]  # fmt: skip


@cases(50)
@given(damage(), st.sampled_from([c for c in COMMANDS if c[0] != "export"]))
@example({"attempts/1/handle.json": b"[1]"}, COMMANDS[0])
@example({"attempts/1/handle.json": b"{"}, COMMANDS[1])
@example({"spec.json": b"[1]"}, COMMANDS[4])
@example(
    {"spec.json": b'{"kind": "pretrain", "spec": {"x": 1}}', "result.json": b"{}"}, COMMANDS[5]
)
@example({"spec.json": b'{"kind": "pretrain"}'}, COMMANDS[7])
@example({"progress.json": b'{"epoch": 1}'}, COMMANDS[0])
@example({"result.json": b'{"linear": {"backbone": 3}}'}, COMMANDS[0])
def test_a_damaged_run_is_named_and_the_others_are_shown(
    runs_dir: Path, bad: Path, damage: dict[str, bytes], command: tuple[str, ...]
) -> None:
    for name, raw in damage.items():
        (bad / name).write_bytes(raw)
    try:
        shown = carectl("status", "--runs-dir", str(runs_dir))
        assert shown.code == 0
        rows = {line.split()[0]: line for line in shown.out.splitlines() if line.strip()}
        names = [path.name for path in runs_dir.glob("[!.]*")]
        assert set(names) <= rows.keys()
        assert "damaged" not in "".join(rows[name] for name in names if name != bad.name)
        for name, raw in damage.items():
            if name in records.TOLD and not _object(raw):
                assert name in rows[bad.name]
        words = [bad.name if word == "RUN" else word for word in command]
        done = carectl(*words, "--runs-dir", str(runs_dir))
        assert done.code in (0, 2, 3), done.err
        assert done.code == 0 or len(done.err) > 20
        if "--json" in command:
            assert "version" in json.loads(done.out)
    finally:
        _mend(bad)


@cases(40)
@given(
    st.one_of(
        st.binary(max_size=9), JUNK.map(lambda value: json.dumps(value).encode()),
        st.dictionaries(st.sampled_from(["spec", "found", "date", "x"]), JUNK).map(
            lambda value: json.dumps({"version": 1, **value}).encode()
        ),
    )
)  # fmt: skip
@example(b"[1]")
@example(b'{"version": 1}')
def test_a_damaged_bench_is_no_bench(folder: Path, raw: bytes) -> None:
    (folder / ".bench").mkdir(exist_ok=True)
    (folder / ".bench" / "x.json").write_bytes(raw)
    assert estimates.kept(folder) == []


def _object(raw: bytes) -> bool:
    try:
        return isinstance(json.loads(raw), dict)
    except (ValueError, RecursionError):
        return False


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Table 1 with all its runs done."""
    folder = tmp_path_factory.mktemp("table") / "runs"
    context = finished.table1(folder, lambda answer: finished.probe_result([50.0, 51.0]))
    return context


RESULT = finished.probe_result([50.0, 51.0])


@cases(50)
@given(
    st.sampled_from(["trained", "probed"]), st.sampled_from(FILES),
    st.one_of(
        st.binary(max_size=9), JUNK.map(lambda value: json.dumps(value).encode()),
        st.tuples(st.sampled_from([*RESULT, "metrics", "spec", "identity", "tracking"]), JUNK).map(
            lambda pair: json.dumps({**RESULT, pair[0]: pair[1]}).encode()
        ),
    ),
)  # fmt: skip
@example("probed", "code.json", b"[1]")
@example("probed", "result.json", b'{"linear": [], "seconds": "x"}')
@example("trained", "spec.json", b'{"spec": {"probe": {"linear": []}, "seed": "x"}}')
def test_a_report_is_made_of_the_other_runs(table: Any, which: str, name: str, raw: bytes) -> None:
    answer = table.answers[0]
    path = table.run(getattr(answer, which)).path / name
    before = path.read_bytes() if path.exists() else None
    path.write_bytes(raw)
    try:
        document = targets.load("table1").document(table)
        assert len(document.runs) >= 2 * len(table.answers)
        if which == "probed" and name == "result.json" and not _object(raw):
            assert document.failed
    finally:
        path.unlink()
        if before is not None:
            path.write_bytes(before)


@cases(100)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=20), JUNK.map(lambda value: json.dumps(value).encode()),
            st.fixed_dictionaries(
                {"key": TEXTS, "value": st.floats(), "step": st.integers(0, 99),
                 "timestamp": st.integers(0, 99)},
            ).map(lambda row: json.dumps(row).encode()),
            st.tuples(st.sampled_from(["key", "value", "step", "timestamp"]), JUNK).map(
                lambda pair: json.dumps(
                    {"key": "a", "value": 1.0, "step": 1, "timestamp": 1, pair[0]: pair[1]}
                ).encode()
            ),
        ),
        max_size=6,
    )
)  # fmt: skip
@example([b'{"key": "a", "value": "x", "step": 1, "timestamp": 1}'])
@example([b'{"key": "a", "value": 1.0, "step": null, "timestamp": 1}'])
@example([b"[" * 100_000])
def test_the_record_of_curves_ends_where_it_is_damaged(folder: Path, lines: list[bytes]) -> None:
    (folder / "metrics.jsonl").write_bytes(b"\n".join([*lines, b""]))
    for row in metrics.read(folder):
        assert isinstance(row.key, str)
        assert isinstance(row.value, int | float)
        assert isinstance(row.step, int)
    log = metrics.MetricsLog(folder, 0)
    log.append(1, {"a": 1.0})
    assert [row.step for row in metrics.read(folder)][-1] == 1


@cases(60)
@given(st.one_of(st.binary(max_size=20), JUNK.map(lambda value: json.dumps(value).encode())))
@example(b"[1]")
@example(b'{"step": "x"}')
def test_what_was_published_is_known_or_nothing_was(folder: Path, raw: bytes) -> None:
    (folder / "published.json").write_bytes(raw)
    assert isinstance(metrics.published(folder), int)
    assert metrics.complete(folder) in (True, False)
    (folder / "published.json").unlink()


@cases(60)
@given(st.one_of(JUNK, st.dictionaries(TEXTS, JUNK, max_size=3)))
@example({"message": "caf\udce9.png is not an image"})  # a file's name that is not UTF-8
@example({"value": 10**400})
@example({"value": -0.0})
def test_a_note_is_read_as_it_was_written(folder: Path, value: Any) -> None:
    path = folder / "error.json"
    path.write_text(json.dumps(value))
    found = records.read(path)
    assert repr(found) == repr(json.loads(path.read_text()) if isinstance(value, dict) else None)
    path.unlink()
