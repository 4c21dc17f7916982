"""An encoder as files that others read: safetensors, a JSON that explains them, and ONNX.

The backbone's weights keep the names that torchvision (for its ResNets) or timm (for its models)
gives them, so that either library loads them; the projector has a file of its own, since nothing
of it may be left over there.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from care_core import checkpoint, models
from care_core.errors import CareError
from care_core.files import write_bytes, write_json
from care_core.models import Encoder
from care_core.spec import PretrainSpec
from care_core.spec.sections import DEEPSET_WIDTH, SMALL_WIDTH

FORMAT = 1
#: What is told of the file that an imported checkpoint was read from.
_TOLD = ("file", "sha256", "layout", "epoch")
_STEM = (
    "model.conv1, model.maxpool = "
    "torch.nn.Conv2d(3, 64, 3, padding=1, bias=False), torch.nn.Identity()"
)


def export(
    source: Path, folder: Path, name: str, *, origin: dict[str, Any], onnx: bool = False
) -> dict[str, Any]:
    """Write a checkpoint's encoder to `folder` as name.safetensors and its companions.

    Args:
        source: a checkpoint of this engine.
        name: what the files are called; name.projector.safetensors, name.json, name.onnx.
        origin: where the weights come from (run, code version), for the JSON.
        onnx: also the backbone in eval mode: images (batch, 3, size, size), or clouds (batch,
            points, 3), → features (batch, n).

    Returns:
        What is in the JSON; "files" maps each file's role to its name and sha256.

    Raises:
        CheckpointError: the checkpoint is damaged, or not one of this engine's.
        CareError: ONNX is asked for, and a package that it needs is not installed.
        StorageError: the folder cannot be written.
    """
    if onnx:
        _require("onnx", "onnxscript")
    encoder, spec, imported = _encoder(source)
    contents = {
        "backbone": (f"{name}.safetensors", _weights(encoder.backbone)),
        "projector": (f"{name}.projector.safetensors", _weights(encoder.projector)),
    }
    if onnx:
        contents["onnx"] = (f"{name}.onnx", _onnx(encoder.backbone, spec))
    told = {
        "format": FORMAT,
        "name": name,
        "architecture": spec.model.backbone,
        "stem": spec.stem if spec.model.backbone.startswith("resnet") else None,
        "features": encoder.features,
        "embedding": spec.model.embedding,
        "dataset": spec.data.name,
        **_input(spec),
        "files": {
            role: {"file": file, "sha256": hashlib.sha256(data).hexdigest()}
            for role, (file, data) in contents.items()
        },
        "load": {
            library: lines.splitlines()
            for library, lines in loading(spec, f"{name}.safetensors").items()
        },
        "projector": _sequential(encoder.projector),
        "origin": {**origin, **imported},
        "spec": spec.model_dump(mode="json"),
    }
    for file, data in contents.values():
        write_bytes(folder / file, data)
    write_json(folder / f"{name}.json", told)
    return told


def loading(spec: PretrainSpec, file: str) -> dict[str, str]:
    """The Python lines that load an exported backbone, by library, imports first.

    A ResNet: the model without its classifier, for the CIFAR stem the two layers that differ, and
    the weights. The result maps normalised images to features.
    """
    name = spec.model.backbone
    # a file's name may have quotes: what is printed here is pasted and run
    load = f"model.load_state_dict(load_file({json.dumps(file, ensure_ascii=False)}))"
    imports = "from safetensors.torch import load_file"
    if name in ("small", "deepset"):
        width = spec.model.width or (SMALL_WIDTH if name == "small" else DEEPSET_WIDTH)
        return {
            "care_core": f"{imports}\nfrom care_core.models import backbone\n"
            "from care_core.spec.sections import Model\n"
            f'model, _ = backbone(Model(backbone="{name}", width={width}))\n{load}'
        }
    if name.startswith("timm/"):
        own = name.removeprefix("timm/")
        options = "".join(
            f", {k}={v}" for k, v in models.timm_options(own, spec.image_size).items()
        )
        made = f'model = timm.create_model("{own}", num_classes=0{options})'
        return {"timm": f"import timm\n{imports}\n{made}\n{load}"}
    stem = f"{_STEM}\n" if spec.stem == "cifar" else ""
    return {
        "torchvision": f"import torch, torchvision\n{imports}\n"
        f"model = torchvision.models.{name}(); model.fc = torch.nn.Identity()\n{stem}{load}",
        "timm": f"import torch, timm\n{imports}\n"
        f'model = timm.create_model("{name}", num_classes=0)\n{stem}{load}',
    }


def _input(spec: PretrainSpec) -> dict[str, Any]:
    """What the backbone takes, for the JSON."""
    if spec.data.clouds:
        return {
            "points": spec.image_size,
            "input": "(batch, points, 3), minus each cloud's centroid, by its root mean square "
            "radius; any number of points",
        }
    mean, std = spec.data.normalization
    return {
        "image_size": spec.image_size,
        "input": "RGB in [0, 1], (batch, 3, image_size, image_size), minus mean, by std a channel",
        "mean": list(mean),
        "std": list(std),
    }


def _encoder(source: Path) -> tuple[Encoder, PretrainSpec, dict[str, Any]]:
    """The encoder, its spec, and for an imported checkpoint the file that it was read from."""
    state = checkpoint.read(source)
    encoder, spec = models.restore(state, source)
    # the flags of an imported run may name people and folders: they stay in the checkpoint
    origin = state.get("origin")
    told = origin if isinstance(origin, dict) else {}
    source_file = {key: told[key] for key in _TOLD if key in told and _plain(told[key])}
    return encoder, spec, {"imported": source_file} if source_file else {}


def _plain(value: Any) -> bool:
    """Whether a value can stand in a JSON as it is."""
    whole = isinstance(value, int) and abs(value) < 2**63
    return value is None or isinstance(value, str) or whole


def _weights(module: nn.Module) -> bytes:
    state = {key: value.contiguous() for key, value in module.state_dict().items()}
    return bytes(save(state, metadata={"format": "pt"}))


def _sequential(projector: nn.Module) -> str:
    """The projector as an expression that its weights load into."""
    layers = []
    for layer in projector.children():
        if isinstance(layer, nn.Linear):
            made = (
                f"Linear({layer.in_features}, {layer.out_features}, bias={layer.bias is not None})"
            )
        elif isinstance(layer, nn.BatchNorm1d):
            made = f"BatchNorm1d({layer.num_features}, affine={layer.affine})"
        else:
            made = "ReLU()"
        layers.append(f"torch.nn.{made}")
    return f"torch.nn.Sequential({', '.join(layers)})"


def _require(*packages: str) -> None:
    lacking = [name for name in packages if not importlib.util.find_spec(name)]
    if lacking:
        raise CareError(
            f"ONNX needs {' and '.join(lacking)}, which is not installed; "
            "pip install 'care-lab[onnx]'"
        )


def _onnx(backbone: nn.Module, spec: PretrainSpec) -> bytes:
    """The backbone as one ONNX file, for any number of images or clouds."""
    size, clouds = spec.image_size, spec.data.clouds
    shape = (2, size, 3) if clouds else (2, 3, size, size)
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                backbone,
                (torch.zeros(*shape),),
                input_names=["clouds" if clouds else "images"],
                output_names=["features"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                verbose=False,
            )
    finally:
        quiet.setLevel(level)
    proto = program.model_proto
    for part in (proto, proto.graph, *proto.graph.node, *proto.graph.value_info,
                 *proto.graph.input, *proto.graph.output, *proto.graph.initializer):  # fmt: skip
        if hasattr(part, "metadata_props"):
            del part.metadata_props[:]  # stack traces, with the paths of this machine
    return bytes(proto.SerializeToString())
