"""The point-cloud experiment from end to end: trained, resumed, probed, exported, by any method."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import onnx
import pytest
import structures
import torch
from conftest import Project
from onnx.reference import ReferenceEvaluator
from ranks import After, Launch, assert_as_uninterrupted, run
from safetensors.torch import load_file
from test_clouds import cloudy, drawn
from torch import Tensor

from care_core import checkpoint, data, models, pretrain, probe
from care_core.errors import Interrupted
from care_core.files import read_json
from care_core.interchange.export import export
from care_core.measures import axis
from care_core.spec import PretrainSpec, ProbeSpec
from care_core.views.clouds import rotate

#: 2 epochs of 4 steps.
SHORT: dict[str, Any] = {"training": {"epochs": 2, "batch_size": 1024}}
KINDS = ("linear", "knn", "geometry", "axis")


def probe_of(spec: PretrainSpec, *kinds: str, **changes: Any) -> ProbeSpec:
    fields = {
        "name": "p", "source": "0" * 64, "kinds": kinds or KINDS, "data": spec.data,
        "augment": spec.augment, "probe": spec.probe, **changes,
    }  # fmt: skip
    return ProbeSpec.model_validate(fields)


def last(run_dir: Path) -> Path:
    return checkpoint.at_epoch(run_dir / "checkpoints", None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clouds")
    pretrain(cloudy(**SHORT), folder, threads=1)
    return folder


def test_a_stopped_run_of_clouds_goes_on_bitwise(tmp_path: Path, trained: Path) -> None:
    for steps in (3, 2):
        with pytest.raises(Interrupted):
            pretrain(cloudy(**SHORT), tmp_path, threads=1, stop=After(steps))
    pretrain(cloudy(**SHORT), tmp_path, threads=1)
    assert_as_uninterrupted(tmp_path, trained)


def test_two_ranks_train_on_clouds_as_one_does(launch: Launch, tmp_path: Path) -> None:
    """Without batch norm, whose statistics are a rank's own."""
    model = {"backbone": "deepset", "width": 8, "hidden": 16, "embedding": 8,
             "projector_norm": False}  # fmt: skip
    spec = cloudy(**SHORT, model=model)
    one = pretrain(spec, tmp_path / "one", threads=1)
    (first, _) = run(launch, tmp_path / "two", spec)
    for key in ("loss", "info_nce", "equivariance"):
        assert first["result"]["metrics"][key] == pytest.approx(one["metrics"][key], rel=1e-3)


@pytest.mark.parametrize(
    "method",
    [
        {"name": "moco", "queue": 1024},
        {"name": "barlow"},
        {"name": "byol", "hidden": 16},
    ],
    ids=["moco", "barlow", "byol"],
)
def test_other_methods_train_on_clouds_too(tmp_path: Path, method: dict[str, Any]) -> None:
    spec = cloudy(method=method, training={"epochs": 1, "batch_size": 1024})
    result = pretrain(spec, tmp_path, threads=1)
    assert all(math.isfinite(value) for value in result["metrics"].values())


def test_what_a_probe_of_clouds_tells(tmp_path: Path, trained: Path) -> None:
    result = probe(probe_of(cloudy()), tmp_path, last(trained), threads=1)
    assert (result["data"], result["images"]) == ("chains", 1024)
    axis = result["axis"]
    for told in (axis, axis["untrained"]):
        for layer in ("backbone", "projection"):
            assert 0 < told["median"][layer] < told["angle"][layer] < 57.3
            assert told["r2"][layer] < 1
    assert axis["untrained"]["angle"] != axis["angle"]
    assert result["geometry"]["wahba"] <= result["geometry"]["wahba_identity"]
    assert len(read_json(tmp_path / "artifacts" / "geometry.json")["augmentations"]) == 2
    told = read_json(tmp_path / "artifacts" / "trajectories.json")
    assert len(told["clouds"]) == 4 and told["labels"] == [0, 1, 2, 3]
    assert told["angles"] == pytest.approx([2 * math.pi * n / 100 for n in range(100)], abs=1e-5)
    for cloud in told["clouds"]:
        assert list(cloud) == ["x", "y", "z"]
        for path in cloud.values():
            assert len(path["plane"]) == len(path["own"]) == 100
            assert 0 < path["share"] <= 1 and path["length"] > 0
        # a path begins with the cloud as it is, whatever axis it turns about
        starts = torch.tensor([path["plane"][0] for path in cloud.values()])
        torch.testing.assert_close(starts, starts[:1].expand(3, 2), atol=2e-5, rtol=0)


