"""How costs grow: the losses, real ranks, commands over many runs, and the model on paper."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import FAST, Project, tiny

from care_core.bench.communication import BETWEEN, INSIDE, exchanged
from care_core.bench.scaling import loss_costs, rank_costs
from care_core.spec import PretrainSpec
from carectl import runs, scaling, yamlpos


def cifar(**changes: object) -> PretrainSpec:
    fields = {"name": "x", "data": {"name": "cifar10"}, "model": {"backbone": "resnet18"}}
    return PretrainSpec.model_validate({**fields, **changes})


def test_both_losses_are_timed_at_each_batch() -> None:
    costs = list(loss_costs((32, 64), repeats=1, dimension=8, threads=1))
    assert [cost.batch for cost in costs] == [32, 64]
    assert all(cost.info_nce_s > 0 and cost.equivariance_s > 0 for cost in costs)


def test_one_and_two_real_ranks_share_a_batch() -> None:
    costs = rank_costs(tiny(**FAST), (1, 2), repeats=1)
    assert [(cost.ranks, cost.batch) for cost in costs] == [(1, 256), (2, 256)]
    assert all(cost.step_s > 0 for cost in costs)


def test_the_model_counts_the_bytes_that_a_ring_sends() -> None:
    two, eight, sixteen = (exchanged(cifar(), ranks, 0.1) for ranks in (2, 8, 16))
    weights = 11_168_832 + 512 * 512 + 2 * 512 + 512 * 128 + 128  # the backbone, the projector
    assert two.gradients == 4 * weights
    assert eight.gradients == pytest.approx(two.gradients * 2 * 7 / 8)
    # both views' rows of all ranks but the own ones
    assert eight.embeddings == 7 * 256 * 128 * 4 * 2
    assert two.moments == 0
    assert eight.seconds == pytest.approx((eight.gradients + eight.embeddings) / INSIDE)
    assert sixteen.seconds == pytest.approx((sixteen.gradients + sixteen.embeddings) / BETWEEN)
    assert eight.share == pytest.approx(eight.seconds / (eight.seconds + 0.1))


def test_local_negatives_send_no_embeddings_and_synchronised_norms_send_moments() -> None:
    fields = {"bn": {"sync": True}, "loss": {"negatives": "local"}}
    found = exchanged(cifar(**fields), 2, 0.1)
    channels = 4800 + 512  # of the ResNet's norms, and of the projector's
    assert found.embeddings == 0
    assert found.moments == 2 * 4 * channels * 4  # two views; two numbers forward, two backward


def test_a_run_is_found_by_its_hash_the_moment_it_is_there(tmp_path: Path) -> None:
    digits = "0123456789ab"
    assert runs.by_hash(tmp_path, digits + "c" * 52) is None
    for name in ("a", "b-c"):
        folder = tmp_path / f"{name}-{digits}"
        folder.mkdir()
        sha256 = digits + name[0] * 52
        (folder / "spec.json").write_text(json.dumps({"sha256": sha256}))
        found = runs.by_hash(tmp_path, sha256)
        assert found and found.path == folder
    (tmp_path / f"a-{digits}").rename(tmp_path / f"z-{digits}")
    found = runs.by_hash(tmp_path, digits + "a" * 52)
    assert found and found.id == f"z-{digits}"
    assert runs.by_hash(tmp_path / "none", digits) is None


def test_a_text_that_is_read_again_is_read_alike_whatever_was_done_to_the_first() -> None:
    first = yamlpos.parse("a: {b: 1}\nc: [2]", "x.yaml")
    first.value["a"]["b"] = 9
    first.forget(("c",))
    second = yamlpos.parse("a: {b: 1}\nc: [2]", "x.yaml")
    assert second.value == {"a": {"b": 1}, "c": [2]}
    assert second.of_key(("c",)).line == 2


def test_made_up_runs_are_what_a_plan_reuses_and_a_report_reads(project: Project) -> None:
    grid = ["table1", "--profile", "digits", "--only", "CARE-SimCLR", "--seeds", "0,1"]
    plan = project.json("reproduce", *grid, "--dry-run")["plan"]
    scaling.fill(project.runs, plan)
    again = project.json("reproduce", *grid, "--dry-run")["plan"]
    assert [run["action"] for run in again] == ["reused"] * 4
    assert [run["sha256"] for run in again] == [run["sha256"] for run in plan]
    assert {line["state"] for line in project.json("status")["runs"]} == {"done"}
