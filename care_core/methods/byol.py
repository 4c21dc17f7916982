"""BYOL (Grill et al., 2020): predict what a slow copy of the encoder makes of the other view."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from care_core import models
from care_core.distributed import World
from care_core.methods.base import Method, Outcome, ema_update
from care_core.spec import PretrainSpec, objectives
from care_core.views.step import Step


class BYOL(Method):
    """The online encoder with a predictor, and the target that follows it ever more slowly."""

    def __init__(self, spec: PretrainSpec, world: World, own: objectives.BYOL) -> None:
        super().__init__(spec, world)
        self.momentum = own.momentum
        self.target = copy.deepcopy(self.encoder).requires_grad_(False)
        width = spec.model.embedding
        with models.seeded(spec.seed, "init", "predictor"):
            self.predictor = models.mlp(width, own.hidden, width)

    def loss(self, features: list[Tensor], projected: list[Tensor], step: Step) -> Outcome:
        """Both views' ‖q̄ − z̄‖² = 2 − 2 cos(q, z), of the other view's target (its equation 2)."""
        predicted = [models.unit(rows) for rows in self.through(self.predictor, projected)]
        with torch.no_grad():
            seen = self.through(self.target.backbone, step.views)
            targets = [models.unit(z) for z in self.through(self.target.projector, seen)]
        loss = sum(
            (2 - 2 * (q * z).sum(dim=1)).mean()
            for q, z in zip(predicted, reversed(targets), strict=True)
        )
        assert isinstance(loss, Tensor)
        z1, z2 = (self.compared(models.unit(rows)) for rows in projected)
        return Outcome(loss, z1, z2, {"byol": loss.detach()})

    def after_step(self, share: float) -> None:
        """τ rises from its base to 1 by half a cosine over training (its section 3.2)."""
        momentum = 1 - (1 - self.momentum) * (math.cos(math.pi * share) + 1) / 2
        ema_update(self.target, self.encoder, momentum)