def test_a_probe_by_folds_measures_axes_on_training_clouds(tmp_path: Path, trained: Path) -> None:
    spec = cloudy(probe={"folds": 2})
    result = probe(probe_of(spec, "axis"), tmp_path, last(trained), threads=1)
    assert result["images"] == 4096 and 0 < result["axis"]["angle"]["projection"] < 57.3


class Linear(torch.nn.Module):
    """An encoder of which an axis can be read: a cloud's covariance; or, without, cannot."""

    def __init__(self, turning: bool) -> None:
        super().__init__()
        self.turning = turning
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, clouds: Tensor) -> Tensor:
        moment = clouds.transpose(1, 2) @ clouds / clouds.shape[1]
        if self.turning:
            return moment.flatten(1)
        return torch.linalg.eigvalsh(moment).repeat(1, 3)


@pytest.mark.parametrize("turning", [True, False])
def test_an_axis_is_read_of_what_turns_and_guessed_of_what_does_not(
    tmp_path: Path, turning: bool
) -> None:
    encoder: Any = models.Encoder(cloudy().model)
    encoder.backbone, encoder.projector = Linear(turning), torch.nn.Identity()
    train, test = (data.load(cloudy().data, split, Path()) for split in ("train", "test"))
    found = axis.measure(probe_of(cloudy(), "axis"), encoder, encoder, train, test, tmp_path)
    layer = "projection"
    if turning:
        assert found["angle"][layer] < 15 and found["r2"][layer] > 0.8
        assert found["path_length"] > 1 and 0.1 < found["path_radius"] <= 1
    else:
        assert found["angle"][layer] == pytest.approx(57.3, abs=3)
        assert abs(found["r2"][layer]) < 0.02
        assert found["path_length"] < 1e-3 and found["path_radius"] < 1e-5


def test_an_axis_is_the_direction_of_the_largest_spread_and_has_no_sign() -> None:
    turns = drawn(50).float()
    stretched = torch.randn(50, 200, 3) * torch.tensor([3.0, 1.0, 0.5])
    clouds = rotate(stretched, turns)
    found = axis.principal_axis(clouds)
    assert axis.angles(found, turns[:, :, 0].double()).median() < 6
    there_and_back = axis.as_axes(axis.as_numbers(found))
    torch.testing.assert_close(axis.angles(there_and_back, -found), torch.zeros(50).double(),
                               atol=1e-4, rtol=0)  # fmt: skip
    # distances of the six numbers are those of the matrices
    one, other = axis.as_numbers(found)[:2]
    a, b = found[:2]
    assert float((one - other).norm()) == pytest.approx(
        float((a.outer(a) - b.outer(b)).norm()), abs=1e-9
    )


def test_kinds_that_do_not_fit_are_refused_by_name() -> None:
    for kind in ("colour", "composition"):
        with pytest.raises(ValueError, match=f"kinds: {kind} is of images, and chains has point"):
            probe_of(cloudy(), kind)
    spec = cloudy(data={"name": "proteins", "path": "p"}, monitor={})
    for kind in ("linear", "knn"):
        with pytest.raises(ValueError, match=f"kinds: {kind} needs classes, and proteins has non"):
            probe_of(spec, kind)
    with pytest.raises(ValueError, match="kinds: axis is of point clouds, and digits has images"):
        probe_of(cloudy(), "axis", data={"name": "digits"})


