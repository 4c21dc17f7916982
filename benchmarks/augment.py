"""How long augmenting a step takes on one thread, beside torchvision with the same parameters.

Command: python benchmarks/augment.py. It prints, it decides nothing. Three ways:

    ours        care_core.augment, the draw included;
    v2          torchvision.transforms.v2.functional on float tensors, a call for each row of
                parameters: one an image, or one a split of images that share it;
    PIL         the same functions on one PIL image at a time, as a data loader's workers run them
                (they round to 8 bits after each operation, which ours and v2 do not).

Each repetition draws its own parameters, the same for all three; medians over the repetitions.
"""

from __future__ import annotations

import functools
import statistics
import time
from typing import Any, NamedTuple

import torch
import torchvision.transforms.v2.functional as TF
from PIL import Image
from torch import Tensor

from care_core import augment
from care_core.augment import Params
from care_core.spec import Augment

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
COLOURS = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)


class Case(NamedTuple):
    """Two views of a step's images."""

    name: str
    images: int
    rows: int  #: of parameters a view
    size: int  #: pixels of the images, before and after
    cropped: bool  #: whether a crop is left to do
    spec: Augment
    repeats: int


AT_32, AT_224 = Augment(), Augment(crop_scale=(0.2, 1.0), blur_kernel=5)
CASES = (
    Case("a row an image, CIFAR", 64, 64, 32, True, AT_32, 41),
    Case("a row a split, CIFAR", 64, 16, 32, True, AT_32, 41),
    Case("a row a split, ImageNet100", 128, 4, 224, True, AT_224, 7),
    Case("a row an image, cropped by workers", 64, 64, 224, False, AT_224, 7),
)


def draw(case: Case, repeat: int) -> list[Params]:
    """The parameters of both views."""
    generator = torch.Generator().manual_seed(repeat)
    found = [
        augment.sample(case.rows, case.size, case.size, case.spec, generator) for _ in range(2)
    ]
    return found if case.cropped else [params._replace(crop=None) for params in found]


def ours(case: Case, pixels: Tensor, repeat: int) -> None:
    for params in draw(case, repeat):
        augment.apply(
            pixels, params, size=case.size, blur_kernel=case.spec.blur_kernel, mean=MEAN, std=STD
        )


def by_row(case: Case, pixels: Tensor, repeat: int) -> None:
    for params in draw(case, repeat):
        out = [
            TF.normalize(changed(case, TF.to_dtype(block, scale=True), params, row), MEAN, STD)
            for row, block in enumerate(pixels.chunk(case.rows))
        ]
        torch.cat(out).contiguous(memory_format=torch.channels_last)


def by_image(case: Case, pictures: list[Image.Image], repeat: int) -> None:
    share = case.images // case.rows
    for params in draw(case, repeat):
        out = []
        for place, picture in enumerate(pictures):
            picture = changed(case, picture, params, place // share)
            image = TF.to_dtype(TF.pil_to_tensor(picture), scale=True)
            out.append(TF.normalize(image, MEAN, STD))
        torch.stack(out).contiguous(memory_format=torch.channels_last)


def changed(case: Case, x: Any, params: Params, row: int) -> Any:
    """Images (a tensor, or one picture) under a row of parameters, not yet normalised."""
    if params.crop is not None:
        x = TF.resized_crop(x, *params.crop[row].tolist(), size=[case.size] * 2, antialias=True)
    if params.flip[row]:
        x = TF.horizontal_flip(x)
    if params.jitter[row]:
        for op in params.order[row].tolist():
            x = COLOURS[op](x, params.factors[row, op].item())
    if params.gray[row]:
        x = TF.rgb_to_grayscale(x, num_output_channels=3)
    if params.blur[row]:
        x = TF.gaussian_blur(x, [case.spec.blur_kernel] * 2, [params.sigma[row].item()])
    return x


def compare(case: Case) -> list[float]:
    """Medians in milliseconds of ours, v2 and PIL, which take turns: a slow moment is everybody's.

    The images are noise, which costs what a photograph costs.
    """
    shape = (case.images, case.size, case.size, 3)
    noise = torch.randint(0, 256, shape, dtype=torch.uint8)
    pictures = [Image.fromarray(image) for image in noise.numpy()]
    pixels = noise.permute(0, 3, 1, 2).contiguous()
    ways = (
        functools.partial(ours, case, pixels),
        functools.partial(by_row, case, pixels),
        functools.partial(by_image, case, pictures),
    )
    times: list[list[float]] = [[] for _ in ways]
    for repeat in range(case.repeats + 1):
        for found, way in zip(times, ways, strict=True):
            start = time.perf_counter()
            way(repeat)
            found.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(found[1:]) for found in times]  # the first warms up


def main() -> None:
    torch.set_num_threads(1)
    print(f"two views, 1 thread, torch {torch.__version__}; ms, and how many times ours")
    print(f"{'':36}{'images':>7}{'px':>5}{'ours':>9}{'v2':>17}{'PIL':>17}")
    for case in CASES:
        mine, v2, pil = compare(case)
        print(
            f"{case.name:36}{case.images:>7}{case.size:>5}{mine:>9.1f}"
            f"{v2:>9.1f} ({v2 / mine:4.1f}×){pil:>9.1f} ({pil / mine:4.1f}×)",
            flush=True,
        )


if __name__ == "__main__":
    main()
