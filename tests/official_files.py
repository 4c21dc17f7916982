"""Checkpoints laid out as the official code writes them, of networks that nobody trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet

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
