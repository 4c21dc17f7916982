"""The official code's checkpoints come in, and encoders go out to torchvision, timm and ONNX."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Project, tiny
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet

from care_core import checkpoint, data, models
from care_core.errors import CheckpointError
from care_core.interchange import official
from care_core.interchange.export import export, loading
from care_core.interchange.official_spec import spec_of, state_of
from care_core.measures import knn
from care_core.spec import Data, PretrainSpec
from care_core.spec.facts import DATASETS

FLAGS = {
    "dataset_name": "cifar10", "model": "resnet18", "temperature": 0.2, "epochs": 300,
    "batch_size": 512, "weight": 0.03, "equiv_splits": 16, "train_simclr": False, "seed": 7,
    "optimizer": "SGD", "lr": 0.06, "weight_decay": 5e-4, "lr_schedule_type": "cosine",
    "warmup_epochs": 10, "lr_decay_epochs": [120, 160, 200], "loss_subtype": "infonce",
    "save_root": "./results",
}  # fmt: skip


class CifarLayout(nn.Module):
    """What the CIFAR/STL scripts train: a ResNet's children in a row, and a projector."""

    def __init__(self, name: str, hidden: int = 512, embedding: int = 128) -> None:
        super().__init__()
        network = getattr(resnet, name)()
        network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        rows = [m for n, m in network.named_children() if n not in ("maxpool", "fc")]
        self.f = nn.Sequential(*rows)
        self.g = nn.Sequential(
            nn.Linear(network.fc.in_features, hidden, bias=False),
            nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, embedding),
        )  # fmt: skip

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.f(images).flatten(1)
        return features, F.normalize(self.g(features), dim=1)


class ImageNetLayout(nn.Module):
    """What the ImageNet100 scripts train: `fc` is the projector; MoCo adds keys and a queue."""

    def __init__(self, name: str, moco: bool, embedding: int = 128) -> None:
        super().__init__()
        self.encoder_q = self._encoder(name, embedding)
        if moco:
            self.encoder_k = self._encoder(name, embedding)
            self.register_buffer("queue", torch.randn(embedding, 1024))
            self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    @staticmethod
    def _encoder(name: str, embedding: int) -> Any:
        network = getattr(resnet, name)(num_classes=embedding)
        width = network.fc.in_features
        network.fc = nn.Sequential(nn.Linear(width, width), nn.ReLU(), network.fc)
        return network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        seen: list[Tensor] = []
        hook = self.encoder_q.fc.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        rows = F.normalize(self.encoder_q(images), dim=1)
        hook.remove()
        return seen[0], rows


def stirred(module: nn.Module) -> Any:
    """Eval mode, with batch-norm statistics, scales and shifts that would show if left out."""
    source = torch.Generator().manual_seed(0)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor, low, high in (
                (layer.running_mean, -0.2, 0.2), (layer.running_var, 0.5, 2.0),
                (layer.weight, 0.5, 1.5), (layer.bias, -0.2, 0.2),
            ):  # fmt: skip
                if tensor is not None:
                    with torch.no_grad():
                        tensor.uniform_(low, high, generator=source)
    return module.eval()


def saved(path: Path, module: nn.Module, *, prefix: str = "module.", **more: Any) -> Path:
    weights = {f"{prefix}{key}": value for key, value in module.state_dict().items()}
    torch.save({"state_dict": weights, "epoch": 300, **more}, path)
    return path


def imported(path: Path, folder: Path, dataset: str = "cifar10") -> models.Encoder:
    """Through a file, as `carectl import` and `carectl eval` do it."""
    found = official.read(path)
    spec, _ = spec_of(found, "official/x", dataset)
    torch.save(state_of(found, spec), folder / "imported.pt")
    state = checkpoint.read(folder / "imported.pt")
    encoder = models.build(PretrainSpec.model_validate_json(state["spec"]))
    encoder.load_state_dict(state["model"])
    return encoder.eval()


def assert_same(theirs: nn.Module, ours: models.Encoder, size: int) -> None:
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1)).double()
    with torch.inference_mode():
        features, rows = theirs.double()(images)
        mine = ours.double().backbone(images)
        assert features.std() > 0.01  # else anything would agree
        torch.testing.assert_close(mine, features, atol=1e-6, rtol=0)
        torch.testing.assert_close(
            F.normalize(ours.projector(mine), dim=1), rows, atol=1e-6, rtol=0
        )


