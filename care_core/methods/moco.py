"""MoCo-v2 (He et al., 2020; Chen et al., 2020): a slow key encoder and a queue of its keys.

Queries are the trained encoder's embeddings of the first view, keys the slow encoder's of the
second. A query's negatives are the keys of earlier steps. So that a batch's statistics cannot tell
which key belongs to which query, keys are encoded in batches shuffled over the ranks.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.nn import functional as F

from care_core import draws, losses, models
from care_core.distributed import World
from care_core.methods.base import Method, Outcome, ema_update
from care_core.spec import PretrainSpec, objectives
from care_core.views.step import Step


class MoCo(Method):
    """The query encoder, the key encoder that follows it, and the queue, alike on every rank."""

    queue: Tensor  #: (K, d) unit rows
    pointer: Tensor  #: 0-d int64: where the next keys go
    order: Tensor  #: (B,) int64: in which order this step's keys are encoded, of all ranks

    def __init__(self, spec: PretrainSpec, world: World, own: objectives.MoCo) -> None:
        super().__init__(spec, world)
        self.own = own
        self.keys = copy.deepcopy(self.encoder).requires_grad_(False)  # the key encoder
        rows = torch.randn(
            own.queue, spec.model.embedding, generator=draws.generator(spec.seed, "queue")
        )
        self.register_buffer("queue", F.normalize(rows, dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        order = torch.arange(spec.training.batch_size)
        self.register_buffer("order", order, persistent=False)
        self.fresh: Tensor | None = None  # this step's keys of all ranks, put in after the update

    def images(self, step: Step) -> list[Tensor]:
        """The first view, for queries."""
        return step.views[:1]

    def loss(self, features: list[Tensor], projected: list[Tensor], step: Step) -> Outcome:
        """InfoNCE of each query with its key against the queue (He et al., equation 1)."""
        queries = models.unit(projected[0])
        keys = self._encode_keys(step.views[1])
        self.fresh = self.world.stack(keys).flatten(0, 1)
        loss = losses.info_nce_queue(queries, keys, self.queue, self.own.temperature)
        z2 = self.fresh if self.spec.loss.negatives == "global" else keys
        return Outcome(loss, self.compared(queries), z2, {"info_nce": loss.detach()})

    @property
    def _shuffles(self) -> bool:
        """Whether keys change places: it does nothing where one batch norm sees all of them."""
        bn = self.spec.bn
        return self.own.shuffle_bn and not bn.sync and self.world.size * bn.replicas > 1

    def before_step(self, number: int) -> None:
        """Draw the order in which this step's keys are encoded."""
        if self._shuffles:
            source = draws.generator(self.spec.seed, "shuffle", number)
            self.order.copy_(torch.randperm(len(self.order), generator=source), non_blocking=True)

    @torch.no_grad()
    def _encode_keys(self, view: Tensor) -> Tensor:
        """(B, d) unit keys of this rank's images, each encoded among any of the global batch."""
        if not self._shuffles:
            return self._encode(view)
        world, order = self.world, self.order
        everyone = world.stack(view).flatten(0, 1)
        encoded = self._encode(everyone[order[world.share(len(order))]])
        shuffled = world.stack(encoded).flatten(0, 1)
        keys = torch.empty_like(shuffled)
        keys[order] = shuffled
        return keys[world.share(len(keys))]

    def _encode(self, view: Tensor) -> Tensor:
        (features,) = self.through(self.keys.backbone, [view])
        (projected,) = self.through(self.keys.projector, [features])
        return models.unit(projected)

    @torch.no_grad()
    def after_step(self, share: float) -> None:
        """Move the key encoder, and put this step's keys in the place of the oldest."""
        ema_update(self.keys, self.encoder, self.own.momentum)
        assert self.fresh is not None
        # the queue is a multiple of the batch, so that the keys never lie over its end
        place = torch.arange(len(self.fresh), device=self.queue.device) + self.pointer
        self.queue.index_copy_(0, place, self.fresh.to(self.queue.dtype))
        self.pointer.add_(len(self.fresh)).remainder_(len(self.queue))
