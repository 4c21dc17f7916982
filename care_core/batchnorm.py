"""Batch norm whose statistics are taken over the images that a spec names.

All views go through a network in one pass, and batch norm takes statistics of each by itself, or
of all of them. They are a rank's own or those of all ranks (torch's SyncBatchNorm refuses the
CPU), over a whole view or over parts of it (as DataParallel on several GPUs).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from care_core.distributed import World
from care_core.precision import widened
from care_core.spec.sections import BatchNorm


def through(
    network: nn.Module,
    views: Sequence[Tensor],
    spec: BatchNorm,
    run: Callable[[Tensor], Tensor] | None = None,
) -> list[Tensor]:
    """Each view's output, (Bᵥ, n), of a network that maps (B, …) to (B, n).

    All views pass at once. Whether batch norm takes its statistics view by view (the function that
    separate forwards compute, running statistics included) or of all of them is for bn.views to
    say. A network with a batch norm that was not adopted, and so cannot tell views apart, gets
    them one at a time.

    Args:
        run: what to call in the network's place, such as its compiled twin.
    """
    run = network if run is None else run  # a compiled one has no truth value
    sizes = [len(view) for view in views]
    if len(views) == 1:
        return [run(views[0])]
    layers = [layer for layer in network.modules() if isinstance(layer, _Adopted)]
    if spec.views == "separate" and any(_pools(layer) for layer in network.modules()):
        return [run(view) for view in views]
    for layer in layers:
        layer.views = sizes if spec.views == "separate" else None
    try:
        return list(run(torch.cat(list(views))).split(sizes))
    finally:
        for layer in layers:
            layer.views = None


def adopt(module: nn.Module, spec: BatchNorm, world: World) -> None:
    """Let every batch norm within `module` do as the spec says. Names and weights stay."""
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            if not isinstance(layer, _Adopted):
                bases = (_Adopted, type(layer))
                layer.__class__ = type(f"Adopted{type(layer).__name__}", bases, {})
            adopted = cast(_Adopted, layer)
            adopted.world, adopted.over_ranks = world, spec.sync and world.size > 1
            adopted.parts, adopted.views = spec.replicas, None


def _pools(layer: nn.Module) -> bool:
    """Whether a layer takes statistics of a batch, and of all of it: timm has some of its own."""
    return hasattr(layer, "running_var") and not isinstance(layer, _Adopted)


class _Adopted(_BatchNorm):
    """Goes before a batch norm among a class's bases, and takes over how it normalises."""

    world: World
    over_ranks: bool
    parts: int
    views: list[int] | None  #: images of each view in the batch that passes; None: it is one
    # timm's batch norms end with these two
    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        output = self._normalise(input)
        if hasattr(self, "act"):
            output = self.act(self.drop(output) if hasattr(self, "drop") else output)
        return output

    def _normalise(self, x: Tensor) -> Tensor:
        if not self.training and self.running_mean is not None:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )  # fmt: skip
        if self.views is None:
            return self._view(x)
        return torch.cat([self._view(view) for view in x.split(self.views)])

    def _view(self, x: Tensor) -> Tensor:
        normalise = self._over_ranks if self.over_ranks else self._local
        if self.parts == 1:
            return normalise(x, tracked=True)
        # DataParallel throws away what its replicas but the first add to the running statistics
        parts = enumerate(x.chunk(self.parts))
        return torch.cat([normalise(part, tracked=number == 0) for number, part in parts])

    def _local(self, x: Tensor, tracked: bool) -> Tensor:
        mean, var = (self.running_mean, self.running_var) if tracked else (None, None)
        self._count(tracked)
        return F.batch_norm(x, mean, var, self.weight, self.bias, True, self._momentum(), self.eps)

    # a compiler cannot see through what the ranks exchange
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _over_ranks(self, x: Tensor, tracked: bool) -> Tensor:
        y, mean, var = _Synchronised.apply(x, self.weight, self.bias, self.eps, self.world)
        if tracked and self.running_mean is not None and self.running_var is not None:
            count = x.numel() // x.shape[1] * self.world.size
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), self._momentum())
                self.running_var.lerp_(
                    (var * (count / max(1, count - 1))).to(self.running_var.dtype), self._momentum()
                )
        self._count(tracked)
        result: Tensor = y
        return result

    def _count(self, tracked: bool) -> None:
        if tracked and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)

    def _momentum(self) -> float:
        """The weight of new statistics in the running ones; torch's default where a layer has none.

        (torch would average over all batches there. No network here has such a layer.)
        """
        return 0.1 if self.momentum is None else self.momentum


class _Synchronised(torch.autograd.Function):
    """Batch norm over the rows of all ranks, of which each has as many.

    Moments of the ranks are combined without a difference of large sums (Chan et al., 1979). In
    the backward, what a rank's loss says of the statistics is summed over the ranks: with
    gradients averaged afterwards it is the gradient of the ranks' mean loss.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, world: World
    ) -> tuple[Tensor, Tensor, Tensor]:
        exact = widened(x)
        dims, shape = _around_channels(x)
        own = torch.stack([exact.mean(dims), exact.var(dims, unbiased=False)])
        means, variances = world.stack(own).unbind(1)
        mean = means.mean(0)
        var = variances.mean(0) + (means - mean).square().mean(0)
        scale = (var + eps).rsqrt()
        normal = (exact - mean.view(shape)) * scale.view(shape)
        y = normal if weight is None else normal * weight.view(shape)
        y = y if bias is None else y + bias.view(shape)
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.world, ctx.has_bias = world, bias is not None
        ctx.mark_non_differentiable(mean, var)
        return y.to(x.dtype), mean, var

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale = ctx.saved_tensors
        dims, shape = _around_channels(x)
        gradient = gradients[0].to(mean.dtype)
        normal = (x.to(mean.dtype) - mean.view(shape)) * scale.view(shape)
        shift, slope = gradient.sum(dims), (gradient * normal).sum(dims)
        rows = x.numel() // x.shape[1] * ctx.world.size
        shifts, slopes = ctx.world.stack(torch.stack([shift, slope])).sum(0) / rows
        factor = scale if weight is None else scale * weight
        back = (gradient - shifts.view(shape) - normal * slopes.view(shape)) * factor.view(shape)
        return (
            back.to(x.dtype),
            None if weight is None else slope.to(weight.dtype),
            shift.to(mean.dtype) if ctx.has_bias else None,
            None,
            None,
        )


def _around_channels(x: Tensor) -> tuple[list[int], list[int]]:
    """The dimensions that statistics are taken over, and a channel's shape beside them."""
    dims = [dim for dim in range(x.ndim) if dim != 1]
    return dims, [-1 if dim == 1 else 1 for dim in range(x.ndim)]
