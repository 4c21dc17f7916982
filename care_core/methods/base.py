"""What all methods share: views through the encoder, and the loss with CARE's term.

A method is a file of its own that says which images its encoder sees (`images`), what its loss is
(`loss`) and what follows an update (`after_step`). The weighted sum, the equivariance term and the
ablations' terms are said here, once:

    L = w · L_method + w_a · L_inv + w_u · L_unif + λ · L_equi
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from care_core import losses, models
from care_core.batchnorm import through
from care_core.distributed import World
from care_core.graphs import recordable
from care_core.precision import autocast, widened
from care_core.spec import PretrainSpec
from care_core.views.step import Step


class Outcome(NamedTuple):
    """A method's loss, its embeddings of both views (of all ranks), and terms to be recorded."""

    loss: Tensor
    z1: Tensor
    z2: Tensor
    terms: dict[str, Tensor]


class Method(nn.Module):
    """An encoder and what trains it; `forward` takes a step and returns the loss and its terms."""

    #: How many leading images of `images` are the method's alone, without projector or CARE.
    extra = 0

    def __init__(self, spec: PretrainSpec, world: World) -> None:
        super().__init__()
        self.spec, self.world = spec, world
        self.encoder = models.build(spec)
        self.compiled: dict[nn.Module, Callable[[Tensor], Tensor]] = {}

    def images(self, step: Step) -> list[Tensor]:
        """What goes through the trained encoder, the pair of the equivariance term apart."""
        return step.views

    def loss(self, features: list[Tensor], projected: list[Tensor], step: Step) -> Outcome:
        """The method's own loss.

        Args:
            features: (B, n) of the backbone, for each of `images`.
            projected: (B, d) of the projector, not normalised, for each but the `extra` ones.
        """
        raise NotImplementedError

    def before_step(self, number: int) -> None:
        """Called before each step, for what it needs from the host; `number` steps are done."""

    def after_step(self, share: float) -> None:
        """Called after each update; `share` of all steps are done."""

    def through(self, network: nn.Module, views: list[Tensor]) -> list[Tensor]:
        """Each view's output, in fp32: the passes' statistics and precision are the spec's."""
        with autocast(views[0].device, self.spec.training.precision):
            found = through(network, views, self.spec.bn, self._compiled(network))
        return [widened(rows) for rows in found]

    def _compiled(self, network: nn.Module) -> Callable[[Tensor], Tensor]:
        """The network's compiled twin, if it is to have one. It shares the weights."""
        how: str = self.spec.launch.compile
        if how == "off":
            return network
        if network not in self.compiled:
            device = next(network.parameters()).device
            if how == "max-autotune" and recordable(self.spec, self.world, device):
                how += "-no-cudagraphs"  # the whole step is one
            mode = None if how == "default" else how
            self.compiled[network] = torch.compile(network, mode=mode, dynamic=False)
        return self.compiled[network]

    def compared(self, rows: Tensor) -> Tensor:
        """(B, d) → the rows that a loss compares: of all ranks, or this one's."""
        return rows if self.spec.loss.negatives == "local" else self.world.gather(rows)

    def forward(self, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its detached terms, of which `equivariance` is of this rank's splits."""
        weights, term = self.spec.loss, self.spec.equivariance
        images = [*self.images(step), *step.pair]
        features = self.through(self.encoder.backbone, images)
        projected = self.through(self.encoder.projector, features[self.extra :])
        own = len(images) - len(step.pair)
        outcome = self.loss(features[:own], projected[: own - self.extra], step)
        loss, terms = weights.method * outcome.loss, outcome.terms
        for name, value in self._ablation(outcome):
            loss = loss + getattr(weights, name) * value
            terms[name] = value.detach()
        if step.pair:
            z1, z2 = (models.unit(rows) for rows in projected[-2:])
            value = losses.equivariance(z1, z2, term.splits // self.world.size)
            loss = loss + term.weight * value
            terms["equivariance"] = value.detach()
        with torch.no_grad():
            terms.setdefault("alignment", losses.alignment(outcome.z1, outcome.z2))
        return loss, {"loss": loss.detach(), **terms}

    def _ablation(self, outcome: Outcome) -> Iterator[tuple[str, Tensor]]:
        """The terms beside the method's own that have a weight."""
        spec, z1, z2 = self.spec.loss, outcome.z1, outcome.z2
        official = spec.form == "official"
        if spec.alignment:
            yield (
                "alignment",
                losses.alignment_official(z1, z2, spec.temperature)
                if official
                else losses.alignment(z1, z2),
            )
        if spec.uniformity:
            trained = [z for z in (z1, z2) if z.requires_grad]
            yield (
                "uniformity",
                losses.uniformity_official(z1, z2, spec.temperature)
                if official
                else torch.stack([losses.uniformity(z) for z in trained]).mean(),
            )

    def own_state(self) -> dict[str, Tensor]:
        """What a checkpoint needs beside the encoder: predictors, EMA copies, queues."""
        skip = ("encoder.", "base.encoder.")
        return {k: v for k, v in self.state_dict().items() if not k.startswith(skip)}

    def load_own_state(self, state: dict[str, Tensor]) -> None:
        """Take `own_state` back; the encoder is loaded by itself."""
        self.load_state_dict(state | _under("encoder.", self), strict=True)


def _under(prefix: str, method: Method) -> dict[str, Tensor]:
    encoder = method.encoder.state_dict()
    known = method.state_dict()
    return {
        f"{place}{name}": value
        for place in (prefix, f"base.{prefix}")
        for name, value in encoder.items()
        if f"{place}{name}" in known
    }


@torch.no_grad()
def ema_update(copy: nn.Module, original: nn.Module, momentum: float) -> None:
    """Move an EMA copy's parameters: copy ← m · copy + (1 − m) · original."""
    mine: list[Tensor] = list(copy.parameters())
    theirs: list[Tensor] = list(original.parameters())
    torch._foreach_lerp_(mine, theirs, 1 - momentum)
