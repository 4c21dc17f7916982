"""Runs that answer several questions: probes that measure more, checkpoints for all who ask."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Project, tiny
from finished import finish, probe_result

from carectl import reuse, runs
from carectl.console.output import Output
from carectl.flow import Options, carry_out
from carectl.plan import Planned, Planner
from carectl.runs import Run


@pytest.fixture
def planner(tmp_path: Path) -> Planner:
    return Planner(tmp_path / "runs", tmp_path)


def kinds(planned: Planned) -> tuple[str, ...]:
    return tuple(planned.spec.kinds)  # type: ignore[union-attr]


def test_what_a_plan_asks_of_one_encoder_in_several_places_is_one_probe(planner: Planner) -> None:
    trained = planner.pretrain(tiny())
    asked = [
        planner.probe(tiny(), trained, kinds=("linear",)),
        planner.probe(tiny(), trained, kinds=("geometry", "knn")),
        planner.probe(tiny(), trained, kinds=("knn",)),
        planner.probe(tiny(), trained),
    ]
    plan = planner.refresh()
    assert [run.kind for run in plan] == ["pretrain", "probe"]
    assert kinds(plan[1]) == ("linear", "knn", "geometry")
    assert {planner.final(probe).run_id for probe in asked} == {plan[1].run_id}
    alone = Planner(planner.runs_dir, planner.data_dir)
    alone.pretrain(tiny())
    assert alone.probe(tiny(), trained).identity == plan[1].identity


def test_other_epochs_seeds_or_settings_are_probes_of_their_own(planner: Planner) -> None:
    trained = planner.pretrain(tiny())
    planner.probe(tiny(), trained, kinds=("knn",))
    planner.probe(tiny(), trained, kinds=("knn",), epoch=1)
    planner.probe(tiny(probe={"knn": {"k": 3}}), trained, kinds=("knn", "geometry"))
    planner.probe(tiny(), planner.pretrain(tiny(seed=1)), kinds=("knn",))
    assert [run.kind for run in planner.refresh()].count("probe") == 4


def test_a_done_probe_that_measured_more_is_reused_and_one_that_measured_less_is_not(
    planner: Planner, tmp_path: Path
) -> None:
    trained = planner.pretrain(tiny())
    whole = planner.probe(tiny(), trained, kinds=("linear", "knn"))
    finish(whole, planner.runs_dir, probe_result([90.0]))
    later = Planner(planner.runs_dir, tmp_path)
    trained = later.pretrain(tiny())
    part = later.probe(tiny(), trained, kinds=("knn",))
    more = later.probe(tiny(), trained)
    actions = {run.run_id: run.action for run in later.refresh()}
    assert later.final(part).run_id == whole.run_id and actions[whole.run_id] == "reused"
    assert later.final(more).run_id != whole.run_id
    assert actions[later.final(more).run_id] == "new"
    other = later.probe(tiny(probe={"knn": {"k": 3}}), trained, kinds=("knn",))
    assert later.final(other).run_id not in (whole.run_id,)


def test_a_probe_that_is_not_done_answers_nothing_else(planner: Planner, tmp_path: Path) -> None:
    whole = planner.probe(tiny(), planner.pretrain(tiny()))
    finish(whole, planner.runs_dir, probe_result([90.0]))
    (planner.runs_dir / whole.run_id / "result.json").unlink()
    later = Planner(planner.runs_dir, tmp_path)
    part = later.probe(tiny(), later.pretrain(tiny()), kinds=("knn",))
    assert later.final(part).run_id != whole.run_id


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [("last", 4, 4), (6, 4, 2), ("all", 5, "all"), (3, "last", 3), ("last", "last", "last")],
)
def test_a_pretraining_keeps_the_checkpoints_that_all_its_askers_need(
    planner: Planner, one: int | str, other: int | str, both: int | str
) -> None:
    for keep in (one, other):
        planner.pretrain(tiny(checkpoint={"keep": keep}))
    (run,) = planner.refresh()
    assert run.spec.checkpoint.keep == both  # type: ignore[union-attr]
    assert f"keep: {both}" in run.yaml


@pytest.mark.parametrize(
    ("keep", "every", "kept"), [("last", 4, (2, 2)), (5, 3, (2, 1)), ("all", 4, ("all", 2))]
)
def test_a_pretraining_saves_at_the_epochs_that_are_probed(
    keep: str | int, every: int, kept: tuple[str | int, int]
) -> None:
    spec = tiny(
        checkpoint={"keep": keep, "every_epochs": every},
        training={"epochs": 9, "batch_size": 128},
    )
    found = reuse.keeping(spec, (0, 4, 6, 9)).checkpoint
    assert (found.keep, found.every_epochs) == kept
    assert reuse.keeping(spec, (0, 9)) == spec


def test_an_epoch_that_a_done_pretraining_did_not_keep_is_told_and_not_waited_for(
    planner: Planner,
) -> None:
    trained = planner.pretrain(tiny())
    finish(trained, planner.runs_dir, {"kind": "pretrain"})
    folder = Run(planner.runs_dir / trained.run_id).path / "checkpoints"
    folder.mkdir()
    (folder / "e0002-s00000022-0123456789abcdef.pt").write_bytes(b"")
    assert runs.epochs(Run(folder.parent)) == [2]
    for epoch in (1, 2):
        planner.probe(tiny(), trained, epoch=epoch, kinds=("knn",))
    first, second = [run for run in planner.refresh() if run.kind == "probe"]
    assert first.action == "blocked" and "kept no checkpoint of epoch 1" in first.reason
    assert second.action == "new"


def test_a_plan_with_a_hopeless_run_ends_and_says_why(project: Project) -> None:
    planner = Planner(project.runs, project.path)
    trained = planner.pretrain(tiny())
    finish(trained, planner.runs_dir, {"kind": "pretrain"})
    probe = planner.probe(tiny(), trained, epoch=1, kinds=("knn",))
    outcome = carry_out(planner, Options(runs_dir=project.runs), Output(as_json=False), "eval")
    assert outcome.code == 1 and outcome.states is not None
    assert [run.run_id for run in outcome.failed] == [probe.run_id]
    assert outcome.states[probe.run_id].state == "blocked"
    assert "epoch 1" in outcome.states[probe.run_id].reason
