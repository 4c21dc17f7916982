"""Backbones with the CIFAR stem, and the projector onto the sphere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet

from care_core.spec import SMALL_WIDTH, Model


def backbone(spec: Model) -> tuple[nn.Module, int]:
    """A network (B, 3, H, W) → (B, n) features, and n.

    ResNets are torchvision's with the CIFAR stem of the paper (appendix): a 3×3 first convolution
    of stride 1 and no max-pool. `small` has one basic block a stage.
    """
    if spec.backbone == "small":
        return _small(spec.width or SMALL_WIDTH)
    network: Any = getattr(resnet, spec.backbone)(weights=None)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    features = int(network.fc.in_features)
    network.fc = nn.Identity()
    return network, features


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


class Encoder(nn.Module):
    """f = normalise(projector(backbone(x))): (B, 3, H, W) → (B, d) on the unit sphere."""

    def __init__(self, spec: Model) -> None:
        super().__init__()
        self.backbone, self.features = backbone(spec)
        self.projector = nn.Sequential(
            nn.Linear(self.features, spec.hidden, bias=False),
            nn.BatchNorm1d(spec.hidden),
            nn.ReLU(inplace=True),
            nn.Linear(spec.hidden, spec.embedding),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.project(self.backbone(images))

    def project(self, features: Tensor) -> Tensor:
        """(B, n) backbone features → (B, d) fp32 unit rows."""
        return F.normalize(self.projector(features).float(), dim=1)


def build(spec: Model, seed_source: torch.Generator) -> Encoder:
    """A freshly initialised encoder whose weights depend on the generator alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_source.initial_seed())
        return Encoder(spec).to(memory_format=torch.channels_last)
