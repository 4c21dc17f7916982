"""The main job as a person does it: pretrain, probe, look, ask again, kill it, go on."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Project, tiny, wait_until
from mlflow import MlflowClient

import care_core
from care_core.files import read_json


def mlflow_run(project: Project, run: str) -> tuple[MlflowClient, str]:
    job = read_json(project.runs / run / "job.json")
    assert job["tracking"]["uri"] == f"sqlite:///{project.path}/mlflow.db"
    return MlflowClient(job["tracking"]["uri"]), job["tracking"]["run_id"]


def curves(project: Project, run: str) -> dict[str, list[tuple[int, float]]]:
    """MLflow's curves of a run: key → (step, value) in order."""
    client, run_id = mlflow_run(project, run)
    keys = client.get_run(run_id).data.metrics
    found = {key: client.get_metric_history(run_id, key) for key in keys}
    return {key: sorted((m.step, m.value) for m in rows) for key, rows in found.items()}


def recorded(project: Project, run: str) -> dict[str, list[tuple[int, float]]]:
    """The same from the run folder."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in (project.runs / run / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        found.setdefault(row["key"], []).append((row["step"], row["value"]))
    return {key: sorted(rows) for key, rows in found.items()}


def undisturbed(tmp_path: Path, spec: Any) -> str:
    result = care_core.pretrain(spec, tmp_path / "undisturbed", threads=1)
    return str(result["weights_sha256"])


@pytest.mark.usefixtures("cold")
def test_pretrain_then_eval_then_status_is_tracked_and_asked_again_is_reused(
    project: Project,
) -> None:
    spec = project.write(tiny())
    asked = project.json("pretrain", spec, "-o", "seed=3", "--tag", "purpose=test")
    (trained,) = asked["runs"]
    assert trained["state"] == "done"
    assert trained["kind"] == "pretrain"
    run = trained["run"]

    probed = project.json("eval", run, "--plots")["runs"][0]
    assert probed["state"] == "done"
    assert set(probed["result"]["linear"]) == {"backbone", "projection"}
    assert (project.runs / probed["run"] / "artifacts/geometry.png").stat().st_size > 5000

    client, run_id = mlflow_run(project, run)
    tracked = client.get_run(run_id)
    assert tracked.info.status == "FINISHED"
    assert tracked.data.params["training.batch_size"] == "128"
    assert tracked.data.params["seed"] == "3"
    tags = tracked.data.tags
    record = read_json(project.runs / run / "spec.json")
    assert (tags["run_id"], tags["spec_hash"]) == (run, record["sha256"])
    assert (tags["dataset"], tags["method"], tags["seed"]) == ("digits", "care-simclr", "3")
    assert tags["purpose"] == "test"
    assert curves(project, run) == recorded(project, run)
    artifacts = {file.path for file in client.list_artifacts(run_id)}
    assert {"spec.yaml", "curves.png"} <= artifacts
    _, probe_id = mlflow_run(project, probed["run"])
    child = client.get_run(probe_id)
    assert child.data.tags["mlflow.parentRunId"] == run_id
    pictures = {file.path for file in client.list_artifacts(probe_id)}
    assert {"curves.png", "embedding.png", "geometry.png"} <= pictures
    assert child.data.metrics["knn.backbone"] == probed["result"]["knn"]["backbone"]

    code = read_json(project.runs / run / "code.json")
    assert code["command"][1:3] == ["pretrain", spec]
    assert {"commit", "diff", "packages", "host"} <= set(code)
    assert code["hardware"]["cores"] >= 1
    assert code["packages"]["torch"]
    before = (project.runs / run / "result.json").stat().st_mtime_ns
    again = project.json("pretrain", spec, "-o", "seed=3", "-o", "name=another/name",
                         "-o", "probe.linear.epochs=6")  # fmt: skip
    assert [planned["action"] for planned in again["plan"]] == ["reused"]
    assert "probe.linear.epochs 5 (asked: 6)" in again["plan"][0]["reason"]
    assert again["runs"][0]["run"] == run
    assert (project.runs / run / "result.json").stat().st_mtime_ns == before

    listed = project.json("status")["runs"]
    assert {(r["run"], r["state"]) for r in listed} == {(run, "done"), (probed["run"], "done")}
    shown = project.carectl("status", run).stdout
    assert run_id in shown
    assert shown.splitlines()[-1].startswith("Next: ")


def test_a_dry_run_prints_the_plan_and_leaves_nothing(project: Project) -> None:
    spec = project.write(tiny())
    plan = project.json("pretrain", spec, "--dry-run")["plan"]
    assert [run["action"] for run in plan] == ["new"]
    assert not list(project.runs.glob("*"))
    submitted = project.json("pretrain", spec)["plan"]
    assert [run["run"] for run in submitted] == [run["run"] for run in plan]


def test_a_changed_setting_is_another_run_and_the_plan_says_what_differs(project: Project) -> None:
    spec = project.write(tiny(training={"epochs": 1, "batch_size": 128}))
    project.carectl("pretrain", spec)
    (run,) = project.json("pretrain", spec, "-o", "optimizer.lr=2e-3", "--dry-run")["plan"]
    assert run["action"] == "new"
    assert run["reason"] == "optimizer.lr: 0.001 → 0.002"
    project.carectl("pretrain", spec, "-o", "optimizer.lr=2e-3")
    one, other = (r["run"] for r in project.json("status")["runs"])
    shown = project.carectl("spec", "diff", one, other).stdout.splitlines()
    assert len(shown) == 1 and shown[0].startswith("optimizer.lr: ")


@pytest.mark.long
def test_a_run_killed_again_and_again_ends_bitwise_as_if_it_had_not_been(
    project: Project, tmp_path: Path
) -> None:
    spec = tiny(training={"epochs": 8, "batch_size": 128})
    expected = undisturbed(tmp_path, spec)
    name = project.write(spec)
    chance = random.Random(0)
    kills = 0
    for _ in range(4):
        project.carectl("pretrain", name, "--detach")
        wait_until(project.steps)
        time.sleep(chance.uniform(0, 2))
        kills += project.kill_jobs()
    assert kills >= 2
    (done,) = project.json("pretrain", name)["runs"]
    assert done["state"] == "done"
    assert done["result"]["weights_sha256"] == expected
    rows = curves(project, done["run"])
    assert rows == recorded(project, done["run"])
    assert [step for step, _ in rows["loss"]] == list(range(1, 8 * 11 + 1))
    client, run_id = mlflow_run(project, done["run"])
    assert client.get_run(run_id).info.status == "FINISHED"
    experiment = client.get_run(run_id).info.experiment_id
    assert [r.info.status for r in client.search_runs([experiment])] == ["FINISHED"]


def test_a_job_killed_as_it_ends_is_completed_in_mlflow_by_the_next_command(
    project: Project,
) -> None:
    name = project.write(tiny())
    run = project.json("pretrain", name)["runs"][0]["run"]
    client, run_id = mlflow_run(project, run)
    # as if it had been killed between its result and its last word to MLflow
    client.update_run(run_id, status="RUNNING")
    (project.runs / run / "published.json").unlink()
    assert project.json("pretrain", name)["plan"][0]["action"] == "reused"
    assert client.get_run(run_id).info.status == "FINISHED"
    assert curves(project, run) == recorded(project, run)


def test_a_kill_while_mlflows_store_is_made_leaves_none_that_is_broken(project: Project) -> None:
    (project.path / "mlflow.db").unlink()
    name = project.write(tiny(training={"epochs": 1, "batch_size": 128}))
    begun = project.start("pretrain", name)
    wait_until(lambda: list(project.path.glob(".mlflow.db.*.tmp")))
    begun.kill()
    begun.communicate()
    assert not (project.path / "mlflow.db").exists()
    assert project.json("pretrain", name)["runs"][0]["state"] == "done"
    assert not list(project.path.glob(".mlflow.db.*"))


def test_mlflow_that_is_away_stops_a_submission_with_the_remedy_and_no_training(
    project: Project,
) -> None:
    name = project.write(tiny())
    away = "http://user:secret@127.0.0.1:9/"
    done = project.carectl("pretrain", name, code=3, MLFLOW_TRACKING_URI=away)
    assert "unset MLFLOW_TRACKING_URI" in done.stderr
    assert "secret" not in done.stderr + done.stdout


def test_control_c_detaches_and_the_job_goes_on(project: Project) -> None:
    name = project.write(tiny(training={"epochs": 400, "batch_size": 128}))
    waiting = project.start("pretrain", name)
    wait_until(project.steps)
    waiting.send_signal(signal.SIGINT)
    _, err = waiting.communicate(timeout=60)
    assert waiting.returncode == 130
    assert "Detached" in err
    assert "carectl cancel" in err
    (seen,) = project.steps()
    wait_until(lambda: project.steps()[0] > seen + 5)
    assert project.json("status")["runs"][0]["state"] == "running"


def test_a_job_that_fails_says_why_and_exits_1(project: Project) -> None:
    name = project.write(tiny(optimizer={"name": "sgd", "lr": 1e30}))
    done = project.carectl("pretrain", name, code=1)
    assert "lower optimizer.lr" in done.stdout + done.stderr
    (run,) = project.json("status", "--state", "failed")["runs"]
    assert "lower optimizer.lr" in run["reason"]
    assert "lower optimizer.lr" in project.carectl("logs", run["run"]).stdout
    client, run_id = mlflow_run(project, run["run"])
    assert client.get_run(run_id).info.status == "FAILED"


def test_eval_of_a_run_that_is_not_done_is_refused_unless_an_epoch_is_named(
    project: Project,
) -> None:
    name = project.write(tiny(training={"epochs": 300, "batch_size": 128}))
    project.carectl("pretrain", name, "--detach")
    wait_until(lambda: list(project.path.glob("runs/*/checkpoints/e0001*.pt")))
    run = project.json("status")["runs"][0]["run"]
    assert "--epoch N" in project.carectl("eval", run, code=2).stderr
    cancelled = project.carectl("cancel", run).stdout
    assert "cancelled" in cancelled
    assert project.json("status", run)["runs"][0]["state"] == "cancelled"
    last = max(int(p.name[1:5]) for p in project.path.glob("runs/*/checkpoints/*.pt"))
    probed = project.json("eval", run, "--epoch", str(last), "--probe", "knn")["runs"][0]
    assert list(probed["result"]["knn"]) == ["backbone", "projection"]


def test_a_checkpoint_file_can_be_probed_and_a_pickle_cannot(project: Project) -> None:
    import pickle

    care_core.pretrain(tiny(training={"epochs": 1, "batch_size": 128}), project.path / "elsewhere")
    (file,) = (project.path / "elsewhere/checkpoints").glob("*.pt")
    file = file.rename(project.path / "mine.pt")
    found = project.json("eval", "mine.pt", "--probe", "knn")["runs"][0]
    assert found["state"] == "done"
    (project.path / "evil.pt").write_bytes(pickle.dumps(print))
    assert "refused" in project.carectl("eval", "evil.pt", code=3).stderr


@pytest.mark.long
def test_the_table_is_made_from_its_runs_and_names_them(project: Project) -> None:
    found = project.json("reproduce", "table1", "--profile", "smoke")
    assert [run["action"] for run in found["plan"]] == ["new"] * 4
    assert {status["state"] for status in found["states"].values()} == {"done"}
    numbers = found["documents"]["table1"]["data"]["lines"]
    lines = {(x["row"], x["measure"]): x for x in numbers}
    assert {row for row, _ in lines} == {"SimCLR", "CARE-SimCLR"}
    headline = lines["CARE-SimCLR", "linear, backbone"]
    (probe,) = headline["probes"]
    scores = read_json(project.runs / probe / "result.json")["linear"]["backbone"]
    assert headline["mean"] == pytest.approx(sum(scores) / len(scores))
    for path in found["report"].values():
        assert (project.path / path).stat().st_size > 0

    again = project.carectl("reproduce", "table1", "--profile", "smoke")
    assert again.stderr.count("reused") == 4
    for (_, _), line in lines.items():
        for run in (*line["pretrains"], *line["probes"]):
            assert run.rsplit("-", 1)[-1] in again.stdout
    assert "not evidence" in again.stdout
    assert again.stdout.splitlines()[-1].startswith("Next: ")
