"""An augmentation in numbers, as EquiMod's predictor reads it."""

from __future__ import annotations

import torch
from torch import Tensor

from care_core import augment, draws
from care_core.spec import Augment

#: How many numbers describe one augmentation.
NUMBERS = 17


def describe(params: augment.Params, fractions: Tensor) -> Tensor:
    """(N, 17) fp32: the crop, the flip, the jitter with its order and factors, grey, blur and σ.

    Args:
        params: N augmentations.
        fractions: (N, 4), the crop's top, left, height and width in fractions of the image.
    """
    jitter, blur = params.jitter[:, None], params.blur[:, None]
    nothing = torch.tensor([1.0, 1.0, 1.0, 0.0])  # the factors that leave an image as it is
    return torch.cat(
        [
            fractions.float(),
            params.flip[:, None].float(),
            params.jitter[:, None].float(),
            torch.where(jitter, params.order.argsort(dim=1), 0).float(),  # each one's position
            torch.where(jitter, params.factors, nothing),
            params.gray[:, None].float(),
            params.blur[:, None].float(),
            torch.where(blur, params.sigma[:, None], 0.0),
        ],
        dim=1,
    )


def scale(spec: Augment, draw: int = 20_000, side: int = 256) -> tuple[Tensor, Tensor]:
    """(17,) mean and standard deviation of the numbers, over draws of their distribution."""
    u = augment.numbers(draw, draws.generator(0, "describe"))
    crop = augment.boxes(u, side, side, spec)
    found = describe(augment.decide(u, spec, crop), crop / side)
    std = found.std(dim=0)
    return found.mean(dim=0), torch.where(std > 0, std, 1.0)
