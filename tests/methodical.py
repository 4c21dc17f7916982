"""Methods for tests, small and in float64, and steps to give to them."""

from __future__ import annotations

from typing import Any

import torch
from conftest import tiny
from torch import Tensor

from care_core import methods
from care_core.distributed import ALONE
from care_core.methods import Method, Step
from care_core.models import Encoder
from care_core.optim import build_optimizer
from care_core.spec import PretrainSpec
from care_core.spec.sections import Optimizer
from care_core.views.transform import NUMBERS

BATCH = 16
METHODS: dict[str, dict[str, Any]] = {
    "simclr": {"name": "simclr", "temperature": 0.2},
    "moco": {"name": "moco", "temperature": 0.1, "queue": 48, "momentum": 0.9},
    "barlow": {"name": "barlow", "off_diagonal": 0.02},
    "byol": {"name": "byol", "momentum": 0.9, "hidden": 16},
    "equimod of simclr": {"name": "equimod", "hidden": 16, "embedding": 6},
    "equimod of byol": {
        "name": "equimod", "hidden": 16, "embedding": 6,
        "base": {"name": "byol", "momentum": 0.9, "hidden": 16},
    },
}  # fmt: skip


def spec_of(name: str, **changes: Any) -> PretrainSpec:
    fields = {"method": METHODS[name], "equivariance": {"weight": 0}, **changes}
    return tiny(training={"batch_size": BATCH}, **fields)


def method_of(name: str, **changes: Any) -> Method:
    return methods.build(spec_of(name, **changes), ALONE).double()


def step(number: int = 0) -> Step:
    source = torch.Generator().manual_seed(number)

    def images() -> Tensor:
        return torch.randn(BATCH, 3, 8, 8, generator=source, dtype=torch.float64)

    numbers = torch.randn(2, BATCH, NUMBERS, generator=source, dtype=torch.float64)
    return Step(number, [images(), images()], [], images(), numbers)


def rows(encoder: Encoder, images: Tensor) -> Tensor:
    """(B, d) projections that are not yet put on the sphere."""
    projected: Tensor = encoder.projector(encoder.backbone(images))
    return projected


def update(method: Method, loss: Tensor, share: float) -> None:
    optimizer = build_optimizer(Optimizer(name="sgd", lr=0.5), method)
    loss.backward()
    optimizer.step()
    method.zero_grad()
    method.after_step(share)
