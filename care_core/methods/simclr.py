"""SimCLR (Chen et al., 2020): InfoNCE over the two views of all images of a batch."""

from __future__ import annotations

from torch import Tensor

from care_core import losses, models
from care_core.distributed import World
from care_core.methods.base import Method, Outcome
from care_core.spec import PretrainSpec, objectives
from care_core.views.step import Step


class SimCLR(Method):
    """The encoder, trained by the agreement of two views against all other images."""

    def __init__(self, spec: PretrainSpec, world: World, own: objectives.SimCLR) -> None:
        super().__init__(spec, world)
        self.temperature = own.temperature

    def loss(self, features: list[Tensor], projected: list[Tensor], step: Step) -> Outcome:
        """NT-Xent over both views of all images (its equation 1)."""
        z1, z2 = (self.compared(models.unit(rows)) for rows in projected)
        loss = losses.info_nce(z1, z2, self.temperature)
        return Outcome(loss, z1, z2, {"info_nce": loss.detach()})
