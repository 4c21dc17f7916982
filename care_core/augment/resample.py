"""Resampling of SimCLR's augmentation: crops resized, and Gaussian blur, as torchvision's.

Images are (B, 3, H, W) float32; results are new tensors, equal to those of the namesakes in
`torchvision.transforms.v2.functional` up to rounding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resize(images: Tensor, size: int) -> Tensor:
    """To (B, 3, size, size), antialiased bilinear, the aspect ratio not kept: `resize`."""
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True)


def crop_resize(images: Tensor, crop: Tensor, flip: Tensor, size: int) -> Tensor:
    """Crop, resize to (B, 3, size, size), antialiased bilinear: `resized_crop`; and mirror.

    `crop` (N, 4), B % N == 0, holds top, left, height and width in pixels, `flip` (N,) whether
    left and right are exchanged; row r holds for the r-th block of B/N images. All this is linear
    and separable, so it is two matrix products.
    """
    b, c, height, width = images.shape
    n = len(crop)
    top, left, h, w = crop.unbind(1)
    across = _weights(left, w, width, size, flip).transpose(1, 2)  # (N, W, size)
    down = _weights(top, h, height, size, torch.zeros_like(flip))  # (N, size, H)
    x = torch.bmm(images.reshape(n, b // n * c * height, width), across)
    return (down[:, None] @ x.view(n, b // n * c, height, size)).view(b, c, size, size)


def _weights(start: Tensor, length: Tensor, source: int, size: int, reverse: Tensor) -> Tensor:
    """Weights (N, size, source) of source pixels in each output pixel along one axis.

    This is aten's `_upsample_bilinear2d_aa` on the crop: a triangle of half-width max(1, scale)
    about the output pixel's centre, cut at the crop's ends and normalised. aten's integer window
    [int(c - s + ½), int(c + s + ½)) holds just the pixels inside the triangle, hence the clamp.
    """
    device = start.device
    scale = (length / size)[:, None, None]
    place = torch.arange(size, device=device) - (size - 1) * reverse[:, None]  # or its negative
    centre = scale * (place.abs_()[:, :, None] + 0.5)  # (N, size, 1)
    pixel = (torch.arange(source, device=device) - start[:, None])[:, None, :]  # within the crop
    inside = (pixel >= 0) & (pixel < length[:, None, None])
    weight = (pixel + 0.5 - centre).abs_().div_(scale.clamp(min=1.0)).neg_().add_(1.0)
    weight = weight.clamp_(min=0.0).mul_(inside)
    return weight.div_(weight.sum(dim=-1, keepdim=True))


def blur(images: Tensor, sigma: Tensor, kernel: int) -> Tensor:
    """Gaussian blur with odd `kernel` in pixels, edges reflected: `gaussian_blur`.

    `sigma` is (B,), or (1,) for all images. Separable, and a sum of shifted images: each image
    has a kernel of its own.
    """
    r = kernel // 2
    height, width = images.shape[-2:]
    offset = torch.arange(-r, r + 1, device=images.device) / sigma[:, None]
    taps = torch.softmax(-0.5 * offset * offset, dim=1)[:, :, None, None, None]  # (B, kernel, …)
    x = F.pad(images, (r, r, r, r), mode="reflect")
    y = x[:, :, :height] * taps[:, 0]
    for k in range(1, kernel):
        y.addcmul_(x[:, :, k : k + height], taps[:, k])
    z = y[..., :width] * taps[:, 0]
    for k in range(1, kernel):
        z.addcmul_(y[..., k : k + width], taps[:, k])
    return z
