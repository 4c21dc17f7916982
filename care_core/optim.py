"""Optimisers and learning rates, as a spec names them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from care_core.spec import Optimizer, Schedule


def build_optimizer(spec: Optimizer, module: nn.Module) -> torch.optim.Optimizer:
    """Adam, SGD or LARS over what is trained; weight decay is the L2 term of their papers.

    Adam and SGD are torch's fused ones: all parameters in one pass, without a word to the host.

    LARS (You et al., 2017) is timm's. Biases and the scales and shifts of norms, which have one
    dimension, are neither adapted nor decayed, as in BYOL and Barlow Twins.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    if spec.name == "adam":
        return torch.optim.Adam(trained, lr=spec.lr, weight_decay=spec.weight_decay, fused=True)
    if spec.name == "sgd":
        return torch.optim.SGD(
            trained, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay, fused=True
        )
    from timm.optim import Lars  # timm takes a second to import

    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1], "always_adapt": True},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return Lars(
        groups, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay,
        trust_coeff=spec.trust,
    )  # fmt: skip


def learning_rate(schedule: Schedule, base: float, epoch: float, epochs: int) -> float:
    """The rate at a fractional epoch: linear warm-up, then the schedule over what is left."""
    if epoch < schedule.warmup_epochs:
        return base * (epoch + 1) / (schedule.warmup_epochs + 1)
    if schedule.name == "cosine":
        share = (epoch - schedule.warmup_epochs) / (epochs - schedule.warmup_epochs)
        return base * 0.5 * (1 + math.cos(math.pi * share))
    if schedule.name == "multistep":
        return base * schedule.gamma ** sum(epoch >= at for at in schedule.milestones)
    return base
