"""Training: what a run leaves, when it stops, what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FAST, tiny
from ranks import After, assert_as_uninterrupted, rows

from care_core import checkpoint, data, methods, metrics, pretrain
from care_core.distributed import ALONE
from care_core.errors import CareError, Interrupted, SpecError, StorageError
from care_core.files import read_json
from care_core.spec import PretrainSpec
from care_core.views.feed import Feed


def train(run_dir: Path, spec: PretrainSpec | None = None, **options: Any) -> dict[str, Any]:
    return pretrain(spec or tiny(**FAST), run_dir, threads=1, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    run_dir = tmp_path_factory.mktemp("whole")
    train(run_dir)
    return run_dir


def test_a_run_leaves_its_result_progress_record_and_checkpoints(whole: Path) -> None:
    result = read_json(whole / "result.json")
    assert (result["kind"], result["steps"], result["epochs"]) == ("pretrain", 15, 3)
    assert result["seconds"] > 0 and result["images_per_s"] > 0
    assert [entry.step for entry in checkpoint.entries(whole / "checkpoints")] == [10, 15]
    assert result["checkpoint"] == checkpoint.at_epoch(whole / "checkpoints", 3).name
    keys = {"loss", "info_nce", "equivariance", "alignment", "lr"}
    assert set(result["metrics"]) == keys | {"knn"}
    steps = {key: [step for k, _, step in rows(whole) if k == key] for key in (*keys, "knn")}
    assert steps.pop("knn") == [5, 10, 15]
    assert all(found == list(range(1, 16)) for found in steps.values())
    last = {key: value for key, value, step in rows(whole) if step == 15 and key != "epoch"}
    assert last == result["metrics"]
    assert last["loss"] == pytest.approx(last["info_nce"] + 0.1 * last["equivariance"], rel=1e-6)
    progress = read_json(whole / "progress.json")
    assert (progress["step"], progress["steps"], progress["epoch"]) == (15, 15, 3)
    assert progress["eta_s"] == 0
    assert progress["data_bound"] is None  # its images lie in memory
    assert progress["metrics"] == result["metrics"]


def test_a_trained_run_is_not_trained_again(whole: Path) -> None:
    said: list[str] = []
    assert train(whole, say=said.append) == read_json(whole / "result.json")
    assert said == ["already trained; nothing to do"]


def test_another_seed_or_spec_gives_other_weights(tmp_path: Path, whole: Path) -> None:
    short = {**FAST, "training": {"epochs": 1, "batch_size": 256}}
    specs = [tiny(**short), tiny(**short, seed=1), tiny(**short, bn={"views": "together"})]
    found = {train(tmp_path / str(n), spec)["weights_sha256"] for n, spec in enumerate(specs)}
    assert len(found) == 3
    assert train(tmp_path / "again", specs[0])["weights_sha256"] in found


@pytest.mark.parametrize("step", [3, 5, 12, 14])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    tmp_path: Path, whole: Path, step: int
) -> None:
    with pytest.raises(Interrupted, match=f"stopped on request after step {step}; it can go on"):
        train(tmp_path, stop=After(step))
    assert checkpoint.entries(tmp_path / "checkpoints")[-1].step == step
    assert not (tmp_path / "result.json").exists()
    said: list[str] = []
    train(tmp_path, say=said.append)
    epochs = [f"epoch {n}/3" for n in (1, 2, 3) if n * 5 > step]
    assert [text.partition("  ")[0] for text in said] == [
        f"resuming after step {step} of 15",
        *epochs,
    ]
    assert_as_uninterrupted(tmp_path, whole)


def test_a_run_stopped_at_every_step_but_the_last_still_ends_equal(
    tmp_path: Path, whole: Path
) -> None:
    for _ in range(14):
        with pytest.raises(Interrupted):
            train(tmp_path, stop=lambda: True)
    train(tmp_path, stop=lambda: True)
    assert_as_uninterrupted(tmp_path, whole)


@pytest.mark.parametrize("every", [1, 100])
def test_a_loss_that_is_not_finite_is_an_error_with_a_remedy(tmp_path: Path, every: int) -> None:
    spec = tiny(**FAST, optimizer={"name": "sgd", "lr": 1e30}, log={"every_steps": every})
    with pytest.raises(CareError, match=r"the loss is nan at step \d+ \(.*\); lower optimizer.lr"):
        train(tmp_path, spec)
    assert checkpoint.entries(tmp_path / "checkpoints") == []  # none of lost weights
    assert not (tmp_path / "result.json").exists()


def test_a_batch_larger_than_the_images_that_are_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = data.load(tiny(**FAST).data, "train", Path()).take(torch.arange(100))
    monkeypatch.setattr(data, "load", lambda *_, **named: images)
    with pytest.raises(SpecError, match=r"batch_size: 256 is larger than digits, which has 100 im"):
        train(tmp_path)


@pytest.mark.parametrize("below", ["", "a/b"])
def test_a_file_in_the_place_of_the_run_folder_is_said_with_a_remedy(
    tmp_path: Path, below: str
) -> None:
    (tmp_path / "run").write_text("mine")
    run_dir = tmp_path / "run" / below
    with pytest.raises(StorageError, match=rf"{run_dir}: cannot write .*make the folder writable"):
        train(run_dir)
    assert (tmp_path / "run").read_text() == "mine"


def test_checkpoints_are_kept_and_spaced_as_the_spec_says(tmp_path: Path) -> None:
    spec = tiny(**FAST, checkpoint={"every_epochs": 2, "keep": "all"})
    train(tmp_path / "epochs", spec)
    assert [e.step for e in checkpoint.entries(tmp_path / "epochs" / "checkpoints")] == [10, 15]
    spec = tiny(**FAST, checkpoint={"every_minutes": 1e-9, "keep": "all"})
    train(tmp_path / "minutes", spec)
    found = [entry.step for entry in checkpoint.entries(tmp_path / "minutes" / "checkpoints")]
    assert found == list(range(1, 16))


def test_a_tracker_is_told_only_of_what_a_checkpoint_holds(tmp_path: Path) -> None:
    told: list[int] = []

    class Tracker:
        def committed(self, step: int) -> None:
            assert checkpoint.entries(tmp_path / "checkpoints")[-1].step == step
            assert {row.step for row in metrics.read(tmp_path)} >= set(range(1, step + 1))
            told.append(step)

    train(tmp_path, tracker=Tracker())
    assert told == [5, 10, 15]


def test_the_first_step_is_a_fresh_method_on_the_feeds_first_images(tmp_path: Path) -> None:
    spec = tiny(**FAST, equivariance={"weight": 0.5, "splits": 8}, method={"name": "barlow"})
    with pytest.raises(Interrupted):
        train(tmp_path, spec, stop=After(1))
    images = data.load(spec.data, "pretrain", Path())
    (step,) = Feed(spec, images, ALONE, torch.device("cpu")).steps(0, 1)
    _, wanted = methods.build(spec, ALONE)(step)
    found = {key: value for key, value, at in rows(tmp_path) if at == 1}
    assert found.keys() == wanted.keys() | {"lr"}
    assert all(found[key] == pytest.approx(float(value)) for key, value in wanted.items())
