"""What goes to SLURM is what was meant: no value becomes a line or a command of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from conftest import tiny

from care_core.files import write_json
from carectl import runs
from carectl.backends import base, slurm
from carectl.plan import Planner
from carectl.runs import Run

HOSTILE = (
    "a\nb",
    "a\n#SBATCH --wrap=id",
    "$(id)",
    "`id`",
    "a;id",
    "a b",
    "a'b",
    'a"b',
    "--x",
    "a\\",
)


@pytest.mark.parametrize("key", ["partition", "account", "qos", "time", "mem", "exclude"])
def test_a_launch_value_is_a_word(key: str) -> None:
    for value in HOSTILE:
        with pytest.raises(ValueError, match=key):
            tiny(launch={key: value})


def test_an_sbatch_file_has_nothing_but_what_was_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "srun").write_text("#!/bin/sh\n")  # submitit looks for one
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for options in (
        {"comment": "a\nid"}, {"a b": 1}, {"wrap": "id"}, {"wra": "id"}, {"outp": "/x"}, {"-x": 1},
        {"export": "ALL"}, {"Wrap": "id"},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="sbatch"):
            tiny(launch={"sbatch": options})
    for line in (
        "a\nb",
        "#SBATCH --uid=0",
        "export API_KEY=abc",
        "curl http://a:b@c",
        "X_TOKEN='a'",
        "export SMTP_PASS=abc",
        "hf auth login --token abcdef",
        "curl -H 'Authorization: token abcdef' https://x",
        "curl -H 'X-Api-Key: abcdef' https://x",
        "wandb login npm_abcdefghijklmnopq",
    ):
        with pytest.raises(ValueError, match="setup"):
            tiny(launch={"setup": [line]})
    quoted = "$(id) `id` 'a' \"b\" ; id"
    spec = tiny(launch={"sbatch": {"comment": quoted, "gpus": 1},
                        "setup": [". ~/.secrets", "export X_TOKEN=$(cat ~/.token)",
                                  "hf auth login --token $HF_TOKEN", "tokenize --token-length 5",
                                  "curl -H \"Authorization: Bearer $X_TOKEN\" x"]})  # fmt: skip
    planner = Planner(tmp_path / "runs", tmp_path / "data")
    planned = planner.pretrain(spec)
    job = base.Job(Run(tmp_path / "runs" / planned.run_id), (), planned.launch)
    (text,) = slurm.SlurmBackend(tmp_path / "runs").preview([job])
    active = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert [line for line in active if "id" in line.split()] == []
    assert active[:2] == [". ~/.secrets", "export X_TOKEN=$(cat ~/.token)"]
    (comment,) = [line for line in text.splitlines() if "--comment" in line]
    shown = subprocess.run(
        ["bash", "-c", f"printf %s {comment.removeprefix('#SBATCH --comment=')}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert shown.stdout == quoted


@pytest.mark.parametrize(
    "job", ["1\nrm -rf ~", "--me", "1;x", "", "1_2_3", None, "1 --user=me", "../1", "1*"]
)
def test_a_jobs_number_is_a_number_wherever_it_comes_from(tmp_path: Path, job: object) -> None:
    run = Run(tmp_path / "runs/x-000000000000")
    write_json(run.path / "attempts/1/submission.json", {
        "job": job, "at": 1e12, "logs": str(tmp_path),
    })  # fmt: skip
    (tmp_path / "1_0_log.out").write_text("x")
    assert slurm.job_id({"job": job}) is None
    assert slurm.SlurmBackend(tmp_path / "runs")._id(run.id, {}) is None
    assert slurm.cancel(run, "cancelled", "") is False
    assert runs.logs(run.attempts[-1], 0) == []
    assert slurm.job_id({"job": "12_3"}) == "12_3" and slurm.job_id({"job": 12}) == "12"
