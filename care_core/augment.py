"""SimCLR's augmentations for whole batches, with torchvision's exact semantics.

A row of parameters is drawn for each image, or for each split of images that share one
augmentation (CARE, Algorithm 1). Drawing (`sample`) and applying (`apply`) are apart, so that the
same augmentation can be applied to other images. Every operation equals its namesake in
`torchvision.transforms.v2.functional` on float images up to rounding, without a loop over images.

Image tensors are (B, 3, H, W), float32 in [0, 1] unless said otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from care_core.spec import Augment

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)

#: Attempts at a crop before the central one is taken, as in torchvision's RandomResizedCrop.
_ATTEMPTS = 10


class Params(NamedTuple):
    """Drawn augmentations: one row an image, or one row a split.

    `apply` groups images by these values. Keep them on the CPU and it needs no synchronisation
    with the device; rows on a device work too, but are read back.
    """

    crop: Tensor | None  #: (N, 4) int64: top, left, height, width, in pixels of the source
    flip: Tensor  #: (N,) bool
    jitter: Tensor  #: (N,) bool: whether the colours change at all
    order: Tensor  #: (N, 4) int64: the order of BRIGHTNESS, CONTRAST, SATURATION, HUE
    factors: Tensor  #: (N, 4) float32: brightness, contrast, saturation; hue shift in turns
    gray: Tensor  #: (N,) bool
    blur: Tensor  #: (N,) bool
    sigma: Tensor  #: (N,) float32, standard deviation of the blur in pixels of the output

    def to(self, device: torch.device | str) -> Params:
        """The same parameters on `device`."""
        moved: list[Any] = [None if value is None else value.to(device) for value in self]
        return Params(*moved)

    def rows(self, index: slice | Tensor) -> Params:
        """The rows that `index` (a slice, or row numbers) selects."""
        chosen: list[Any] = [None if value is None else value[index] for value in self]
        return Params(*chosen)


def sample(n: int, height: int, width: int, spec: Augment, generator: torch.Generator) -> Params:
    """Draw n augmentations of images of height × width pixels, as torchvision's transforms would.

    All randomness comes from `generator` (a CPU one), in a single draw whose size depends on n
    alone: a change of a probability or a range leaves every other parameter as it was.
    """
    u = numbers(n, generator)
    return decide(u, spec, boxes(u, height, width, spec))


def numbers(n: int, generator: torch.Generator) -> Tensor:
    """(n, 35) float64 uniform numbers: all the randomness of n augmentations, before any image."""
    return torch.rand(n, 2 * _ATTEMPTS + 15, generator=generator, dtype=torch.float64)


def boxes(u: Tensor, height: int, width: int, spec: Augment) -> Tensor:
    """(N, 4) int64 crops (top, left, height, width) of images of one size, from `numbers`."""
    area, ratio, rest = torch.split(u, [_ATTEMPTS, _ATTEMPTS, 15], dim=1)
    return _crops(area, ratio, rest[:, 0], rest[:, 1], height, width, spec)


def decide(u: Tensor, spec: Augment, crop: Tensor | None) -> Params:
    """The augmentations that `numbers` stand for. Without a crop the whole image is used."""
    rest = u[:, 2 * _ATTEMPTS :]
    flip, jitter, gray, blur, sigma = rest[:, 2:7].unbind(1)
    spread = (spec.brightness, spec.contrast, spec.saturation)
    low = torch.tensor([max(0.0, 1 - s) for s in spread] + [-spec.hue], dtype=torch.float64)
    high = torch.tensor([1 + s for s in spread] + [spec.hue], dtype=torch.float64)
    return Params(
        crop=crop,
        flip=flip < spec.flip,
        jitter=jitter < spec.jitter,
        order=rest[:, 7:11].argsort(dim=1),  # ranks of i.i.d. draws: a uniform permutation
        factors=(low + rest[:, 11:] * (high - low)).float(),
        gray=gray < spec.gray,
        blur=blur < spec.blur,
        sigma=(spec.blur_sigma[0] + sigma * (spec.blur_sigma[1] - spec.blur_sigma[0])).float(),
    )


def _crops(
    area: Tensor, ratio: Tensor, top: Tensor, left: Tensor, height: int, width: int, spec: Augment
) -> Tensor:
    """Crops (N, 4) from uniform numbers, as RandomResizedCrop.make_params draws them.

    `area` and `ratio` are (N, attempts); the first attempt that fits is taken.
    """
    (s0, s1), (r0, r1) = spec.crop_scale, spec.crop_ratio
    target = height * width * (s0 + area * (s1 - s0))
    aspect = torch.exp(math.log(r0) + ratio * (math.log(r1) - math.log(r0)))
    w = (target * aspect).sqrt().round().long()  # half to even, as Python's round
    h = (target / aspect).sqrt().round().long()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.int().argmax(dim=1, keepdim=True)
    w, h = w.gather(1, first)[:, 0], h.gather(1, first)[:, 0]
    i = (top * (height - h + 1)).floor().long()  # inclusive of the last position
    j = (left * (width - w + 1)).floor().long()

    ch, cw = height, width  # no attempt fits: the largest central crop of an allowed ratio
    if width / height < r0:
        ch = round(width / r0)
    elif width / height > r1:
        cw = round(height * r1)
    central = torch.tensor([(height - ch) // 2, (width - cw) // 2, ch, cw])
    return torch.where(fits.any(dim=1, keepdim=True), torch.stack([i, j, h, w], dim=1), central)


def apply(
    images: Tensor,
    params: Params,
    *,
    size: int,
    blur_kernel: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """Augment uint8 images (B, 3, H, W) to normalised float32 (B, 3, size, size), channels_last.

    `params` has N rows with B % N == 0; row r holds for the images r·B/N to (r+1)·B/N - 1. The
    order is SimCLR's: crop, flip, colour jitter, grey, blur. `mean` and `std` are one number a
    channel, in units of [0, 1] intensity. Runs in float32 even inside autocast (on CUDA the crop's
    products follow torch's TF32 setting, off by default).
    """
    n, batch = len(params.flip), len(images)
    if n == 0 or batch % n:
        raise ValueError(f"{batch} images cannot be shared out evenly to {n} augmentations")
    if params.crop is None and images.shape[-2:] != (size, size):
        raise ValueError(f"without a crop the images must be of {size} pixels already")
    params = params.to("cpu")
    each = params.rows(torch.arange(n).repeat_interleave(batch // n))
    device = images.device
    # Autocast would round the pixels and weights of the crop's matrix products to bfloat16.
    with torch.autocast(device.type, enabled=False):
        x = _unit(images)
        if params.crop is not None:
            x = crop_resize(x, _send(params.crop, device), size)
        x = flip(x, _send(each.flip, device))
        x = color_jitter(x, each.jitter, each.order, each.factors)
        index = each.gray.nonzero()[:, 0]
        if len(index):
            chosen = _send(index, device)
            x.index_copy_(0, chosen, grayscale(x.index_select(0, chosen)))
        index = each.blur.nonzero()[:, 0]
        if len(index):
            chosen, sigma = _send(index, device), _send(each.sigma[index], device)
            x.index_copy_(0, chosen, blur(x.index_select(0, chosen), sigma, blur_kernel))
        return _standardise(x, mean, std)


def normalize(
    images_uint8: Tensor, *, size: int, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Unaugmented uint8 images (B, 3, H, W) as float32 (B, 3, size, size), channels_last.

    They are resized (antialiased bilinear, the aspect ratio not kept) only if their size differs.
    """
    x = _unit(images_uint8)
    if x.shape[-2:] != (size, size):
        x = F.interpolate(x, (size, size), mode="bilinear", antialias=True)
    return _standardise(x, mean, std)


def crop_resize(images: Tensor, crop: Tensor, size: int) -> Tensor:
    """Crop and resize to (B, 3, size, size), antialiased bilinear: `resized_crop`.

    `crop` (N, 4), B % N == 0, holds top, left, height and width in pixels; row r holds for the
    r-th block of B/N images. Resizing is linear and separable, so it is two matrix products.
    """
    b, c, height, width = images.shape
    n = len(crop)
    top, left, h, w = crop.unbind(1)
    across = _resize_weights(left, w, width, size).transpose(1, 2)  # (N, W, size)
    down = _resize_weights(top, h, height, size)  # (N, size, H)
    x = torch.bmm(images.reshape(n, b // n * c * height, width), across)
    return (down[:, None] @ x.view(n, b // n * c, height, size)).view(b, c, size, size)


def _resize_weights(start: Tensor, length: Tensor, source: int, size: int) -> Tensor:
    """Weights (N, size, source) of source pixels in each output pixel along one axis.

    This is aten's `_upsample_bilinear2d_aa` on the crop: a triangle of half-width max(1, scale)
    about the output pixel's centre, cut at the crop's ends and normalised. aten's integer window
    [int(c - s + ½), int(c + s + ½)) holds just the pixels inside the triangle, hence the clamp.
    """
    device = start.device
    scale = (length / size)[:, None, None]
    centre = scale * (torch.arange(size, device=device) + 0.5)[:, None]  # (N, size, 1)
    pixel = (torch.arange(source, device=device) - start[:, None])[:, None, :]  # within the crop
    inside = (pixel >= 0) & (pixel < length[:, None, None])
    weight = (pixel + 0.5 - centre).abs_().div_(scale.clamp(min=1.0)).neg_().add_(1.0)
    weight = weight.clamp_(min=0.0).mul_(inside)
    return weight.div_(weight.sum(dim=-1, keepdim=True))


def flip(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirror left and right the images where `chosen` (B,) is true: `horizontal_flip`."""
    return torch.where(_per_image(chosen), images.flip(-1), images)


def color_jitter(images: Tensor, chosen: Tensor, order: Tensor, factors: Tensor) -> Tensor:
    """Apply the four colour operations, in each image's own order, where `chosen`; in place.

    `chosen` (B,) bool, `order` and `factors` (B, 4) as in `Params`, all three on the CPU. The three
    blends are one kernel with per-image coefficients. Hue is the costly one and is run once: with
    the images sorted by the position of hue, those with a blend still to do before it (or after
    it) are contiguous, so that they are slices worked on in place.
    """
    when = (order == HUE).int().argmax(dim=1)
    index = chosen.nonzero()[:, 0]
    index = index[when[index].argsort()]
    if not len(index):
        return images
    earlier = torch.searchsorted(when[index], torch.arange(4)).tolist()  # hue before position p
    device = images.device
    ops = _send(order[index], device)
    amount = _send(factors[index].gather(1, order[index]), device)
    shift = _send(factors[index, HUE], device)
    index = _send(index, device)
    x = images.index_select(0, index)
    for p in range(3):
        late = slice(earlier[p + 1], None)
        _blend_(x[late], amount[late, p], ops[late, p])
    x = hue(x, shift)
    for p in range(1, 4):
        early = slice(0, earlier[p])
        _blend_(x[early], amount[early, p], ops[early, p])
    return images.index_copy_(0, index, x)


def _blend_(images: Tensor, factor: Tensor, op: Tensor) -> Tensor:
    """factor · image + (1 - factor) · base, clamped to [0, 1], in place.

    The base is black for BRIGHTNESS, the image's mean luma for CONTRAST, each pixel's luma for
    SATURATION; `factor` and `op` are (B,).
    """
    if not len(images):
        return images
    luma = _luma(images)
    rest = 1.0 - factor
    average = luma.mean(dim=(1, 2, 3)) * rest * (op == CONTRAST)
    base = luma.mul_(_per_image(rest * (op == SATURATION))).add_(_per_image(average))
    return images.mul_(_per_image(factor)).add_(base).clamp_(0.0, 1.0)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the intensity by `factor` (B,) ≥ 0: `adjust_brightness`."""
    return _blend_(images.clone(), factor, torch.full_like(factor, BRIGHTNESS))


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the image's mean luma, `factor` (B,) ≥ 0: `adjust_contrast`."""
    return _blend_(images.clone(), factor, torch.full_like(factor, CONTRAST))


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the luma of each pixel, `factor` (B,) ≥ 0: `adjust_saturation`."""
    return _blend_(images.clone(), factor, torch.full_like(factor, SATURATION))


def hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by `shift` (B,) in [-0.5, 0.5] turns, in HSV: `adjust_hue`.

    Value and chroma stay, so each channel is min + chroma · t with t piecewise linear in the hue:
    torchvision's table of six sectors in closed form, without its gather.
    """
    r, g, b = images.unbind(1)
    least, most = torch.aminmax(images, dim=1)
    chroma = most - least
    # Grey pixels have no hue: 0 / tiny keeps them finite, and chroma 0 makes it irrelevant.
    divisor = chroma.clamp(min=1e-12)
    h = torch.where(
        most == r,
        (g - b).div_(divisor),
        torch.where(most == g, (b - r).div_(divisor).add_(2.0), (r - g).div_(divisor).add_(4.0)),
    ).add_(6.0 * shift[:, None, None])  # in sixths of a turn
    h.sub_(torch.floor(h * (1 / 6)).mul_(6.0))
    out = torch.empty_like(images)
    torch.sub((h - 3.0).abs_(), 1.0, out=out[:, 0])
    torch.sub(2.0, (h - 2.0).abs_(), out=out[:, 1])
    torch.sub(2.0, (h - 4.0).abs_(), out=out[:, 2])
    return out.clamp_(0.0, 1.0).mul_(chroma[:, None]).add_(least[:, None])


def grayscale(images: Tensor) -> Tensor:
    """The luma in all three channels: `rgb_to_grayscale` with 3 output channels."""
    return _luma(images).expand_as(images)


def blur(images: Tensor, sigma: Tensor, kernel: int) -> Tensor:
    """Gaussian blur with `sigma` (B,) and odd `kernel` in pixels, edges reflected: `gaussian_blur`.

    Separable, and a sum of shifted images: each image has a kernel of its own.
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


def _luma(images: Tensor) -> Tensor:
    """(B, 1, H, W), with torchvision's coefficients."""
    r, g, b = torch.split(images, 1, dim=1)
    return r.mul(0.2989).add_(g, alpha=0.587).add_(b, alpha=0.114)


def _per_image(values: Tensor) -> Tensor:
    """(B,) to (B, 1, 1, 1)."""
    return values[:, None, None, None]


def _send(value: Tensor, device: torch.device) -> Tensor:
    return value.to(device, non_blocking=True)


def _unit(images_uint8: Tensor) -> Tensor:
    if images_uint8.dtype != torch.uint8 or images_uint8.ndim != 4 or images_uint8.shape[1] != 3:
        raise ValueError(
            f"expected uint8 images (B, 3, H, W), got {images_uint8.dtype} "
            f"{tuple(images_uint8.shape)}"
        )
    return images_uint8.to(torch.float32, memory_format=torch.contiguous_format).div_(255.0)


def _standardise(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(x - mean) / std a channel, in place, then channels_last."""
    centre = torch.tensor(mean, dtype=torch.float32).view(3, 1, 1)
    width = torch.tensor(std, dtype=torch.float32).view(3, 1, 1)
    x = x.sub_(_send(centre, x.device)).div_(_send(width, x.device))
    return x.contiguous(memory_format=torch.channels_last)
