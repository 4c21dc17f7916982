"""Checkpoints of the official CARE code, read as encoders of this engine.

Two kinds are known. The CIFAR/STL scripts save `module.f.*`, a torchvision ResNet's children in
their order without max-pool and `fc`, `module.g.*`, the projector, and an argparse.Namespace of
the run's flags. The ImageNet100 scripts save `module.encoder_q.*`, a torchvision ResNet whose `fc`
is the projector, and no flags. Nothing in a file is unpickled beyond tensors, plain values and
that one class.
"""

from __future__ import annotations

import argparse
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor

from care_core import checkpoint, models
from care_core.errors import CheckpointError
from care_core.files import read_whole
from care_core.spec.sections import Model

Kind = Literal["cifar", "imagenet"]

#: This engine's names and the official ones. A projector's layers are numbered alike in all.
_NAMES: dict[Kind, dict[str, str]] = {
    "cifar": {
        "backbone.conv1.": "f.0.",
        "backbone.bn1.": "f.1.",
        "backbone.layer1.": "f.3.",  # f.2 is the ReLU, which has no weights
        "backbone.layer2.": "f.4.",
        "backbone.layer3.": "f.5.",
        "backbone.layer4.": "f.6.",
        "projector.": "g.",
    },
    "imagenet": {"backbone.": "encoder_q.", "projector.": "encoder_q.fc."},
}
#: ResNets by whether their blocks are bottlenecks, and how many blocks each stage has.
_RESNETS: dict[tuple[bool, tuple[int, ...]], str] = {
    (False, (2, 2, 2, 2)): "resnet18",
    (False, (3, 4, 6, 3)): "resnet34",
    (True, (3, 4, 6, 3)): "resnet50",
}
#: What a MoCo run saves beside the encoder that is probed.
_LEFT_OUT = re.compile(r"encoder_k\.|queue$|queue_ptr$")


class Official(NamedTuple):
    """What an official checkpoint holds, its weights under this engine's names."""

    file: str
    sha256: str
    kind: Kind
    weights: dict[str, Tensor]
    model: Model
    settings: dict[str, Any]  #: the run's flags; none in ImageNet100's files
    epoch: int | None
    accuracy: float | None  #: per cent, of the official kNN check on the test set
    best: bool  #: whether that is the best so far: the file was chosen on the test set
    left_out: tuple[str, ...]  #: what is not needed to encode, such as a MoCo key encoder
    queue: int | None  #: keys of a MoCo run's queue

    @property
    def dataset(self) -> str | None:
        """What it was trained on, if the file says so; the ImageNet100 scripts know one alone."""
        name = self.settings.get("dataset_name")
        return "imagenet100" if self.kind == "imagenet" else str(name).lower() if name else None

    @property
    def image_size(self) -> int:
        """Pixels a side: the scripts crop to one size, STL10 included."""
        return 32 if self.kind == "cifar" else 224


def read(path: Path) -> Official:
    """Read a checkpoint of either kind; the architecture is read from the weights' shapes.

    Raises:
        CheckpointError: it is not there, damaged, holds what could run code (which is never
            unpickled), or is laid out otherwise; says which weights are missing or wrong.
    """
    data, content = _load(path)
    state = _state_dict(path, content)
    kind = _kind(path, state)
    model = _model(path, kind, state)
    args = content.get("args")
    settings = vars(args) if isinstance(args, argparse.Namespace) else {}
    accuracy, best = _number(content.get("test_acc_1")), _number(content.get("best_acc_1"))
    epoch, queue = content.get("epoch"), state.get("queue")
    return Official(
        file=path.name,
        sha256=hashlib.sha256(data).hexdigest(),
        kind=kind,
        weights=_translated(path, kind, model, state),
        model=model,
        settings={str(key): _plain(value) for key, value in settings.items()},
        epoch=epoch if isinstance(epoch, int) and 0 <= epoch < 2**31 else None,
        accuracy=accuracy,
        best=accuracy is not None and accuracy == best,
        left_out=tuple(sorted({k.split(".")[0] for k in state if _LEFT_OUT.match(k)})),
        queue=queue.shape[1] if queue is not None and queue.dim() == 2 else None,
    )


def _load(path: Path) -> tuple[bytes, dict[str, Any]]:
    try:
        data = read_whole(path)
    except (OSError, ValueError) as error:  # a ValueError: no file can have such a name
        why = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path}: cannot be read ({why})") from error
    checkpoint.require_unpacked(path, data)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = checkpoint.unpickled(data)
    except UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named is None:
            raise CheckpointError(f"{path}: damaged, or not a checkpoint of torch") from error
        raise CheckpointError(
            f"{path}: refused, it holds a {named[1]}; loading that could run code. Tensors, plain "
            "values and an argparse.Namespace are all that an official checkpoint needs"
        ) from error
    except Exception as error:  # the unpickler raises whatever damage makes it raise
        raise CheckpointError(f"{path}: damaged, truncated, or not a checkpoint") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a checkpoint")
    return data, dict(content)


def _state_dict(path: Path, content: dict[str, Any]) -> dict[str, Tensor]:
    """The weights by name, without the prefix that parallel training puts before each."""
    if "spec" in content and "model" in content:
        raise CheckpointError(
            f"{path}: already a checkpoint of this engine; it can be probed as it is"
        )
    found = next((content[key] for key in ("state_dict", "model") if key in content), content)
    if not isinstance(found, Mapping) or not found:
        raise CheckpointError(f"{path}: has no weights under 'state_dict'")
    state = {str(key).removeprefix("module."): value for key, value in found.items()}
    wrong = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if wrong:
        raise CheckpointError(f"{path}: {_some(wrong)} among the weights: not a tensor")
    odd = [key for key, value in state.items() if not _whole(value)]
    if odd:
        raise CheckpointError(
            f"{path}: {_some(odd)} among the weights: sparse, quantised, or of more values than "
            "the file holds; an official checkpoint has plain tensors"
        )
    return state


