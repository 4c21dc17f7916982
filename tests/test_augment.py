"""Augmentation equals torchvision's, image by image and in distribution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
import torchvision.transforms.v2.functional as TF
from scipy.stats import chisquare, ks_2samp
from torch import Tensor
from torchvision.transforms import v2

from care_core import augment
from care_core.augment import Params, jitter, resample
from care_core.spec import Augment

MEAN, STD = (0.49, 0.48, 0.44), (0.25, 0.24, 0.26)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(n: int, height: int = 32, width: int = 32, seed: int = 0) -> Tensor:
    """uint8 noise after flat black, white, grey and red, where the hue is degenerate."""
    x = torch.randint(0, 256, (n, 3, height, width), generator=seeded(seed), dtype=torch.uint8)
    for i, colour in enumerate([(0, 0, 0), (255, 255, 255), (90, 90, 90), (255, 0, 0)]):
        x[i] = torch.tensor(colour, dtype=torch.uint8)[:, None, None]
    return x


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("height", "width", "size"), [(32, 32, 32), (96, 96, 32), (40, 57, 33)])
def test_crop_resize_is_torchvisions_resized_crop(height: int, width: int, size: int) -> None:
    h = torch.randint(1, height + 1, (40,), generator=seeded(1))
    w = torch.randint(1, width + 1, (40,), generator=seeded(2))
    h[:4], w[:4] = torch.tensor([1, height, 2, height]), torch.tensor([1, width, width, 1])
    top = (torch.rand(40, generator=seeded(3)) * (height - h + 1)).long()
    left = (torch.rand(40, generator=seeded(4)) * (width - w + 1)).long()
    x = pixels(40, height, width) / 255
    crop = torch.stack([top, left, h, w], 1)
    theirs = [
        TF.resized_crop(i, *c, size=[size, size], antialias=True)
        for i, c in zip(x, crop.tolist(), strict=True)
    ]
    flip = torch.arange(40) % 2 == 1
    theirs = [TF.horizontal_flip(i) if f else i for i, f in zip(theirs, flip, strict=True)]
    assert_close(resample.crop_resize(x, crop, flip, size), torch.stack(theirs))


COLOUR: list[tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[float, ...]]] = [
    (jitter.brightness_, TF.adjust_brightness, (0.0, 1.0, 3.0)),
    (jitter.contrast_, TF.adjust_contrast, (0.0, 1.0, 3.0)),
    (jitter.saturation_, TF.adjust_saturation, (0.0, 1.0, 3.0)),
    (jitter.hue_, TF.adjust_hue, (-0.5, 0.0, 0.5)),
]


@pytest.mark.parametrize(("ours", "theirs", "extremes"), COLOUR)
def test_colour_operation_is_torchvisions(
    ours: Callable[..., Tensor], theirs: Callable[..., Tensor], extremes: tuple[float, ...]
) -> None:
    x = (pixels(15) / 255).repeat(4, 1, 1, 1)  # each image under several amounts
    x[-8:, 1] = x[-8:, 0]  # ties for the largest channel decide the hue's sector
    x[-4:, 2] = x[-4:, 0] + 1e-6
    low, _, high = extremes
    amount = low + torch.rand(60, generator=seeded(5)) * (high - low)
    amount[::5] = torch.tensor(extremes).repeat(4)
    expected = [theirs(i, a) for i, a in zip(x, amount.tolist(), strict=True)]
    assert_close(ours(x.clone(), amount[:, None, None, None]), torch.stack(expected))
    for image, a, wanted in zip(x, amount.tolist(), expected, strict=True):
        assert_close(ours(image[None].clone(), a), wanted[None])


@pytest.mark.parametrize("kernel", [1, 3, 5, 23])
def test_blur_is_torchvisions_with_a_kernel_per_image(kernel: int) -> None:
    x = pixels(12, 32, 29) / 255
    sigma = torch.tensor([0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 10.0, 0.1, 2.0, 0.7, 0.2])
    theirs = [
        TF.gaussian_blur(i, [kernel] * 2, [s]) for i, s in zip(x, sigma.tolist(), strict=True)
    ]
    assert_close(resample.blur(x, sigma, kernel), torch.stack(theirs))
    alike = TF.gaussian_blur(x, [kernel] * 2, [0.8])
    assert_close(resample.blur(x, torch.tensor([0.8]), kernel), alike)


def reference(image: Tensor, p: Params, size: int, kernel: int) -> Tensor:
    """One image under one row, as torchvision's transforms compose."""
    x = TF.resized_crop(image / 255, *p.crop.tolist(), size=[size, size], antialias=True)
    x = TF.horizontal_flip(x) if p.flip else x
    if p.jitter:
        for op in p.order.tolist():
            x = COLOUR[op][1](x, p.factors[op].item())
    x = TF.rgb_to_grayscale(x, num_output_channels=3) if p.gray else x
    x = TF.gaussian_blur(x, [kernel] * 2, [p.sigma.item()]) if p.blur else x
    return TF.normalize(x, list(MEAN), list(STD))