@pytest.mark.parametrize(
    ("name", "hidden", "embedding", "prefix"),
    [
        ("resnet18", 512, 128, "module."),
        ("resnet34", 256, 2, ""),
        ("resnet50", 512, 128, "module."),
    ],
)
def test_an_official_cifar_checkpoint_gives_the_same_features_and_projections(
    tmp_path: Path, name: str, hidden: int, embedding: int, prefix: str
) -> None:
    theirs = stirred(CifarLayout(name, hidden, embedding))
    path = saved(tmp_path / "a.pth.tar", theirs, prefix=prefix, args=argparse.Namespace(**FLAGS))
    ours = imported(path, tmp_path)
    assert official.read(path).model.backbone == name
    assert_same(theirs, ours, 32)


@pytest.mark.parametrize(("name", "moco"), [("resnet18", True), ("resnet50", False)])
def test_an_official_imagenet_checkpoint_gives_the_same_features_and_projections(
    tmp_path: Path, name: str, moco: bool
) -> None:
    theirs = stirred(ImageNetLayout(name, moco))
    path = saved(tmp_path / "a.pth.tar", theirs, arch=name)
    ours = imported(path, tmp_path, "imagenet100")
    assert_same(theirs, ours, 64)
    found = official.read(path)
    assert found.left_out == (("encoder_k", "queue", "queue_ptr") if moco else ())
    assert found.queue == (1024 if moco else None)


def test_the_flags_become_a_spec_that_says_it_is_official(tmp_path: Path) -> None:
    more = {"args": argparse.Namespace(**FLAGS), "test_acc_1": 88.5, "best_acc_1": 88.5}
    found = official.read(saved(tmp_path / "a.pth.tar", CifarLayout("resnet18"), **more))
    spec, refused = spec_of(found, "official/a", "cifar10")
    assert refused == []
    assert (spec.fidelity, spec.seed, spec.data.name, spec.stem) == (
        "official", 7, "cifar10", "cifar",
    )  # fmt: skip
    assert (spec.training.epochs, spec.training.batch_size) == (300, 512)
    assert (spec.equivariance.weight, spec.equivariance.splits) == (0.03, 16)
    assert spec.equivariance.shared_by == "step"  # as the official code does it
    assert (spec.optimizer.name, spec.optimizer.lr, spec.schedule.name) == ("sgd", 0.06, "cosine")
    assert spec.checkpoint.select == "best"  # it was chosen on the test set
    linear = spec.probe.linear
    assert (linear.backbone, linear.augmentation, linear.report) == ("eval", "none", "last")


def test_flags_that_this_engine_does_not_have_are_named_and_the_rest_is_kept(
    tmp_path: Path,
) -> None:
    flags = FLAGS | {"optimizer": "RMSprop", "equiv_splits": 7}
    path = saved(tmp_path / "a.pth", CifarLayout("resnet18"), args=argparse.Namespace(**flags))
    spec, refused = spec_of(official.read(path), "official/a", "cifar10")
    assert refused == ["equivariance", "optimizer"]
    assert (spec.seed, spec.training.epochs) == (7, 300)


