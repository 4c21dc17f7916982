"""The harness in its short mode: whatever fault is put in, a run ends as if there had been none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import FAST, tiny
from ranks import After

from care_core import checkpoint, pretrain, probe
from care_core.errors import CheckpointError, Interrupted
from care_core.files import write_json
from care_core.spec import ProbeSpec
from carectl import jobs
from carectl.plan import Planner
from carectl.runs import Run

from . import phases

ROOT = Path(__file__).parents[2]
PARTS = ["kills", "moments", "power", "damage", "clock", "phases", "moved"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """The short mode's rows by part; one process for all of them, since torch is imported once."""
    path = tmp_path_factory.mktemp("faults") / "rows.json"
    command = [sys.executable, "-m", "tests.faults", "--short", "--json", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert path.exists(), done.stdout + done.stderr
    return dict(json.loads(path.read_text()))


@pytest.mark.parametrize("part", PARTS)
def test_nothing_is_lost(found: dict[str, list[dict[str, Any]]], part: str) -> None:
    rows = found[part]
    assert [problem for row in rows for problem in row["problems"]] == []
    for row in rows:
        assert 0 < row["injected"] == row["survived"]
        assert row["equal"] == row["ended"]


def test_another_runs_checkpoint_among_a_runs_own_is_not_measured(tmp_path: Path) -> None:
    spec = tiny(**FAST)
    run = phases.made(tmp_path / "runs", spec)
    pretrain(spec, run.path, threads=1)
    folder = run.path / "checkpoints"
    planner = Planner(tmp_path / "runs", tmp_path)
    asked = planner.probe(spec, run, epoch=2)
    assert isinstance(asked.spec, ProbeSpec)
    probing = Run(tmp_path / "runs" / "probe")
    write_json(probing.path / "job.json", {"source_run": run.id})
    own = jobs._source(probing, asked.spec)
    stray = checkpoint.read(own) | {"spec": spec.model_copy(update={"seed": 1}).model_dump_json()}
    own.unlink()
    name = checkpoint.save(folder, stray, epoch=2, step=10).path.name
    with pytest.raises(CheckpointError, match=f"{name}: is of another run .*seed 1"):
        jobs._source(probing, asked.spec)


def test_an_evaluation_that_is_told_to_stop_ends_with_a_sentence_and_begins_again(
    tmp_path: Path,
) -> None:
    spec = tiny(**FAST)
    run = phases.made(tmp_path / "runs", spec)
    pretrain(spec, run.path, threads=1)
    asked = Planner(tmp_path / "runs", tmp_path).probe(spec, run, kinds=("linear",)).spec
    assert isinstance(asked, ProbeSpec)
    file = checkpoint.at_epoch(run.path / "checkpoints", None)
    folder = tmp_path / "probe"
    with pytest.raises(Interrupted, match="stopped on request; an evaluation begins again"):
        probe(asked, folder, file, threads=1, stop=After(4))
    assert not (folder / "result.json").exists()
    assert probe(asked, folder, file, threads=1)["linear"]


def test_what_kills_left_at_the_very_end_is_cleaned_up_by_the_attempt_after_them(
    tmp_path: Path,
) -> None:
    """As after two of them: one within a checkpoint's write, one between the last and pruning."""
    spec = tiny(**FAST)
    pretrain(spec, tmp_path, threads=1)
    folder = tmp_path / "checkpoints"
    kept = checkpoint.entries(folder)
    (tmp_path / "result.json").unlink()
    (folder / f".{kept[-1].path.name}.1.tmp").write_bytes(b"half")
    older = kept[0].path.with_name(f"e0001-s00000005-{kept[0].digest}.pt")
    older.write_bytes(b"not pruned")
    pretrain(spec, tmp_path, threads=1)
    assert sorted(folder.iterdir()) == [entry.path for entry in kept]