STRONG = Augment(brightness=0.9, contrast=0.9, saturation=0.9, hue=0.5)


@pytest.mark.parametrize(
    ("images", "rows", "side", "size", "kernel"),
    [(240, 240, 32, 32, 3), (240, 240, 48, 24, 5), (24, 24, 160, 128, 5), (48, 12, 96, 110, 5)],
)
def test_pipeline_is_torchvisions_composition_image_by_image(
    images: int, rows: int, side: int, size: int, kernel: int
) -> None:
    x = pixels(images, side, side)
    p = augment.sample(rows, side, side, STRONG, seeded(6))
    before = x.clone()
    ours = augment.apply(x, p, size=size, blur_kernel=kernel, mean=MEAN, std=STD)
    share = images // rows
    theirs = [
        reference(i, Params(*(v[k // share] for v in p)), size, kernel) for k, i in enumerate(x)
    ]
    # Normalising divides by 0.24: the same 1e-5 of intensity.
    torch.testing.assert_close(ours, torch.stack(theirs), rtol=0, atol=4e-5)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert ours.isfinite().all()
    assert torch.equal(x, before)


@pytest.mark.parametrize(("side", "size"), [(32, 32), (150, 128)])
def test_a_shared_row_augments_its_block_as_repeated_rows_would(side: int, size: int) -> None:
    x, before = pixels(60, side, side), pixels(60, side, side)
    p = augment.sample(15, side, side, Augment(), seeded(7))
    repeated = p.rows(torch.arange(60) // 4)
    shared = augment.apply(x, p, size=size, blur_kernel=3, mean=MEAN, std=STD)
    whole = augment.apply(x, repeated, size=size, blur_kernel=3, mean=MEAN, std=STD)
    assert_close(shared, whole)
    assert torch.equal(x, before)
    with pytest.raises(ValueError, match="evenly"):
        augment.apply(x[:-1], p, size=size, blur_kernel=3, mean=MEAN, std=STD)


@pytest.mark.parametrize("side", [32, 130])
def test_row_by_row_and_all_at_once_are_one_function(
    side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a crop and without; each way is taken by the size of a row's block of images."""
    x, p = pixels(24, side, side), augment.sample(12, side, side, STRONG, seeded(12))
    for params in (p, p._replace(crop=None)):
        found = []
        for threshold in (0, 10**9):
            monkeypatch.setattr(augment, "_BLOCK", threshold)
            found.append(augment.apply(x, params, size=side, blur_kernel=5, mean=MEAN, std=STD))
        torch.testing.assert_close(*found, rtol=0, atol=4e-5)


def test_autocast_does_not_coarsen_the_augmentation() -> None:
    x, p = pixels(16), augment.sample(16, 32, 32, Augment(), seeded(8))
    plain = augment.apply(x, p, size=32, blur_kernel=3, mean=MEAN, std=STD)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(plain, augment.apply(x, p, size=32, blur_kernel=3, mean=MEAN, std=STD))


def test_switched_off_augmentation_is_normalisation() -> None:
    x = pixels(8)
    off = Augment(crop_scale=(1, 1), crop_ratio=(1, 1), flip=0, jitter=0, gray=0, blur=0)
    p = augment.sample(8, 32, 32, off, seeded())
    plain = augment.normalize(x, size=32, mean=MEAN, std=STD)
    assert_close(augment.apply(x, p, size=32, blur_kernel=3, mean=MEAN, std=STD), plain)
    assert_close(plain, TF.normalize(x / 255, list(MEAN), list(STD)))
    small = TF.resize(x / 255, [20, 20], antialias=True)
    assert_close(
        augment.normalize(x, size=20, mean=MEAN, std=STD),
        TF.normalize(small, list(MEAN), list(STD)),
    )


@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 60)])
def test_crops_are_distributed_as_torchvisions(height: int, width: int) -> None:
    n = 4000
    ours = augment.sample(n, height, width, Augment(), seeded(9)).crop.double()
    torch.manual_seed(9)
    transform, image = v2.RandomResizedCrop(32), torch.zeros(3, height, width)
    drawn = [transform.make_params([image]) for _ in range(n)]
    theirs = torch.tensor(
        [[d["top"], d["left"], d["height"], d["width"]] for d in drawn], dtype=torch.float64
    )

    def features(c: Tensor) -> list[Tensor]:
        top, left, h, w = c.unbind(1)
        return [top, left, h, w, h * w, w / h, top / (height - h).clamp(min=1)]

    for a, b in zip(features(ours), features(theirs), strict=True):
        assert ks_2samp(a, b).pvalue > 1e-3


@pytest.mark.parametrize(("height", "width"), [(10, 90), (90, 10), (30, 32)])
def test_without_a_fitting_attempt_the_crop_is_torchvisions_central_one(
    height: int, width: int
) -> None:
    # A full-area crop of a square fits neither image: all ten attempts fail.
    spec = Augment(crop_scale=(1, 1), crop_ratio=(0.99, 1.01))
    crop = augment.sample(5, height, width, spec, seeded()).crop
    theirs = v2.RandomResizedCrop(8, (1, 1), (0.99, 1.01)).make_params(
        [torch.zeros(3, height, width)]
    )
    expected = [theirs[key] for key in ("top", "left", "height", "width")]
    assert crop.tolist() == [expected] * 5


def test_colours_are_distributed_as_torchvisions() -> None:
    n = 6000
    p = augment.sample(n, 32, 32, Augment(brightness=1.5), seeded(10))
    torch.manual_seed(10)
    transform = v2.ColorJitter(1.5, 0.4, 0.4, 0.1)
    drawn = [transform.make_params([]) for _ in range(2000)]
    keys = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")
    for op, key in enumerate(keys):
        assert ks_2samp(p.factors[:, op], [d[key] for d in drawn]).pvalue > 1e-3
    sigma = [v2.GaussianBlur(3, (0.1, 2.0)).make_params([])["sigma"][0] for _ in range(2000)]
    assert ks_2samp(p.sigma, sigma).pvalue > 1e-3
    orders = Counter(map(tuple, p.order.tolist()))
    assert len(orders) == 24
    assert chisquare(list(orders.values())).pvalue > 1e-3
    for chosen, probability in [(p.flip, 0.5), (p.jitter, 0.8), (p.gray, 0.2), (p.blur, 0.5)]:
        assert abs(chosen.double().mean() - probability) < 4 * (0.25 / n) ** 0.5
    together = torch.stack([p.flip, p.jitter, p.gray, p.blur, *p.factors.T, p.sigma]).double()
    assert torch.corrcoef(together).fill_diagonal_(0).abs().max() < 0.06


def test_sampling_is_a_function_of_its_generator_alone() -> None:
    def draw(spec: Augment) -> tuple[Params, Tensor]:
        generator = seeded(11)
        return augment.sample(64, 32, 32, spec, generator), generator.get_state()

    torch.manual_seed(1)
    first, state = draw(Augment())
    outside = torch.get_rng_state()
    torch.manual_seed(2)
    again, _ = draw(Augment())
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    torch.manual_seed(1)
    assert torch.equal(outside, torch.get_rng_state())
    # Other settings use up as much of the generator: later draws do not shift.
    other, after = draw(Augment(flip=0, jitter=0, crop_scale=(1, 1)))
    assert torch.equal(state, after)
    assert torch.equal(first.factors, other.factors)
