"""Several ranks train one run: real processes and real DDP over gloo, each on one CPU thread."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FAST, tiny
from ranks import (
    Launch,
    assert_as_uninterrupted,
    assert_equal,
    left,
    newest,
    rows,
    run,
    training,
)

from care_core import checkpoint, data
from care_core.files import read_json
from care_core.measures import knn
from care_core.measures.probing import load_encoder

#: An epoch of as many steps for three ranks.
THREE: dict[str, Any] = {
    "data": {"name": "digits", "image_size": 8},
    "training": {"epochs": 1, "batch_size": 240},
    "equivariance": {"weight": 0.1, "splits": 12},
}


@pytest.fixture(scope="module")
def whole(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two ranks that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    run(launch, folder, tiny(**FAST))
    return folder


def test_both_ranks_end_with_the_same_parameters_and_their_own_statistics(whole: Path) -> None:
    first, second = left(whole, 2)
    assert first["result"] == second["result"] == read_json(whole / "result.json")
    assert_equal(first["parameters"], second["parameters"])
    moving = [key for key in first["buffers"] if key.endswith("running_mean")]
    assert moving
    assert not any(torch.equal(first["buffers"][k], second["buffers"][k]) for k in moving)


def test_a_checkpoint_holds_the_mean_of_the_statistics_and_each_ranks_own(whole: Path) -> None:
    state, (first, second) = newest(whole), left(whole, 2)
    for name, value in first["buffers"].items():
        assert torch.equal(state["statistics"][name], torch.stack([value, second["buffers"][name]]))
        mean = (value + second["buffers"][name]) / 2
        saved = state["model"][name.removeprefix("encoder.")]
        torch.testing.assert_close(saved, mean.to(value.dtype))
    path = checkpoint.at_epoch(whole / "checkpoints", None)
    encoder = load_encoder(path)
    result = read_json(whole / "result.json")
    assert checkpoint.weights_sha256(encoder) == result["weights_sha256"]
    split = knn.hold_out(data.load(tiny(**FAST).data, "train", Path()))
    assert knn.check(encoder, *split, spec=tiny(**FAST)) == result["metrics"]["knn"]


def test_checks_and_checkpoints_while_training_change_nothing(
    launch: Launch, tmp_path: Path, whole: Path
) -> None:
    spec = tiny(**FAST, monitor={"every_epochs": 0}, checkpoint={"every_minutes": 1e-9})
    run(launch, tmp_path, spec)
    assert read_json(tmp_path / "result.json")["weights_sha256"] == newest_digest(whole)
    assert_equal(newest(tmp_path)["statistics"], newest(whole)["statistics"])


def newest_digest(run_dir: Path) -> str:
    return str(read_json(run_dir / "result.json")["weights_sha256"])


def test_the_record_holds_the_mean_of_the_ranks_terms(whole: Path) -> None:
    terms = [rank["seen"][0]["terms"] for rank in left(whole, 2)]
    assert terms[0]["equivariance"] != terms[1]["equivariance"]
    assert terms[0]["info_nce"] == terms[1]["info_nce"]  # over the rows of both
    recorded = {key: value for key, value, step in rows(whole) if step == 1}
    for key in ("loss", "info_nce", "equivariance", "alignment"):
        assert recorded[key] == pytest.approx(sum(float(t[key]) for t in terms) / 2, rel=1e-9)
    assert {key for key, *_ in rows(whole)} == {*terms[0], "lr", "knn", "epoch"}


def test_a_run_that_one_rank_stops_goes_on_as_if_it_had_not_been(
    launch: Launch, tmp_path: Path, whole: Path
) -> None:
    stopped = run(launch, tmp_path, tiny(**FAST), stop_at={"1": 7})
    sentence = "stopped on request after step 7; it can go on"
    assert [rank["error"] for rank in stopped] == [["Interrupted", sentence]] * 2
    first, second = run(launch, tmp_path, tiny(**FAST))
    assert first["said"][:1] == ["resuming after step 7 of 15"]
    assert second["said"] == []
    assert_as_uninterrupted(tmp_path, whole, 2)


def test_killed_ranks_lose_nothing(launch: Launch, tmp_path: Path, whole: Path) -> None:
    codes = launch(
        training, 2, tmp_path, spec=tiny(**FAST).model_dump_json(), kill_at={"0": 8, "1": 8}
    )
    assert codes == [-signal.SIGKILL] * 2
    assert rows(tmp_path)[-1][2] == 8
    first, _ = run(launch, tmp_path, tiny(**FAST))
    assert first["said"][:1] == ["resuming after step 5 of 15"]
    assert_as_uninterrupted(tmp_path, whole, 2)


def test_sums_over_three_ranks_do_not_depend_on_where_a_process_began(
    launch: Launch, tmp_path: Path
) -> None:
    spec = tiny(**THREE)
    run(launch, tmp_path / "whole", spec, size=3)
    run(launch, tmp_path / "resumed", spec, size=3, stop_at={"2": 4})
    run(launch, tmp_path / "resumed", spec, size=3)
    assert_as_uninterrupted(tmp_path / "resumed", tmp_path / "whole", 3)


def test_a_damaged_checkpoint_is_passed_over_by_all_ranks(
    launch: Launch, tmp_path: Path, whole: Path
) -> None:
    run(launch, tmp_path, tiny(**FAST), stop_at={"0": 7})
    path = checkpoint.entries(tmp_path / "checkpoints")[-1].path
    path.write_bytes(path.read_bytes()[:1000])
    first, _ = run(launch, tmp_path, tiny(**FAST))
    assert [s for s in first["said"] if not s.startswith("epoch ")][
        -1
    ] == "resuming after step 5 of 15"
    assert_as_uninterrupted(tmp_path, whole, 2)


def test_a_rank_that_dies_takes_the_others_with_it(launch: Launch, tmp_path: Path) -> None:
    codes = launch(training, 2, tmp_path, spec=tiny(**FAST).model_dump_json(), kill_at={"1": 3})
    assert codes == [0, -signal.SIGKILL]
    kind, sentence = torch.load(tmp_path / "rank-0.pt")["error"]
    assert kind == "PeerLostError" and sentence.startswith("rank 0 of 2 lost rank 1; ")


def test_no_rank_takes_a_run_for_saved_when_the_disk_is_full(
    launch: Launch, tmp_path: Path
) -> None:
    first, second = run(launch, tmp_path, tiny(**FAST), stop_at={"1": 7}, full_at=7)
    assert first["error"] == ["StorageError", "the disk is full"]
    assert second["error"][0] == "PeerLostError" and "lost rank 0" in second["error"][1]
    assert [entry.step for entry in checkpoint.entries(tmp_path / "checkpoints")] == [5]
