"""Barlow Twins (Zbontar et al., 2021): the views' cross-correlation should be the identity."""

from __future__ import annotations

from torch import Tensor

from care_core import losses, models
from care_core.distributed import World
from care_core.methods.base import Method, Outcome
from care_core.spec import PretrainSpec, objectives
from care_core.views.step import Step


class BarlowTwins(Method):
    """The encoder, trained to make each dimension agree over views and differ from the others.

    The correlation is taken over the images of all ranks, or of each rank (loss.negatives: local).
    """

    def __init__(self, spec: PretrainSpec, world: World, own: objectives.BarlowTwins) -> None:
        super().__init__(spec, world)
        self.off_diagonal = own.off_diagonal

    def loss(self, features: list[Tensor], projected: list[Tensor], step: Step) -> Outcome:
        """The views' cross-correlation against the identity (its equation 1)."""
        first, second = (self.compared(rows) for rows in projected)
        on, off = losses.barlow_twins(first, second)
        terms = {"invariance": on.detach(), "redundancy": off.detach()}
        return Outcome(on + self.off_diagonal * off, models.unit(first), models.unit(second), terms)
