"""Checkpoints of the official code: read without running them, and the same network here."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Project
from official_files import FLAGS, CifarLayout, ImageNetLayout, saved, stirred
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet

from care_core import checkpoint, data, models
from care_core.errors import CheckpointError
from care_core.interchange import official
from care_core.interchange.official_spec import spec_of, state_of
from care_core.measures import knn
from care_core.spec import Data, PretrainSpec
from care_core.spec.facts import DATASETS


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
