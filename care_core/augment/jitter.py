"""The colour operations of SimCLR's jitter, in place, with torchvision's exact semantics.

Images are (B, 3, H, W) float32 in [0, 1]. A factor is one number for all images, or a tensor
(B, 1, 1, 1), one for each. Each function changes its images and returns them; its result equals
that of its namesake `adjust_…` in `torchvision.transforms.v2.functional` up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Factor = float | Tensor

#: Places in `OPERATIONS`, and in a row of an augmentation's factors.
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def brightness_(images: Tensor, factor: Factor) -> Tensor:
    """Scale the intensity by `factor` ≥ 0."""
    return _bounded_(images.mul_(factor), factor)


def contrast_(images: Tensor, factor: Factor) -> Tensor:
    """Blend with each image's mean luma, of which `factor` ≥ 0 leaves the share 1 - factor."""
    average = luma(images.mean(dim=(2, 3), keepdim=True))
    return _bounded_(images.lerp_(average, 1 - factor), factor)


def saturation_(images: Tensor, factor: Factor) -> Tensor:
    """Blend with each pixel's luma, of which `factor` ≥ 0 leaves the share 1 - factor."""
    return _bounded_(images.lerp_(luma(images), 1 - factor), factor)


def hue_(images: Tensor, turns: Factor) -> Tensor:
    """Turn the hue by `turns` in [-0.5, 0.5], in HSV.

    Value and chroma stay, so each channel is min + chroma · t with t piecewise linear in the hue:
    torchvision's table of six sectors in closed form, without its gather.
    """
    r, g, b = images.split(1, dim=1)
    most = torch.maximum(torch.maximum(r, g), b)  # aminmax over a dimension is not vectorised
    least = torch.minimum(torch.minimum(r, g), b)
    chroma = most - least
    # In sixths of a turn, times the chroma. Weights of 0 and 1 choose the sector exactly, where
    # torch.where would cost ten times as much.
    h = (r - g).add_(chroma, alpha=4)
    h.lerp_((b - r).add_(chroma, alpha=2), torch.eq(most, g, out=torch.empty_like(g)))
    h.lerp_(g - b, most.eq_(r))
    # Grey pixels have no hue: 0 / tiny keeps them finite, and chroma 0 makes it irrelevant.
    h.div_(chroma.clamp(min=1e-12)).add_(6 * turns)
    h.sub_(torch.floor(h * (1 / 6)), alpha=6)
    torch.sub(h, 3.0, out=r).abs_().sub_(1.0)
    torch.sub(2.0, (h - 2.0).abs_(), out=g)
    torch.sub(2.0, h.sub_(4.0).abs_(), out=b)
    return torch.addcmul(least, chroma, images.clamp_(0.0, 1.0), out=images)


OPERATIONS: tuple[Callable[[Tensor, Factor], Tensor], ...] = (
    brightness_,
    contrast_,
    saturation_,
    hue_,
)


def luma(images: Tensor) -> Tensor:
    """(B, 1, H, W), a new tensor, with torchvision's coefficients: `rgb_to_grayscale`."""
    r, g, b = images.split(1, dim=1)
    return r.mul(0.2989).add_(g, alpha=0.587).add_(b, alpha=0.114)


def _bounded_(images: Tensor, factor: Factor) -> Tensor:
    """Clamp to [0, 1] what was blended: a share within [0, 1] cannot leave it."""
    if isinstance(factor, Tensor) or factor > 1:
        images.clamp_(0.0, 1.0)
    return images


def each_(images: Tensor, chosen: Tensor, order: Tensor, factors: Tensor) -> Tensor:
    """Apply the four operations, in each image's own order, where `chosen`, without a loop.

    `chosen` (B,) bool, `order` and `factors` (B, 4) as in `augment.Params`, all three on the CPU.
    The three blends are one kernel with a coefficient an image. Hue is the costly one and is run
    once: with the images sorted by the position of hue, those with a blend still to do before it
    (or after it) are contiguous, so that they are slices worked on in place.
    """
    when = (order == HUE).int().argmax(dim=1)
    index = chosen.nonzero()[:, 0]
    index = index[when[index].argsort()]
    if not len(index):
        return images
    earlier = torch.searchsorted(when[index], torch.arange(4)).tolist()  # hue before position p
    device = images.device
    ops = order[index].to(device, non_blocking=True)[:, :, None, None, None]
    amount = factors[index].gather(1, order[index])
    amount = amount.to(device, non_blocking=True)[:, :, None, None, None]
    turns = factors[index, HUE].to(device, non_blocking=True)[:, None, None, None]
    index = index.to(device, non_blocking=True)
    x = images.index_select(0, index)
    for p in range(3):
        late = slice(earlier[p + 1], None)
        blend_(x[late], amount[late, p], ops[late, p])
    hue_(x, turns)
    for p in range(1, 4):
        early = slice(0, earlier[p])
        blend_(x[early], amount[early, p], ops[early, p])
    return images.index_copy_(0, index, x)


def blend_(images: Tensor, factor: Tensor, op: Tensor) -> Tensor:
    """`brightness_`, `contrast_` or `saturation_`, by each image's `op` (B, 1, 1, 1)."""
    if not len(images):
        return images
    base = luma(images)
    average = base.mean(dim=(2, 3), keepdim=True) * (op == CONTRAST)
    base.mul_(op == SATURATION).add_(average)
    return images.lerp_(base, 1 - factor).clamp_(0.0, 1.0)
