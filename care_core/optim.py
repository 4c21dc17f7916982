"""Optimisers and learning rates, as a spec names them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from care_core.finite import Undo
from care_core.spec import Optimizer, Schedule


def build_optimizer(spec: Optimizer, module: nn.Module) -> torch.optim.Optimizer:
    """Adam, SGD or LARS over what is trained; weight decay is the L2 term of their papers.

    Adam and SGD are torch's fused ones: all parameters in one pass, without a word to the host.

    LARS (You et al., 2017) is timm's. Biases and the scales and shifts of norms, which have one
    dimension, are neither adapted nor decayed, as in BYOL and Barlow Twins.

    Each takes `found_inf`, a 0-d float on the device, as an attribute: where it is 1, a step
    changes neither weights nor moments.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    if spec.name == "adam":
        return torch.optim.Adam(trained, lr=spec.lr, weight_decay=spec.weight_decay, fused=True)
    if spec.name == "sgd":
        sgd = torch.optim.SGD(
            trained, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay, fused=True
        )
        return _with_zero_velocities(sgd, spec.momentum)
    from timm.optim import Lars  # timm takes a second to import

    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1], "always_adapt": True},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    lars = Lars(
        groups, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay,
        trust_coeff=spec.trust,
    )  # fmt: skip
    return _heeding_found_inf(_with_zero_velocities(lars, spec.momentum))


def _with_zero_velocities(
    optimizer: torch.optim.Optimizer, momentum: float
) -> torch.optim.Optimizer:
    """Make the velocities now: a first step that is left out would leave anything in them."""
    for group in optimizer.param_groups if momentum else ():
        for parameter in group["params"]:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def _heeding_found_inf(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Let it heed `found_inf`, and fp16's `grad_scale`, as torch's fused optimisers do.

    What is remembered of weights and velocities is made at each update and let go after it: that
    takes 1 ms for a ResNet-50, and its memory is the activations' for the rest of the step.
    """
    held: list[tuple[Undo, Tensor]] = []

    def before(*_: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if (scale := getattr(optimizer, "grad_scale", None)) is not None:
            gradients = [p.grad for p in parameters if p.grad is not None]
            torch._foreach_mul_(gradients, scale.double().reciprocal().float())
        if (flag := getattr(optimizer, "found_inf", None)) is not None:
            moments = [v for s in optimizer.state.values() for v in s.values() if v is not None]
            undo = Undo([*parameters, *moments])
            undo.remember()
            held.append((undo, flag))

    def after(*_: Any) -> None:
        for undo, flag in held:
            undo.back(flag)
        held.clear()

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)
    optimizer._step_supports_amp_scaling = True  # type: ignore[attr-defined]
    return optimizer


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