def _whole(value: Tensor) -> bool:
    """Whether a tensor's values all lie in its storage: a stride of 0 claims any number of them."""
    if value.is_nested or value.layout != torch.strided or value.is_quantized or value.is_meta:
        return False
    return value.numel() <= value.untyped_storage().nbytes() // value.element_size()


def _kind(path: Path, state: dict[str, Tensor]) -> Kind:
    if any(key.startswith("f.") for key in state):
        return "cifar"
    if any(key.startswith("encoder_q.") for key in state):
        return "imagenet"
    if "layer1.0.conv1.weight" in state:
        raise CheckpointError(
            f"{path}: a plain torchvision ResNet, without a projector; the official pretraining "
            "saves f.* and g.* (CIFAR, STL) or encoder_q.* (ImageNet100)"
        )
    raise CheckpointError(
        f"{path}: of an unknown layout, with {_some(list(state))}; the official pretraining saves "
        "f.* and g.* (CIFAR, STL) or encoder_q.* (ImageNet100)"
    )


def _model(path: Path, kind: Kind, state: dict[str, Tensor]) -> Model:
    """The architecture: blocks are counted, and the projector's sizes are its weights' rows.

    The stem belongs to the layout: only the CIFAR scripts leave out the max-pool, which has no
    weights that could show it.
    """
    names = _NAMES[kind]
    stages = [
        names.get(f"backbone.layer{n}.", f"{names.get('backbone.')}layer{n}.") for n in (1, 2, 3, 4)
    ]
    blocks = tuple(
        len({key[len(stage) :].split(".")[0] for key in state if key.startswith(stage)})
        for stage in stages
    )
    bottleneck = f"{stages[0]}0.conv3.weight" in state
    backbone = _RESNETS.get((bottleneck, blocks))
    if backbone is None:
        shape = f"{' + '.join(map(str, blocks))} {'bottleneck' if bottleneck else 'basic'} blocks"
        raise CheckpointError(
            f"{path}: its backbone has {shape}, which is none of ResNet-18, 34 and 50"
        )
    norm = kind == "cifar"
    first, last = (f"{names['projector.']}{n}.weight" for n in (0, 3 if norm else 2))
    lacking = [name for name in (first, last) if name not in state or state[name].dim() != 2]
    if lacking:
        raise CheckpointError(f"{path}: has no projector ({' and '.join(lacking)})")
    sizes = {"hidden": state[first].shape[0], "embedding": state[last].shape[0]}
    try:
        return Model.model_validate(
            {"backbone": backbone, "stem": kind, "projector_norm": norm, **sizes}
        )
    except ValidationError as error:
        raise CheckpointError(
            f"{path}: its projector has {sizes['hidden']} hidden units and {sizes['embedding']} "
            "dimensions, which is none"
        ) from error


def _translated(
    path: Path, kind: Kind, model: Model, state: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The weights by this engine's names, each there and of its shape, and none left over."""
    with torch.device("meta"):
        expected = models.Encoder(model, kind).state_dict()
    names = {ours: _official(kind, ours) for ours in expected}
    missing = [theirs for theirs in names.values() if theirs not in state]
    if missing:
        raise CheckpointError(f"{path}: lacks {_some(missing)} of a {model.backbone}")
    known = set(names.values())
    strange = [key for key in state if key not in known and not _LEFT_OUT.match(key)]
    if strange:
        raise CheckpointError(f"{path}: has {_some(strange)}, which no {model.backbone} has")
    for ours, theirs in names.items():
        wanted, found = tuple(expected[ours].shape), tuple(state[theirs].shape)
        if wanted != found:
            raise CheckpointError(
                f"{path}: {theirs} has the shape {found}, not the {wanted} of a {model.backbone}"
            )
        if state[theirs].is_floating_point() != expected[ours].is_floating_point():
            raise CheckpointError(f"{path}: {theirs} has values of {state[theirs].dtype}")
        wide = state[theirs].float() if state[theirs].element_size() == 1 else state[theirs]
        if not torch.isfinite(wide).all():
            raise CheckpointError(f"{path}: {theirs} has values that are not finite")
    return {ours: state[theirs] for ours, theirs in names.items()}


def _official(kind: Kind, name: str) -> str:
    ours, theirs = next(pair for pair in _NAMES[kind].items() if name.startswith(pair[0]))
    return theirs + name.removeprefix(ours)


def _plain(value: Any, depth: int = 0) -> Any:
    """A flag as plain values, which are all that a checkpoint of this engine may hold.

    What is no flag of the official scripts (a tensor, a list that holds itself) is only named.
    """
    if isinstance(value, list | tuple) and depth < 3 and len(value) < 1000:
        return [_plain(part, depth + 1) for part in value]
    if isinstance(value, int) and abs(value) >= 2**63:
        return "a number beyond 2^63"
    plain = isinstance(value, str | int | float | bool | None)
    return value if plain else f"a {type(value).__name__}"


def _number(value: Any) -> float | None:
    """An accuracy, if it is one."""
    whole = isinstance(value, int | float) and 0 <= value <= 100
    return float(value) if whole else None


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest
