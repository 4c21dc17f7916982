"""SimCLR's augmentations for whole batches, with torchvision's exact semantics.

A row of parameters is drawn for each image, or for each split of images that share one
augmentation (CARE, Algorithm 1). Drawing (`sample`) and applying (`apply`) are apart, so that the
same augmentation can be applied to other images. Every operation equals its namesake in
`torchvision.transforms.v2.functional` on float images up to rounding, without a loop over images.

Image tensors are (B, 3, H, W), float32 in [0, 1] unless said otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from care_core.augment import jitter, resample
from care_core.spec import Augment

#: Attempts at a crop before the central one is taken, as in torchvision's RandomResizedCrop.
_ATTEMPTS = 10

#: Pixels of a block of images under one row from which it is worth operations of its own.
_BLOCK = 2**14

#: Pixels of images that are worked on together, so that all stays in the processor's cache.
_CACHED = 2**17


#: A number a channel; as a (3, 1, 1) tensor on the images' device it is not sent there.
PerChannel = Sequence[float] | Tensor


class Params(NamedTuple):
    """Drawn augmentations: one row an image, or one row a split.

    `apply` groups images by these values. Keep them on the CPU and it needs no synchronisation
    with the device; rows on a device work too, but are read back.
    """

    crop: Tensor | None  #: (N, 4) int64: top, left, height, width, in pixels of the source
    flip: Tensor  #: (N,) bool
    jitter: Tensor  #: (N,) bool: whether the colours change at all
    order: Tensor  #: (N, 4) int64: the order of `jitter.OPERATIONS`
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

    def block(self, batch: int) -> int:
        """How many of `batch` images a row holds for.

        Raises:
            ValueError: they cannot be shared out evenly.
        """
        n = len(self.flip)
        if n == 0 or batch % n:
            raise ValueError(f"{batch} images cannot be shared out evenly to {n} augmentations")
        return batch // n

    def each(self, batch: int) -> Params:
        """A row for each of `batch` images, in place of one for a block of them."""
        row = torch.arange(len(self.flip), device=self.flip.device)
        return self.rows(row.repeat_interleave(self.block(batch)))


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
    block = params.block(len(images))
    if params.crop is None and images.shape[-2:] != (size, size):
        raise ValueError(f"without a crop the images must be of {size} pixels already")
    _check(images)
    params = params.to("cpu")
    # Autocast would round the pixels and weights of the crop's matrix products to bfloat16.
    with torch.autocast(images.device.type, enabled=False):
        if images.device.type == "cpu" and block * size * size >= _BLOCK:
            return _row_by_row(images, params, size, blur_kernel, mean, std)
        x = standardise(_all_at_once(images, params, size, blur_kernel), mean, std)
        return x.contiguous(memory_format=torch.channels_last)


def normalize(images_uint8: Tensor, *, size: int, mean: PerChannel, std: PerChannel) -> Tensor:
    """Unaugmented uint8 images (B, 3, H, W) as float32 (B, 3, size, size), channels_last.

    They are resized (antialiased bilinear, the aspect ratio not kept) only if their size differs.
    """
    _check(images_uint8)
    x = unit(images_uint8)
    if x.shape[-2:] != (size, size):
        x = resample.resize(x, size)
    return standardise(x, mean, std).contiguous(memory_format=torch.channels_last)


def _row_by_row(
    images: Tensor,
    params: Params,
    size: int,
    blur_kernel: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """`apply` on large blocks of images that share a row, on the CPU.

    A block is a slice of the batch, so its crop is a slice too, its factors are plain numbers and
    what its row leaves out costs nothing. A few images at a time stay in the processor's cache
    from the first operation to the last.
    """
    batch, n = len(images), len(params.flip)
    few = max(1, _CACHED // (size * size))
    out = torch.empty(batch, 3, size, size, memory_format=torch.channels_last)
    for row, (block, target) in enumerate(zip(images.chunk(n), out.chunk(n), strict=True)):
        for part, goal in zip(block.split(few), target.split(few), strict=True):
            goal.copy_(standardise(_one_row(part, params, row, size, blur_kernel), mean, std))
    return out


def _one_row(images: Tensor, params: Params, row: int, size: int, blur_kernel: int) -> Tensor:
    """The images under one row, before normalisation: one channel instead of three where grey."""
    if params.crop is not None:
        top, left, height, width = params.crop[row].tolist()
        images = images[:, :, top : top + height, left : left + width]
    x = unit(images)
    if x.shape[-2:] != (size, size):
        x = resample.resize(x, size)
    if params.flip[row]:
        x = x.flip(-1)
    if params.jitter[row]:
        factors = params.factors[row].tolist()
        for op in params.order[row].tolist():
            jitter.OPERATIONS[op](x, factors[op])
    if params.gray[row]:
        x = jitter.luma(x)
    if params.blur[row]:
        x = resample.blur(x, params.sigma[row : row + 1], blur_kernel)
    return x


def _all_at_once(images: Tensor, params: Params, size: int, blur_kernel: int) -> Tensor:
    """The images under their rows, before normalisation, in a few operations on all of them."""
    each, device = params.each(len(images)), images.device
    x = unit(images)
    if params.crop is None:
        _where_(x, each.flip, lambda some, _: some.flip(-1))
    else:
        crop, flip = (value.to(device, non_blocking=True) for value in (params.crop, params.flip))
        x = resample.crop_resize(x, crop, flip, size)
    jitter.each_(x, each.jitter, each.order, each.factors)
    _where_(x, each.gray, lambda some, _: jitter.luma(some).expand_as(some))

    def blurred(some: Tensor, index: Tensor) -> Tensor:
        sigma = each.sigma[index].to(device, non_blocking=True)
        return resample.blur(some, sigma, blur_kernel)

    _where_(x, each.blur, blurred)
    return x


def _where_(x: Tensor, chosen: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Put `change(some, index)` in the places of the `chosen` (B,) images. Both stay on the CPU."""
    index = chosen.nonzero()[:, 0]
    if len(index):
        there = index.to(x.device, non_blocking=True)
        x.index_copy_(0, there, change(x.index_select(0, there), index))


def _check(images: Tensor) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"expected uint8 images (B, 3, H, W), got {images.dtype} {tuple(images.shape)}"
        )


def unit(images_uint8: Tensor) -> Tensor:
    """As float32 in [0, 1], contiguous."""
    return images_uint8.to(torch.float32, memory_format=torch.contiguous_format).div_(255.0)


def standardise(x: Tensor, mean: PerChannel, std: PerChannel) -> Tensor:
    """(x - mean) / std a channel, of (B, 3, H, W) or one channel for all three."""
    centre, width = (
        value if isinstance(value, Tensor) else per_channel(value, x.device)
        for value in (mean, std)
    )
    return (x - centre).div_(width)


def per_channel(values: Sequence[float], device: torch.device) -> Tensor:
    """(3, 1, 1) float32 on the device: made once, it needs not be sent for every batch."""
    return torch.tensor(values, dtype=torch.float32).view(3, 1, 1).to(device, non_blocking=True)
