"""DeepSets (Zaheer et al., NeurIPS 2017): a network of a cloud in which no point has a place."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DeepSet(nn.Module):
    """ρ(pool of φ(x) over a cloud's points x): (B, points, 3) → (B, width).

    φ is three layers of `width` units, point by point; the pool is the mean and the maximum of
    each unit; ρ is a layer of `width` units. ReLU follows each layer. There is no batch norm: the
    units of a cloud depend on no other cloud.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.points = nn.Sequential(*_layers(3, width, width, width))
        self.whole = nn.Sequential(*_layers(2 * width, width))

    def forward(self, clouds: Tensor) -> Tensor:
        each = self.points(clouds)
        pooled: Tensor = self.whole(torch.cat([each.mean(dim=1), each.amax(dim=1)], dim=1))
        return pooled


def _layers(inputs: int, *widths: int) -> list[nn.Module]:
    found: list[nn.Module] = []
    for width in widths:
        layer = nn.Linear(inputs, width)
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
        found += [layer, nn.ReLU(inplace=True)]
        inputs = width
    return found
