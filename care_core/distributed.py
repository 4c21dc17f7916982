"""Ranks and what they exchange. One process today; the engine asks only through this module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class World(NamedTuple):
    """This process among its peers: `rank` of `size`."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files that there is one of."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This rank's positions in a global batch (or list of splits) of `count`."""
        each = count // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def gather(self, rows: Tensor) -> Tensor:
        """(B/size, d) → (B, d), the rows of all ranks in order, carrying gradients."""
        return rows


def forward_views(network: nn.Module, views: Sequence[Tensor], statistics: str) -> list[Tensor]:
    """Each view's output, with batch-norm statistics per view or pooled over the views.

    Args:
        network: maps (B, 3, H, W) to (B, d).
        views: tensors of (Bᵥ, 3, H, W).
        statistics: "separate" normalises each view by itself (separate forwards, as in the
            official code); "together" pools all views, which is another function.
    """
    if statistics == "separate":
        return [network(view) for view in views]
    together: Tensor = network(torch.cat(list(views)))
    return list(together.split([len(view) for view in views]))
