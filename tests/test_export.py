"""Encoders as files for others: the same features in torchvision, timm and ONNX."""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Project, tiny
from official_files import FLAGS, saved, stirred
from safetensors.torch import load_file
from torch import nn

from care_core import checkpoint, models
from care_core.interchange.export import export, loading
from care_core.spec import PretrainSpec


def encoder_file(folder: Path, spec: PretrainSpec) -> tuple[Path, models.Encoder]:
    """A checkpoint as pretraining leaves it, and its encoder."""
    encoder: models.Encoder = stirred(models.build(spec))
    path = folder / "encoder.pt"
    torch.save({"model": encoder.state_dict(), "spec": spec.model_dump_json()}, path)
    return path, encoder


def run_lines(lines: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The model that the given Python lines make, run in the folder of the files."""
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec("\n".join(lines), names)
    return names["model"].eval()


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_torchvision_and_timm_load_an_export_by_the_lines_it_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, stem: str
) -> None:
    spec = tiny(model={"backbone": name, "stem": stem})
    path, encoder = encoder_file(tmp_path, spec)
    told = export(path, tmp_path / "out", "x", origin={})
    size = 16 if stem == "cifar" else 64
    images = torch.rand(2, 3, size, size)
    assert set(told["load"]) == {"torchvision", "timm"}
    for lines in told["load"].values():
        assert len([line for line in lines if "import" not in line]) == (
            2 if stem == "imagenet" else 3
        )
        model = run_lines(lines, tmp_path / "out", monkeypatch)
        with torch.inference_mode():
            torch.testing.assert_close(
                model.double()(images.double()), encoder.double().backbone(images.double()),
                atol=1e-6, rtol=0,
            )  # fmt: skip


@pytest.mark.parametrize(
    ("backbone", "library"),
    [({"backbone": "small", "width": 4}, "care_core"), ({"backbone": "timm/resnet10t"}, "timm")],
)
def test_other_backbones_load_under_their_own_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backbone: dict[str, Any], library: str
) -> None:
    path, encoder = encoder_file(tmp_path, tiny(model=backbone))
    told = export(path, tmp_path / "out", "x", origin={})
    assert list(told["load"]) == [library]
    model = run_lines(told["load"][library], tmp_path / "out", monkeypatch)
    images = torch.rand(2, 3, 32, 32).double()
    with torch.inference_mode():
        torch.testing.assert_close(
            model.double()(images), encoder.double().backbone(images), atol=1e-6, rtol=0
        )


@pytest.mark.parametrize(
    "projector", [{}, {"projector_norm": False, "hidden": 24}, {"projector_layers": 3}]
)
def test_the_projector_is_a_file_of_its_own(tmp_path: Path, projector: dict[str, Any]) -> None:
    spec = tiny(model={"backbone": "small", "width": 4, "embedding": 8, **projector})
    path, encoder = encoder_file(tmp_path, spec)
    told = export(path, tmp_path, "x", origin={})
    layers = eval(told["projector"], {"torch": torch}).eval()
    layers.load_state_dict(load_file(tmp_path / told["files"]["projector"]["file"]))
    features = torch.rand(3, encoder.features)
    with torch.inference_mode():
        torch.testing.assert_close(layers(features), encoder.projector(features))


def test_the_readme_shows_the_lines_that_an_export_gives() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    shown = tiny(model={"backbone": "resnet50", "stem": "cifar"})
    for lines in loading(shown, "NAME.safetensors").values():
        for line in lines.splitlines():
            assert line in readme


def test_a_run_is_exported_with_where_it_comes_from(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tiny(checkpoint={"keep": "all"})
    run = project.json("pretrain", project.write(spec))["runs"][0]["run"]
    told = project.json("export", spec.name)["description"]
    assert told["name"] == run
    record = json.loads((project.runs / run / "spec.json").read_text())
    assert told["origin"]["identity"] == record["sha256"]
    assert (told["origin"]["epoch"], told["spec"]) == (2, record["spec"])
    assert (told["dataset"], told["image_size"], told["architecture"]) == ("digits", 16, "small")
    for entry in told["files"].values():
        content = (project.path / "exports" / entry["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"]
    assert json.loads((project.path / f"exports/{run}.json").read_text()) == told

    early = project.json("export", run, "--epoch", "1", "--output", "early")["description"]
    assert early["name"] == f"{run}-e0001"
    assert early["files"]["backbone"]["sha256"] != told["files"]["backbone"]["sha256"]

    state = checkpoint.read(checkpoint.at_epoch(project.runs / run / "checkpoints", 2))
    model = run_lines(told["load"]["care_core"], project.path / "exports", monkeypatch)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state["model"][f"backbone.{key}"])


def test_onnx_gives_the_backbones_features_for_any_batch(project: Project) -> None:
    import onnx
    from onnx.reference import ReferenceEvaluator

    spec = tiny()
    path, encoder = encoder_file(project.path, spec)
    done = project.carectl("export", str(path), "--onnx", "--json")
    assert json.loads(done.stdout)["files"][2] == "encoder.onnx"  # and nothing else on stdout
    content = (project.path / "exports/encoder.onnx").read_bytes()
    assert str(Path(__file__).parent.parent).encode() not in content  # no traces of this machine
    graph = onnx.load_from_string(content)
    onnx.checker.check_model(graph)
    for batch in (1, 5):
        images = torch.rand(batch, 3, spec.image_size, spec.image_size)
        (features,) = ReferenceEvaluator(graph).run(None, {"images": images.numpy()})
        with torch.inference_mode():
            expected = encoder.backbone(images)
        torch.testing.assert_close(torch.from_numpy(features), expected, atol=1e-5, rtol=1e-5)


def test_without_its_package_onnx_is_an_error_of_the_environment(project: Project) -> None:
    path, _ = encoder_file(project.path, tiny())
    code = "import sys; sys.modules['onnxscript'] = None; from carectl.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "export", str(path), "--onnx"],
        cwd=project.path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 3
    assert done.stderr == (
        "error: ONNX needs onnxscript, which is not installed; pip install 'care-lab[onnx]'\n"
    )
    assert not (project.path / "exports").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nothing"], 2, "no run 'nothing'"),
        (["encoder.pt", "--epoch", "3"], 2, "is one checkpoint; leave the option out"),
        (["torn.pt"], 3, "torn.pt: damaged"),
        (["plain.pt"], 3, "plain.pt: not a checkpoint of this engine"),
        (["old.pt"], 3, "`carectl import` reads those of the official code"),
        (["encoder.pt", "--output", "encoder.pt"], 3, "encoder.pt"),
    ],
)
def test_export_refuses_in_a_sentence(
    project: Project, arguments: list[str], code: int, said: str
) -> None:
    path, _ = encoder_file(project.path, tiny())
    (project.path / "torn.pt").write_bytes(path.read_bytes()[:5000])
    torch.save({"model": {}}, project.path / "plain.pt")
    saved(project.path / "old.pt", nn.Linear(1, 1), args=argparse.Namespace(**FLAGS))
    done = project.carectl("export", *arguments, code=code)
    assert said in done.stderr
    assert done.stdout == ""
