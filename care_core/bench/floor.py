"""The floor of a step: forward, backward and update of the network on ready-made tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from care_core import methods, models
from care_core.arrangement import arrange
from care_core.distributed import ALONE
from care_core.graphs import Recorded, recordable
from care_core.methods import Method, Step
from care_core.optim import build_optimizer
from care_core.precision import autocast
from care_core.spec import PretrainSpec


class Floor:
    """The trained encoder and its optimiser, going round on the same views.

    No data, no augmentation, no loss, no copy that follows, nothing recorded: less than that no
    step can be. The weights are updated by gradients of the right size that lead nowhere.
    """

    def __init__(
        self, spec: PretrainSpec, forward: Callable[[], Tensor], encoder: nn.Module
    ) -> None:
        self.forward, self.encoder = forward, encoder
        self.optimizer = build_optimizer(spec.optimizer, encoder)
        output = forward().detach()
        self.gradient = torch.randn_like(output) / len(output)
        self.recorded = Recorded(
            self._launch, output.device, recordable(spec, ALONE, output.device)
        )

    def step(self) -> None:
        """One round, recorded where the engine's step is."""
        for group in self.optimizer.param_groups:
            group["capturable"] = self.recorded.ready
        self.recorded([])

    def _launch(self, _: list[Tensor]) -> list[Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        self.forward().backward(self.gradient)
        self.optimizer.step()
        return []


def same_function(spec: PretrainSpec, ready: Step, device: torch.device) -> Floor:
    """With the batch norm, precision and compilation of the spec: the engine's own passes."""
    method = methods.build(spec, ALONE).to(device)
    arrange(method, spec)
    views, extra = _views(method, ready), method.extra

    def forward() -> Tensor:
        features = method.through(method.encoder.backbone, views)
        projected = method.through(method.encoder.projector, features[extra:])
        return torch.cat([rows.flatten() for rows in (*features[:extra], *projected)])

    return Floor(spec, forward, method.encoder)


def pooled(spec: PretrainSpec, method: Method, ready: Step, device: torch.device) -> Floor:
    """With torch's own batch norm over all views at once: another function, and the fastest.

    Args:
        method: says which of the step's images pass through the encoder.
    """
    views = torch.cat(_views(method, ready))
    encoder = models.build(spec).to(device)
    arrange(encoder, spec)

    def forward() -> Tensor:
        with autocast(device, spec.training.precision):
            projected: Tensor = encoder.projector(encoder.backbone(views))
        return projected

    return Floor(spec, forward, encoder)


def compiled(spec: PretrainSpec, ready: Step, device: torch.device) -> Floor:
    """The same function with the networks compiled, as the spec says or else by default."""
    how = "default" if spec.launch.compile == "off" else spec.launch.compile
    launch = spec.launch.model_copy(update={"compile": how})
    return same_function(spec.model_copy(update={"launch": launch}), ready, device)


def _views(method: Method, ready: Step) -> list[Tensor]:
    return [*method.images(ready), *ready.pair]
