"""What a step has to compute, and how fast the machine multiplies matrices."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from care_core import models
from care_core.bench.turns import wait_for
from care_core.spec import BYOL, EquiMod, MoCo, PretrainSpec
from care_core.spec.sections import Model

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def passes(spec: PretrainSpec) -> tuple[float, float]:
    """Passes an image of the batch makes in a step: through the trained encoder, forward and
    backward, and through a copy that follows it, forward alone."""
    method = spec.method
    base = method.base if isinstance(method, EquiMod) else method
    trained = 1.0 if isinstance(base, MoCo) else 2.0
    followed = {MoCo: 1.0, BYOL: 2.0}.get(type(base), 0.0)
    if isinstance(method, EquiMod):
        trained += 1  # the image itself
    if spec.equivariance.weight > 0:
        trained += 2 * spec.equivariance_batch / spec.training.batch_size
    return trained, followed


def flops_per_image(spec: PretrainSpec) -> float:
    """Floating-point operations of a step for each image of its batch, of the networks alone.

    A multiplication and its addition are two. Batch norm, ReLU and the losses are not counted, as
    is the custom; they are not what takes the time of a large network.
    """
    forward, both = _of_network(spec.model, spec.stem, spec.image_size)
    trained, followed = passes(spec)
    return trained * both + followed * forward


@functools.cache
def _of_network(model: Model, stem: str, size: int) -> tuple[float, float]:
    """Operations an image, forward, and forward and backward; counted without computing."""
    with torch.device("meta"):
        encoder = models.Encoder(model, stem, size).train()
        one = (size, 3) if model.backbone == "deepset" else (3, size, size)
        images = torch.empty(2, *one)  # batch norm wants two
    counted = []
    for backward in (False, True):
        with FlopCounterMode(display=False) as counter:
            output = encoder(images)
            if backward:
                output.sum().backward()
        counted.append(counter.get_total_flops() / len(images))
    return counted[0], counted[1]


def matrix_peak(device: torch.device, precision: str, size: int | None = None) -> float:
    """The most FLOP/s that large matrix products reach here at a precision.

    The faster of a square product and of a convolution with 256 channels: the library that
    convolves has products of its own, on some CPUs twice as fast as those for matrices.

    Args:
        size: rows; default: enough to keep the device busy for some milliseconds.
    """
    size = size or (8192 if device.type == "cuda" else 2048)
    images, channels, side = max(1, size // 64), 256, 16

    def made(*shape: int) -> Tensor:
        values = torch.randn(shape, device=device).to(_DTYPES[precision])
        return values.to(memory_format=torch.channels_last) if len(shape) == 4 else values

    square, pictures = made(size, size), made(images, channels, side, side)
    weights = made(channels, channels, 3, 3)
    with torch.no_grad():
        product = _fastest(lambda: square @ square, device)
        convolution = _fastest(lambda: F.conv2d(pictures, weights, padding=1), device)
    return max(2 * size**3 / product, 2 * 9 * images * (side * channels) ** 2 / convolution)


def _fastest(work: Callable[[], object], device: torch.device, repeats: int = 8) -> float:
    """Seconds of the fastest of some repeats."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        wait_for(device)
        best = min(best, time.perf_counter() - start)
    return best
