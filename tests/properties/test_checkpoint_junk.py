"""Whatever a checkpoint file holds, it is an encoder, or told with its path; no code of it runs."""

from __future__ import annotations

import argparse
import collections
import functools
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from care_core import checkpoint, models
from care_core.errors import CheckpointError
from care_core.interchange import export, official
from care_core.interchange.official_spec import spec_of, state_of
from care_core.spec.facts import DATASETS
from care_core.spec.sections import Model
from properties.generating import JUNK, SCALARS, carectl, cases

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API", "ignore:torch.quantize")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about a power cut."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


class Touch:
    """What would make a folder if it were unpickled freely."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.path),)


def saved(value: Any, **options: Any) -> bytes:
    packed = io.BytesIO()
    torch.save(value, packed, **options)
    return packed.getvalue()


@functools.cache
def layout() -> dict[str, Tensor]:
    """A ResNet-18 as the CIFAR scripts save it, of zeros that take no room."""
    with torch.device("meta"):
        model = Model.model_validate({"backbone": "resnet18", "stem": "cifar", "hidden": 4,
                                      "embedding": 2})  # fmt: skip
        shapes = models.Encoder(model, "cifar").state_dict()
    named = {official._official("cifar", name): value.shape for name, value in shapes.items()}
    return {
        f"module.{name}": torch.zeros(
            shape, dtype=torch.int64 if name.endswith("tracked") else torch.bfloat16
        )
        for name, shape in named.items()
    }


ODD: list[Any] = [
    torch.zeros(()), torch.zeros(0), torch.zeros(0, 4), torch.zeros(1, 4), torch.zeros(3),
    torch.zeros(4, 512, dtype=torch.bool), torch.zeros(4, 512, dtype=torch.complex64),
    torch.full((4, 512), torch.nan), torch.zeros(1).expand(4, 512), torch.zeros(4, 512).to_sparse(),
    torch.zeros(1).expand(2**20, 2**20), torch.zeros(1).expand(2**40, 512),
    torch.zeros(4, 512, dtype=torch.float8_e4m3fn), torch.zeros(4, 512, dtype=torch.int64),
    torch.quantize_per_tensor(torch.zeros(4, 512), 0.1, 0, torch.qint8),
    torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
    torch.nn.Parameter(torch.zeros(4, 512)), "text", None, 3, [1], {"a": 1},
]  # fmt: skip
NAMES = st.sampled_from(
    ["module.g.0.weight", "module.g.3.weight", "module.g.1.weight", "module.f.0.weight",
     "module.f.1.num_batches_tracked", "module.f.3.0.conv1.weight", "module.queue", "queue",
     "module.f.3.0.conv3.weight", "module.f.3.9.x", "module.encoder_k.x", "x", 3, (1, 2), None]
)  # fmt: skip


def _looped() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


def _deep(depth: int = 100) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


LIKELY: dict[str, list[Any]] = {
    "epoch": [True, -1, 10**400, 2**31, "x", 3.5, torch.ones(2), [1]],
    "test_acc_1": [torch.ones(2), float("nan"), 10**400, -1, "x", 88.0, True, 101],
    "best_acc_1": [torch.ones(2), 88.0, None, "x"],
    "args": [None, {}, "x", argparse.Namespace(), 3],
    "state_dict": [None, [], {}, "x", {"a": 1}, torch.ones(2)],
}
FLAGS: dict[str, list[Any]] = {
    "dataset_name": ["folder", "proteins", "chains", "digits", "CIFAR10", ["x"], 3, torch.ones(1)],
    "temperature": [-1, float("nan"), "x", [1], torch.ones(2), 10**400],
    "optimizer": [["x"], None, "SGD", 3], "lr": [float("inf"), "1", None],
    "lr_schedule_type": ["cosine", "multistep", [], None], "warmup_epochs": [-1, 10**9, "x"],
    "train_simclr": [False, "x", None], "weight": [-1, "x", 1e300], "equiv_splits": [0, 7, "x"],
    "loss_subtype": ["alignment", [], None], "seed": [-1, 2**40, "x", True],
    "epochs": [0, 10**30, None], "batch_size": [0, "x", 10**12], "x": [{"a": [1]}, {1, 2}, b"x"],
    "deep": [()],
}  # fmt: skip


@st.composite
def checkpoints(draw: st.DrawFn) -> tuple[Any, ...]:
    """Changes of an official checkpoint: of its weights, of what is beside them, of its flags."""
    weights = draw(st.lists(st.tuples(NAMES, st.sampled_from(range(len(ODD)))), max_size=2))
    beside = {
        key: draw(st.sampled_from(LIKELY[key]) | JUNK)
        for key in draw(st.lists(st.sampled_from(sorted(LIKELY)), max_size=2))
    }
    flags = {
        key: draw(st.sampled_from(FLAGS[key]) | SCALARS)
        for key in draw(st.lists(st.sampled_from(sorted(FLAGS)), max_size=4))
    }
    return weights, beside, flags, draw(st.booleans())


@cases(20)
@given(checkpoints())
@example(([("module.g.3.weight", 3)], {}, {}, False))  # one dimension
@example(([("module.g.0.weight", 2)], {}, {}, False))  # no hidden units
@example(([("module.g.0.weight", 11)], {}, {}, False))
@example(([("module.queue", 9)], {}, {}, False))
@example(([], {"test_acc_1": torch.ones(2), "best_acc_1": torch.ones(2)}, {}, True))
@example(([], {"epoch": 10**400}, {"dataset_name": "folder"}, True))
@example(([], {}, {"x": _looped(), "deep": _deep()}, True))
def test_an_official_checkpoint_of_odd_parts_is_an_encoder_or_told(
    folder: Path, changed: tuple[Any, ...]
) -> None:
    weights, beside, flags, has_flags = changed
    state: dict[Any, Any] = dict(layout())
    for name, odd in weights:
        state[name] = ODD[odd]
    content = {"state_dict": state, "epoch": 3, **beside}
    if has_flags and "args" not in beside:
        content["args"] = argparse.Namespace(**flags)
    path = folder / "a.pth.tar"
    path.write_bytes(saved(content))
    try:
        found = official.read(path)
    except CheckpointError as error:
        assert str(path) in str(error)
        assert len(str(error)) < 2000
        return
    spec, refused = spec_of(found, "official/a", "cifar10")
    assert set(refused) <= set(type(spec).model_fields)
    state = state_of(found, spec)
    json.dumps(state["origin"])
    assert torch.load(io.BytesIO(saved(state)), weights_only=True).keys() == state.keys()


def _zip(**entries: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name, raw in entries.items():
            file.writestr(name.replace("__", "/"), raw)
    return packed.getvalue()


WHOLE = saved({"model": {"a": torch.zeros(3)}, "spec": "{}"})
OLD = saved({"model": {"a": torch.zeros(3)}}, _use_new_zipfile_serialization=False)


@cases(160)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.integers(0, len(WHOLE)).map(lambda cut: WHOLE[:cut]),
        st.integers(0, len(OLD)).map(lambda cut: OLD[:cut]),
        st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(1, 255)).map(
            lambda pair: WHOLE[: pair[0]] + bytes([WHOLE[pair[0]] ^ pair[1]]) + WHOLE[pair[0] + 1 :]
        ),
        st.binary(max_size=60).map(lambda raw: _zip(archive__data__pkl=raw)),
        st.binary(max_size=60).map(lambda raw: _zip(**{"a__data.pkl": raw, "a__version": b"3"})),
        JUNK.map(saved),
        JUNK.map(lambda value: pickle.dumps(value)),
        st.sampled_from(
            [collections.Counter, eval, print, os.system, argparse.Namespace, zipfile.ZipFile]
        ).map(lambda named: pickle.dumps(named)),
    )
)  # fmt: skip
@example(
    _zip(**{"a__data.pkl": b"\x80\x02" + b"]" * 9000 + b"a" * 8999 + b".", "a__version": b"3"})
)
@example(b"\x80\x02")
def test_any_bytes_are_a_checkpoint_or_are_told(folder: Path, raw: bytes) -> None:
    path = folder / "b.pt"
    path.write_bytes(raw)
    for read in (checkpoint.read, official.read):
        try:
            assert read(path)
        except CheckpointError as error:
            assert str(path) in str(error)
    try:
        export.export(path, folder / "out", "b", origin={})
    except CheckpointError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("whole", [WHOLE, saved({"state_dict": {"a": torch.zeros(3)}})])
def test_a_small_file_that_would_unpack_to_any_size_is_refused(folder: Path, whole: bytes) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(packed, "w") as new:
        for part in old.infolist():
            new.writestr(part.filename, old.read(part), zipfile.ZIP_DEFLATED)
    path = folder / "packed.pt"
    path.write_bytes(packed.getvalue())
    for read in (checkpoint.read, official.read):
        with pytest.raises(CheckpointError, match="its parts are compressed"):
            read(path)


@functools.cache
def ours() -> dict[str, Any]:
    spec = tiny()
    return {"model": models.build(spec).state_dict(), "spec": spec.model_dump_json()}


@cases(40)
@given(
    st.sampled_from(["model", "spec", "origin"]),
    st.one_of(
        JUNK, st.sampled_from(ODD[:10]).filter(lambda odd: not isinstance(odd, str)),
        st.dictionaries(st.sampled_from(["file", "settings"]), JUNK | st.sampled_from(ODD[:3])),
    ),
)  # fmt: skip
@example("origin", [1])
@example("origin", {"x": torch.zeros(1), "layout": "cifar"})
@example("model", {1: torch.zeros(1)})
@example("spec", json.dumps({"name": "a", "data": {"name": "digits"}, "seed": "x"}))
def test_a_checkpoint_of_ours_with_junk_in_it_is_exported_or_told(
    folder: Path, key: str, value: Any
) -> None:
    path = folder / "c.pt"
    path.write_bytes(saved({**ours(), key: value}))
    try:
        told = export.export(path, folder / "out", "c", origin={})
        json.dumps(told, allow_nan=False)
    except CheckpointError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("hidden", [True, False])
def test_no_command_unpickles_freely(
    folder: Path, hidden: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    mark = folder / "mark"
    content = {"model": {}, "spec": "{}", "x": Touch(mark)}
    (folder / "d.pt").write_bytes(saved(content) if hidden else pickle.dumps(Touch(mark)))
    for command in ("import", "eval", "export"):
        done = carectl(command, "d.pt")
        assert done.code == 3
        assert "d.pt: refused" in done.err or (not hidden and "d.pt: damaged" in done.err)
    assert not mark.exists()


def test_what_no_name_stands_for_is_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    for name in (name for name, facts in DATASETS.items() if facts.points or name == "folder"):
        flags = argparse.Namespace(dataset_name=name)
        Path("e.pth").write_bytes(saved({"state_dict": layout(), "args": flags}))
        done = carectl("import", "e.pth")
        assert (done.code, f"It says '{name}'; give --dataset NAME" in done.err) == (2, True)
    Path("e.pt").mkdir(exist_ok=True)
    done = carectl("import", "e.pth", "--dataset", "cifar10")
    assert (done.code, "give another --output" in done.err) == (2, True)
