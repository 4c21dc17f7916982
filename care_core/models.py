"""Backbones, and the projector onto the sphere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet

from care_core import draws
from care_core.deepset import DeepSet
from care_core.errors import CheckpointError, SpecError
from care_core.precision import widened
from care_core.spec import PretrainSpec
from care_core.spec.sections import DEEPSET_WIDTH, SMALL_WIDTH, Model


def backbone(spec: Model, stem: str = "cifar", size: int = 224) -> tuple[nn.Module, int]:
    """A network (B, 3, H, W) → (B, n) features, and n; a deepset's takes (B, points, 3).

    ResNets are torchvision's; the CIFAR stem of the paper (appendix) is a 3×3 first convolution of
    stride 1 and no max-pool. `small` has one basic block a stage. timm/NAME is timm's, untrained,
    made for images of `size` pixels where that is for it to know.

    Raises:
        SpecError: timm has no such model, or it does not take images of that size.
    """
    if spec.backbone == "small":
        return _small(spec.width or SMALL_WIDTH)
    if spec.backbone == "deepset":
        return DeepSet(width := spec.width or DEEPSET_WIDTH), width
    if spec.backbone.startswith("timm/"):
        return _timm(spec.backbone.removeprefix("timm/"), size)
    network: Any = getattr(resnet, spec.backbone)(weights=None)
    if stem == "cifar":
        network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        network.maxpool = nn.Identity()
    features = int(network.fc.in_features)
    network.fc = nn.Identity()
    return network, features


def _timm(name: str, size: int) -> tuple[nn.Module, int]:
    import timm  # a second, and most runs do without it

    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name[:6]}*")[:5])
        hint = f"; it has {near}" if near else "; timm.list_models() names them"
        raise SpecError(f"model.backbone: timm has no model '{name}'{hint}")
    network = timm.create_model(name, pretrained=False, num_classes=0, **timm_options(name, size))
    # some heads widen the features before the classifier, which alone is left out
    return network, int(getattr(network, "head_hidden_size", network.num_features))


def timm_options(name: str, size: int) -> dict[str, int]:
    """What timm's model is to be told of the images: their size, of a transformer, or nothing."""
    import timm

    try:
        with torch.device("meta"):  # without weights
            timm.create_model(name, pretrained=False, num_classes=0, img_size=size)
    except TypeError:  # a convolutional network takes any size, and no such argument
        return {}
    except (AssertionError, ValueError, RuntimeError) as error:
        raise SpecError(
            f"model.backbone: timm's {name} does not take images of {size} pixels ({error}); "
            "choose another data.image_size"
        ) from error
    return {"img_size": size}


def _small(width: int) -> tuple[nn.Module, int]:
    """One basic block a stage, at 1, 2, 4 and 8 times `width` channels."""
    stages: list[nn.Module] = []
    channels = width
    for stage in range(4):
        out, stride = width * 2**stage, 1 if stage == 0 else 2
        shortcut = None
        if stride != 1 or out != channels:
            shortcut = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )
        stages.append(resnet.BasicBlock(channels, out, stride, shortcut))
        channels = out
    network = nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        *stages,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network, channels


def mlp(
    inputs: int, hidden: int, outputs: int, *, layers: int = 2, norm: bool = True,
    last_norm: bool = False,
) -> nn.Sequential:  # fmt: skip
    """Linear layers with ReLU between them: (B, inputs) → (B, outputs).

    Args:
        norm: batch norm after each hidden layer, which then has no bias.
        last_norm: end with a batch norm without scale and shift, and no bias before it.
    """
    modules: list[nn.Module] = []
    for _ in range(layers - 1):
        modules.append(nn.Linear(inputs, hidden, bias=not norm))
        modules += [nn.BatchNorm1d(hidden)] if norm else []
        modules.append(nn.ReLU(inplace=True))
        inputs = hidden
    modules.append(nn.Linear(inputs, outputs, bias=not last_norm))
    modules += [nn.BatchNorm1d(outputs, affine=False)] if last_norm else []
    return nn.Sequential(*modules)


def unit(rows: Tensor) -> Tensor:
    """(B, d) → (B, d) rows of length 1, in fp32 at least."""
    return F.normalize(widened(rows), dim=1)


class Encoder(nn.Module):
    """f = normalise(projector(backbone(x))): (B, 3, H, W) → (B, d) on the unit sphere."""

    def __init__(self, spec: Model, stem: str = "cifar", size: int = 224) -> None:
        super().__init__()
        self.backbone, self.features = backbone(spec, stem, size)
        self.projector = mlp(
            self.features, spec.hidden, spec.embedding,
            layers=spec.projector_layers, norm=spec.projector_norm,
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        return self.project(self.backbone(images))

    def project(self, features: Tensor) -> Tensor:
        """(B, n) backbone features → (B, d) fp32 unit rows."""
        return unit(self.projector(features))


@contextmanager
def seeded(seed: int, *purpose: str) -> Iterator[None]:
    """Within, layers that are made draw their weights from the seed and the purpose alone."""
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would reseed the GPUs' generators too, for good
        torch.default_generator.manual_seed(draws.generator(seed, *purpose).initial_seed())
        yield


@contextmanager
def seeded_dropout(
    spec: PretrainSpec, step: int, rank: int, device: torch.device
) -> Iterator[None]:
    """Within, what a network draws itself is counted: by seed, step and rank.

    Only timm's models drop units or paths; nothing else here draws from torch's own generators.
    """
    if not spec.model.backbone.startswith("timm/"):
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(draws.generator(spec.seed, "dropout", step, rank).initial_seed())
        yield


def build(spec: PretrainSpec) -> Encoder:
    """The encoder that a spec describes, freshly initialised from its seed."""
    with seeded(spec.seed, "init"):
        encoder = Encoder(spec.model, spec.stem, spec.image_size)
    encoder.to(memory_format=torch.channels_last)
    return encoder


def restore(
    state: dict[str, Any], source: Path, *, trained: bool = True
) -> tuple[Encoder, PretrainSpec]:
    """The encoder in a checkpoint's state, in eval mode on the CPU, and the spec it was trained by.

    Args:
        source: the checkpoint's file, for what is said of it.
        trained: with its weights; else as its spec initialises it.

    Raises:
        CheckpointError: its spec and weights do not fit, or a model of it is not to be had.
    """
    try:
        spec = PretrainSpec.model_validate_json(state["spec"])
        encoder = build(spec)
        if trained:
            encoder.load_state_dict(state["model"])
    except SpecError as error:
        raise CheckpointError(f"{source}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"{source}: not a checkpoint of this engine (its spec and weights do not fit)"
        ) from error
    return encoder.eval(), spec
