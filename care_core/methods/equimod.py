"""EquiMod (Devillers and Lefort, ICLR 2023): predict how an augmentation moves an embedding.

Beside an invariant method, SimCLR or BYOL, a module has a space of its own. From the embedding of
the image itself and the numbers of an augmentation it predicts the embedding of the augmented
image. An NT-Xent between prediction and truth keeps that space from collapsing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from care_core import losses, models
from care_core.distributed import World
from care_core.methods.base import Method, Outcome
from care_core.methods.byol import BYOL
from care_core.methods.simclr import SimCLR
from care_core.spec import PretrainSpec, objectives
from care_core.views.step import Step
from care_core.views.transform import NUMBERS


class EquiMod(Method):
    """The base method, with which the encoder is shared, and the equivariance module.

    Its projector, the embedding of the augmentation's numbers and the predictor are as in the
    authors' code; the views' batch statistics follow bn.views as everywhere.
    """

    extra = 1  # the image itself goes through the backbone and the module alone

    def __init__(self, spec: PretrainSpec, world: World, own: objectives.EquiMod) -> None:
        super().__init__(spec, world)
        self.own = own
        self.base: Method = (
            BYOL(spec, world, own.base)
            if isinstance(own.base, objectives.BYOL)
            else SimCLR(spec, world, own.base)
        )
        self.base.encoder = self.encoder
        width = own.embedding
        with models.seeded(spec.seed, "init", "module"):
            self.projector = models.mlp(
                self.encoder.features, own.hidden, width, layers=3, last_norm=True
            )
            self.described = nn.Sequential(
                nn.Linear(NUMBERS, width, bias=False), nn.BatchNorm1d(width)
            )
            self.predictor = models.mlp(2 * width, 0, width, layers=1, last_norm=True)

    def images(self, step: Step) -> list[Tensor]:
        assert step.plain is not None
        return [step.plain, *self.base.images(step)]

    def loss(self, features: list[Tensor], projected: list[Tensor], step: Step) -> Outcome:
        """The base method's, and NT-Xent over both views between prediction and embedding."""
        outcome = self.base.loss(features[1:], projected, step)
        assert step.parameters is not None
        image, *augmented = self.through(self.projector, features)
        augmentations = self.through(self.described, list(step.parameters))
        inputs = [torch.cat([image, augmentation], dim=1) for augmentation in augmentations]
        predicted = self.through(self.predictor, inputs)
        targets, predictions = (
            torch.cat([self.compared(models.unit(rows)) for rows in views])
            for views in (augmented, predicted)
        )
        module = losses.info_nce(targets, predictions, self.own.temperature)
        terms = {**outcome.terms, "module": module.detach()}
        return Outcome(outcome.loss + self.own.weight * module, outcome.z1, outcome.z2, terms)

    def before_step(self, number: int) -> None:
        self.base.before_step(number)

    def after_step(self, share: float) -> None:
        self.base.after_step(share)
