"""`carectl reproduce` and `spec` with presets, as a person would call them."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import Project, tiny

from care_core.spec import BYOL, PretrainSpec, Training
from carectl import estimates, specs
from carectl.identity import Identity
from carectl.plan import Planned


def test_all_datasets_that_are_not_there_are_told_at_once_with_their_remedy(
    project: Project,
) -> None:
    told = project.carectl("reproduce", "table1", "--dry-run", code=3).stderr
    assert told.startswith("error: 4 of 4 datasets cannot be used; --profile digits needs no files")
    for name in ("cifar10", "cifar100", "stl10", "imagenet100"):
        assert sum(line.startswith(f"{name}: ") for line in told.splitlines()) == 1
        assert f"carectl data prepare {name}" in told
    one = project.carectl("reproduce", "table1", "--dry-run", "--only", "stl10", code=3).stderr
    assert one.startswith("error: 1 of 1 datasets") and "cifar10" not in one


def test_the_grid_of_all_methods_is_planned_on_digits_without_any_files(project: Project) -> None:
    found = project.json("reproduce", "table1", "--profile", "digits-all", "--dry-run")
    assert [run["kind"] for run in found["plan"]] == ["pretrain", "probe"] * 9
    assert len({run["sha256"] for run in found["plan"]}) == 18
    assert {run["action"] for run in found["plan"]} == {"new"}


def test_a_preset_is_other_runs_and_another_report(project: Project) -> None:
    def plan(*arguments: str) -> set[str]:
        found = project.json("reproduce", "table1", "--profile", "smoke", "--dry-run", *arguments)
        return {run["sha256"] for run in found["plan"]}

    assert plan() == plan("-o", "fidelity=paper")
    assert not plan() & plan("-o", "fidelity=official")


def test_a_report_of_other_settings_never_replaces_another(project: Project) -> None:
    def folder(*arguments: str) -> str:
        found = project.json("report", "table1", "--profile", "smoke", *arguments)
        assert found["documents"]["table1"]["data"]["fidelity"] == (
            "official" if "official" in str(arguments) else "paper"
        )
        return str(found["report"]["md"]).removeprefix("reports/").removesuffix("/table1.md")

    assert folder() == "table1-smoke"
    assert folder("-o", "log.every_steps=3", "-o", "launch.partition=gpu") == "table1-smoke"
    assert folder("-o", "fidelity=official") == "table1-smoke-official"
    changed = folder("-o", "training.epochs=2")
    assert changed.startswith("table1-smoke-changed-")
    assert folder("-o", "training.epochs=3") not in ("table1-smoke", changed)
    assert folder("--seeds", "0,1") == "table1-smoke-seeds-0-1"
    assert folder("--only", "care") == "table1-smoke-only-care"
    assert folder("--only", "s/care").startswith("table1-smoke-only-1-")


def test_a_report_says_which_settings_are_not_the_recipes(project: Project) -> None:
    found = project.json("report", "table1", "--profile", "smoke", "-o", "optimizer.lr=0.5")
    changes = found["documents"]["table1"]["data"]["changes"]
    assert "optimizer.lr 0.5 (recipe 0.001)" in changes
    assert "training.epochs 1 (recipe 30)" in changes
    told = project.carectl("report", "table1", "--profile", "digits").stdout
    assert "Not the recipes' settings" not in told


def test_spec_show_ends_with_what_the_preset_chose(project: Project) -> None:
    shown = project.carectl("spec", "show", "cifar10/care-simclr", "-o", "fidelity=official").stdout
    assert "\n#   1 equivariance.shared_by: step (one pair for all splits" in shown
    assert "\n#     equivariance.weight: 0.03\n" in shown
    (project.path / "shown.yaml").write_text(shown)
    loaded = specs.load(project.path / "shown.yaml")
    assert loaded == specs.load(specs.find("cifar10/care-simclr"), ["fidelity=official"])
    found = project.json("spec", "show", "cifar10/care-simclr", "-o", "fidelity=official")
    assert found["official"] == {"equivariance.weight": 0.03}
    assert {key: value for key, value in found["preset"][-1].items() if key != "reason"} == {
        "number": 13,
        "key": "bn.replicas",
        "value": 2,
    }


def test_spec_diff_shows_what_another_preset_or_method_changes(project: Project) -> None:
    same = ["spec", "diff", "stl10/simclr", "stl10/simclr"]
    assert project.carectl(*same).stdout == "the same\n"
    told = project.carectl(*same, "-o", "fidelity=official").stdout.splitlines()
    assert "optimizer.momentum: 0.9 → 0.0" in told and "fidelity: paper → official" in told
    found = project.json("spec", "diff", "digits/simclr", "digits/equimod-byol")
    assert found["differences"]["method.base.name"] == [None, "byol"]
    assert found["differences"]["method.name"] == ["simclr", "equimod"]
    assert json.dumps(found["differences"]["method.temperature"]) == "[0.5, 0.2]"


def estimate(runs: Path, spec: PretrainSpec) -> float | None:
    """Estimated GPU-hours of a spec that is planned beside the runs of a folder."""
    planned = Planned(
        "pretrain", spec.name, Identity({}, "0" * 64, "new"), spec, "", spec.launch, run_id="new"
    )
    found = estimates.gpu_hours(runs, [planned])
    return found["new"].gpu_hours if found else None


def test_hours_are_estimated_from_runs_that_did_the_same_work(tmp_path: Path) -> None:
    folder = {"name": "folder", "path": "flowers"}
    done = tiny(data=folder, training={"epochs": 9, "batch_size": 100}, equivariance={"weight": 0})
    (tmp_path / "run").mkdir()
    record = {"kind": "pretrain", "spec": done.model_dump(mode="json")}
    (tmp_path / "run" / "spec.json").write_text(json.dumps(record))
    asked = done.model_copy(update={"training": Training(epochs=36, batch_size=100)})
    assert estimate(tmp_path, asked) is None
    result = {"images_per_s": 50.0, "images": 1050}  # how many, only its files could tell
    (tmp_path / "run" / "result.json").write_text(json.dumps(result))
    assert estimate(tmp_path, asked) == 36 * 1000 / 50 / 3600
    assert estimate(tmp_path, asked.model_copy(update={"method": BYOL()})) is None