class Malice:
    """An object whose unpickling makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("hidden_in_flags", [False, True])
def test_a_file_that_would_run_code_is_refused_and_runs_none(
    tmp_path: Path, hidden_in_flags: bool
) -> None:
    bad = Malice(tmp_path / "made")
    more = {"args": argparse.Namespace(**FLAGS, extra=bad)} if hidden_in_flags else {"extra": bad}
    path = saved(tmp_path / "a.pth.tar", CifarLayout("resnet18"), **more)
    trusted = set(torch.serialization.get_safe_globals())
    with pytest.raises(CheckpointError, match=r"posix\.mkdir.*could run code"):
        official.read(path)
    assert not (tmp_path / "made").exists()
    assert set(torch.serialization.get_safe_globals()) == trusted
    torch.load(path, weights_only=False)  # the file would have done it
    assert (tmp_path / "made").exists()


def _state(path: Path) -> dict[str, Any]:
    return dict(torch.load(path, weights_only=True)["state_dict"])


def _without(*keys: str) -> Callable[[dict[str, Any]], Any]:
    return lambda state: {"state_dict": {k: v for k, v in state.items() if k not in keys}}


def _with(key: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda state: {"state_dict": {**state, key: value}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_without("module.f.1.running_mean", "module.f.0.weight"),
         r"lacks f\.0\.weight, f\.1\.running_mean of a resnet18"),
        (_without("module.g.3.weight"), r"has no projector \(g\.3\.weight\)"),
        (_with("module.h.weight", torch.zeros(2)), r"has h\.weight, which no resnet18 has"),
        (_with("module.f.0.weight", torch.zeros(64, 3, 7, 7)),
         r"f\.0\.weight has the shape \(64, 3, 7, 7\), not the \(64, 3, 3, 3\)"),
        (_with("module.f.0.weight", torch.full((64, 3, 3, 3), torch.nan)),
         r"f\.0\.weight has values that are not finite"),
        (_with("module.f.3.9.conv1.weight", torch.zeros(2)), "3 \\+ 2 \\+ 2 \\+ 2 basic blocks"),
        (_with("module.f.0.weight", 3), r"f\.0\.weight among the weights: not a tensor"),
        (lambda s: {"state_dict": {}}, "no weights under 'state_dict'"),
        (lambda s: {"state_dict": {"a.weight": torch.zeros(1)}}, r"unknown layout, with a\.weight"),
        (lambda s: {"state_dict": resnet.resnet18().state_dict()}, "a plain torchvision ResNet"),
        (lambda s: {"model": s, "spec": "{}"}, "already a checkpoint of this engine"),
        (lambda s: [1, 2], "holds a list, not a checkpoint"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_make_is_refused_with_what_is_wrong(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], said: str
) -> None:
    path = saved(tmp_path / "a.pth.tar", CifarLayout("resnet18"))
    torch.save(change(_state(path)), path)
    with pytest.raises(CheckpointError, match=said):
        official.read(path)


def test_what_is_no_checkpoint_at_all_is_refused(tmp_path: Path) -> None:
    whole = saved(tmp_path / "a.pth.tar", CifarLayout("resnet18")).read_bytes()
    path = tmp_path / "b.pth.tar"
    for damaged in (b"", b"<html>not found</html>", whole[: len(whole) // 2], whole[1000:]):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"b\.pth\.tar: damaged"):
            official.read(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        official.read(tmp_path / "nothing.pth.tar")


def test_import_says_what_it_read_and_its_file_can_be_probed(project: Project) -> None:
    theirs = stirred(CifarLayout("resnet18"))
    saved(project.path / "old.pth.tar", theirs)
    done = project.carectl("import", "old.pth.tar", code=2)
    assert "which dataset was it trained on?" in done.stderr
    done = project.carectl("import", "old.pth.tar", "--dataset", "digits")
    assert "read: resnet18 with the cifar stem, projector 512 → 512 → 128 with" in done.stdout
    assert "the file has no flags" in done.stdout
    assert done.stdout.splitlines()[-1] == "Next: carectl eval old.pt"
    first = (project.path / "old.pt").read_bytes()
    told = project.json("import", "old.pth.tar", "--dataset", "digits")  # again: the same file
    assert (project.path / "old.pt").read_bytes() == first
    assert told["spec"]["fidelity"] == "official"

    asked = ("--probe", "knn", "-o", "data.image_size=8", "-o", "launch.threads=2")
    (run,) = project.json("eval", "old.pt", *asked)["runs"]
    assert run["result"]["knn"]["backbone"] == pytest.approx(knn_of(theirs, 8), abs=0.3)


def knn_of(network: CifarLayout, size: int) -> float:
    """Per cent of digits' test images that the official network's features classify right."""
    facts, found = DATASETS["digits"], []
    for split in ("train", "test"):
        images = data.load(Data(name="digits"), split, Path(), size)
        pixels = torch.cat(list(images.batches(512))).float() / 255
        mean, std = torch.tensor(facts.mean), torch.tensor(facts.std)
        with torch.inference_mode():
            given = (pixels - mean[:, None, None]) / std[:, None, None]
            found.append(
                (torch.cat([network(part)[0] for part in given.split(512)]), images.labels)
            )
    (known, labels), (asked, truth) = found
    votes = knn.predict(known, labels, asked, k=200, temperature=0.5, classes=10)
    return 100 * float((votes == truth).double().mean())


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["old.pth.tar", "--dataset", "cifar100"], 2, "says that it was trained on cifar10"),
        (["old.pth.tar", "--dataset", "mnist"], 2, "must be one of digits, cifar10"),
        (["old.pth.tar", "--output", "new.bin"], 2, "must end in .pt"),
        (["old.pth.tar", "--output", "there.pt"], 2, "there.pt is there and is something else"),
        (["nothing.pth.tar"], 3, "nothing.pth.tar: cannot be read"),
    ],
)
def test_import_refuses_in_a_sentence(
    project: Project, arguments: list[str], code: int, said: str
) -> None:
    (project.path / "there.pt").write_bytes(b"mine")
    args = argparse.Namespace(**FLAGS)
    saved(project.path / "old.pth.tar", CifarLayout("resnet18"), args=args)
    assert said in project.carectl("import", *arguments, code=code).stderr
    assert (project.path / "there.pt").read_bytes() == b"mine"


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
