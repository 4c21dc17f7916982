"""SimCLR (Chen et al., 2020), with CARE's term where its weight is above 0 (paper, Algorithm 1).

A step sees two views of each image, every image augmented by itself, and for CARE two more in
which all images of a split share one augmentation. The loss is L_InfoNCE + λ L_equi.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from care_core import draws, losses, models
from care_core.distributed import World, forward_views
from care_core.spec import PretrainSpec


class SimCLR(nn.Module):
    """The encoder and its loss. `forward` takes views and returns the loss and its terms."""

    def __init__(self, spec: PretrainSpec, world: World) -> None:
        super().__init__()
        self.encoder = models.build(spec.model, draws.generator(spec.seed, "init"))
        self.temperature = spec.method.temperature
        self.term = spec.equivariance
        self.statistics = spec.bn.views
        self.world = world

    def forward(
        self, views: Sequence[Tensor], pair: Sequence[Tensor] = ()
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its detached terms, of which `equivariance` is of this rank's splits alone.

        Args:
            views: two tensors (B, 3, H, W), augmented image by image.
            pair: none, or two tensors (E, 3, H, W), augmented split by split.
        """
        outputs = forward_views(self.encoder, [*views, *pair], self.statistics)
        z1, z2 = (self.world.gather(z) for z in outputs[:2])
        loss = losses.info_nce(z1, z2, self.temperature)
        terms = {"info_nce": loss.detach()}
        if pair:
            term = losses.equivariance(outputs[2], outputs[3], self.term.splits // self.world.size)
            loss = loss + self.term.weight * term
            terms["equivariance"] = term.detach()
        with torch.no_grad():
            terms["alignment"] = losses.alignment(z1, z2)
        return loss, {"loss": loss.detach(), **terms}
