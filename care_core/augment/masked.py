"""`augment.apply` with nothing decided by the host: every operation on every image, then chosen.

On a GPU, where the parameters lie too, this is the same sequence of kernels for whatever was
drawn, so that it can be recorded once (`care_core.graphs`). For small images that is the faster
way: what is computed in vain costs less than telling apart what is not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from care_core import augment
from care_core.augment import Params, jitter, resample


def apply(
    images: Tensor, params: Params, *, size: int, blur_kernel: int, mean: Tensor, std: Tensor
) -> Tensor:
    """As `augment.apply`, on one device: no value of a parameter is read back.

    Args:
        images: uint8 (B, 3, H, W).
        params: N rows with B % N == 0, on the images' device.
        mean, std: (3, 1, 1) float32, there too.
    """
    each = params.each(len(images))
    with torch.autocast(images.device.type, enabled=False):
        x = augment.unit(images)
        if params.crop is None:
            x = _where(each.flip, x.flip(-1), x)
        else:
            x = resample.crop_resize(x, params.crop, params.flip, size)
        x = _where(each.jitter, _jittered(x, each.order, each.factors), x)
        x = _where(each.gray, jitter.luma(x).expand_as(x), x)
        x = _where(each.blur, resample.blur(x, each.sigma, blur_kernel), x)
        x = augment.standardise(x, mean, std)
        return x.contiguous(memory_format=torch.channels_last)


def _where(chosen: Tensor, changed: Tensor, x: Tensor) -> Tensor:
    return torch.where(chosen[:, None, None, None], changed, x)


def _jittered(images: Tensor, order: Tensor, factors: Tensor) -> Tensor:
    """The four colour operations in each image's own order, as `jitter.each_`.

    Hue is the costly one and runs once: the blends that an image has before it go first, and those
    that it has after it last. At a position that is not of its turn an image is blended by 1, with
    which nothing changes.
    """
    ops = order[:, :, None, None, None]
    amount = factors.gather(1, order)
    when = (order == jitter.HUE).int().argmax(dim=1, keepdim=True)
    place = torch.arange(4, device=order.device)
    before, after = (
        torch.where(turn, amount, 1.0)[:, :, None, None, None]
        for turn in (place < when, place > when)
    )
    x = images.clone()
    for p in range(3):
        jitter.blend_(x, before[:, p], ops[:, p])
    jitter.hue_(x, factors[:, jitter.HUE, None, None, None])
    for p in range(1, 4):
        jitter.blend_(x, after[:, p], ops[:, p])
    return x