def test_the_identity_of_a_probe_of_clouds_has_nothing_of_images() -> None:
    fields = probe_of(cloudy(), "axis").determining()
    assert fields["data"] == {"name": "chains", "points": 16} and "augment" not in fields
    assert fields["probe"].keys() == {"precision", "folds", "axis"}
    assert "axis" not in probe_of(cloudy(), "knn").determining()["probe"]


def test_proteins_are_trained_on_and_measured(tmp_path: Path) -> None:
    structures.folder(tmp_path / "pdb", train=40, test=8)
    (tmp_path / "pdb" / "train" / "bad.pdb").write_text("no structure\n")
    spec = cloudy(
        data={"name": "proteins", "path": "pdb", "points": 16, "unreadable": "skip"},
        training={"epochs": 1, "batch_size": 16}, monitor={},
        equivariance={"weight": 0.1, "splits": 4},
    )  # fmt: skip
    result = pretrain(spec, tmp_path / "run", data_dir=tmp_path, threads=1)
    assert (result["steps"], result["images"], result["skipped"]) == (2, 40, 1)
    assert "knn" not in result["metrics"]
    asked = probe_of(spec, "geometry", "axis")
    found = probe(asked, tmp_path / "probe", last(tmp_path / "run"), data_dir=tmp_path, threads=1)
    assert (found["images"], found["skipped"]) == (8, 1)
    # and transfer: chains, of an encoder that was trained on proteins
    transfer = probe_of(spec, "knn", data=cloudy().data, pretrained_on=spec.data)
    found = probe(transfer, tmp_path / "2", last(tmp_path / "run"), data_dir=tmp_path, threads=1)
    assert (found["data"], found["pretrained_on"]) == ("chains", "pdb")


def test_an_exported_deepset_is_loaded_by_the_lines_that_it_comes_with(
    tmp_path: Path, trained: Path
) -> None:
    told = export(last(trained), tmp_path, "deep", origin={}, onnx=True)
    assert told["points"] == 16 and "image_size" not in told and "mean" not in told
    lines = told["load"]["care_core"]
    scope: dict[str, Any] = {}
    exec("\n".join(lines).replace('"deep.', f'"{tmp_path}/deep.'), scope)
    clouds = torch.randn(5, 16, 3)
    with torch.no_grad():
        found = scope["model"].eval()(clouds)
    assert load_file(tmp_path / "deep.safetensors").keys() == scope["model"].state_dict().keys()
    (other,) = ReferenceEvaluator(onnx.load(tmp_path / "deep.onnx")).run(
        None, {"clouds": clouds.numpy()}
    )
    torch.testing.assert_close(torch.from_numpy(other), found, rtol=1e-4, atol=1e-5)


def test_carectl_trains_evaluates_and_refuses_clouds_as_a_person_would_ask(
    project: Project,
) -> None:
    spec = project.write(cloudy(training={"epochs": 1, "batch_size": 1024}))
    trained = project.json("pretrain", spec)["runs"][0]["run"]
    (measured,) = project.json("eval", trained)["runs"]
    result = read_json(project.runs / measured["run"] / "result.json")
    assert {"linear", "knn", "geometry", "axis"} <= result.keys()
    refused = project.carectl("eval", trained, "--probe", "colour", code=2)
    assert "--probe colour is of images, and chains has point clouds" in refused.stderr
    wrong = project.carectl("pretrain", "digits/simclr", "-o", "model.backbone=deepset",
                            "-o", "model.width=null", code=2)  # fmt: skip
    assert "deepset takes point clouds, and digits has images" in wrong.stderr
    listed = json.loads(project.carectl("data", "list", "--json").stdout)["datasets"]
    assert {"chains", "proteins"} <= {row["name"] for row in listed}
    structures.folder(project.path / "pdb", train=2, test=1)
    assert "good" in project.carectl("data", "verify", "proteins", "--path", "pdb").stdout
    (project.path / "pdb" / "train" / "bad.cif").write_text("x\n")
    said = project.carectl("data", "verify", "proteins", "--path", "pdb", code=3).stderr
    assert "bad.cif: cannot be read as PDB or mmCIF" in said
