"""What training lets into the kNN check: never the test set, but for the official leaks by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny
from ranks import After, Launch, assert_as_uninterrupted, left, newest, rows, run
from torch import Tensor

from care_core import checkpoint, data, pretrain
from care_core.errors import Interrupted
from care_core.files import read_json
from care_core.measures import knn
from care_core.measures.probing import load_encoder
from care_core.spec import PretrainSpec


def official(epochs: int = 1, **changes: Any) -> PretrainSpec:
    """The official preset, without the settings that a monitor does not need."""
    fields = {
        "fidelity": "official", "bn": {"replicas": 1}, "data": {"name": "digits", "image_size": 8},
        "training": {"epochs": epochs, "batch_size": 256}, **changes,
    }  # fmt: skip
    return tiny(**fields)


def paper(epochs: int = 1) -> PretrainSpec:
    return official(epochs, fidelity="paper")


def statistics(run_dir: Path) -> dict[str, Tensor]:
    """Of the saved encoder; and the weights beside them, under their names."""
    return dict(newest(run_dir)["model"])


@pytest.fixture
def splits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The splits that are loaded, as they are."""
    loaded: list[str] = []
    load = data.load

    def spy(spec: Any, split: Any, *rest: Any, **named: Any) -> Any:
        loaded.append(split)
        return load(spec, split, *rest, **named)

    monkeypatch.setattr(data, "load", spy)
    return loaded


def test_a_run_never_touches_the_test_set(tmp_path: Path, splits: list[str]) -> None:
    pretrain(paper(), tmp_path, threads=1)
    assert splits == ["pretrain", "train"]
    assert [key for key, *_ in rows(tmp_path) if key == "knn"] == ["knn"]


def test_the_official_check_reads_the_test_set(tmp_path: Path, splits: list[str]) -> None:
    pretrain(official(), tmp_path, threads=1)
    assert splits == ["pretrain", "train", "test"]
    spec = official()
    sets = [data.load(spec.data, split, Path()) for split in ("train", "test")]
    encoder = load_encoder(checkpoint.at_epoch(tmp_path / "checkpoints", None))
    found = [value for key, value, _ in rows(tmp_path) if key == "knn"]
    assert found == [knn.check(encoder, *sets, spec=spec)]


def test_an_official_check_in_train_mode_drifts_the_saved_statistics_and_no_weight(
    tmp_path: Path,
) -> None:
    pretrain(official(), tmp_path / "still", threads=1)
    pretrain(official(monitor={"train_mode": True, "k": 20}), tmp_path / "drift", threads=1)
    still, drift = statistics(tmp_path / "still"), statistics(tmp_path / "drift")
    assert still.keys() == drift.keys()
    moved = {key for key in still if not torch.equal(still[key], drift[key])}
    assert moved and all("running" in key or "tracked" in key for key in moved)
    name = "backbone.1.running_mean"
    assert name in moved
    # 1437 + 360 images by 512 a time are four batches more
    counts = [int(part["backbone.1.num_batches_tracked"]) for part in (still, drift)]
    assert counts[1] - counts[0] == 4
    # towards those of images that are not augmented
    spec = official()
    images = data.load(spec.data, "train", Path())
    encoder = load_encoder(checkpoint.at_epoch(tmp_path / "still" / "checkpoints", None))
    knn.check(encoder, images, data.load(spec.data, "test", Path()), spec=spec, train_mode=True)
    torch.testing.assert_close(encoder.state_dict()[name], drift[name])


def test_a_drifting_check_is_the_same_on_all_ranks_and_resumes(
    launch: Launch, tmp_path: Path
) -> None:
    spec = official(2, monitor={"train_mode": True, "every_epochs": 1, "k": 20})
    run(launch, tmp_path / "whole", spec)
    run(launch, tmp_path / "cut", spec, stop_at={"1": 6})
    run(launch, tmp_path / "cut", spec)
    assert_as_uninterrupted(tmp_path / "cut", tmp_path / "whole", 2)
    first, second = left(tmp_path / "whole", 2)
    assert first["result"] == second["result"]


def graded(monkeypatch: pytest.MonkeyPatch, accuracies: list[float]) -> None:
    """Let the check find these, epoch by epoch."""
    left_over = iter(accuracies)
    monkeypatch.setattr(knn, "check", lambda *_, **named: next(left_over))


@pytest.mark.parametrize(
    ("accuracies", "best"),
    [([10, 50, 20, 30, 40], 2), ([10, 20, 20, 5, 5], 2), ([1, 2, 3, 4, 5], 5)],
)
def test_the_official_selection_keeps_the_best_epoch_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accuracies: list[float], best: int
) -> None:
    graded(monkeypatch, accuracies)
    result = pretrain(official(5, checkpoint={"select": "best"}), tmp_path, threads=1)
    assert result["checkpoint"].startswith(f"e{best:04d}-s")
    assert (tmp_path / "checkpoints" / result["checkpoint"]).exists()
    epochs = [entry.epoch for entry in checkpoint.entries(tmp_path / "checkpoints")]
    assert epochs == sorted({best, 4, 5})


def test_the_best_epoch_is_saved_even_where_the_spacing_would_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graded(monkeypatch, [10, 50, 20, 30, 40])
    policy = {"select": "best", "every_epochs": 5}
    result = pretrain(official(5, checkpoint=policy), tmp_path, threads=1)
    assert result["checkpoint"].startswith("e0002-")


def test_the_last_epoch_is_named_where_nothing_is_selected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graded(monkeypatch, [10, 50, 20])
    result = pretrain(paper(3), tmp_path, threads=1)
    assert result["checkpoint"].startswith("e0003-")
    assert [entry.epoch for entry in checkpoint.entries(tmp_path / "checkpoints")] == [2, 3]


def test_a_resumed_run_remembers_which_epoch_was_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = official(4, checkpoint={"select": "best"})
    graded(monkeypatch, [50, 20, 30, 40])
    with pytest.raises(Interrupted):
        pretrain(spec, tmp_path, threads=1, stop=After(12))
    result = pretrain(spec, tmp_path, threads=1)
    assert result["checkpoint"].startswith("e0001-")
    assert read_json(tmp_path / "result.json")["metrics"]["knn"] == 40  # of the last, as recorded
