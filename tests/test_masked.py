"""The augmentation that can be recorded on a GPU is the one that everything else uses."""

from __future__ import annotations

import pytest
import torch
from feeding import given, identical, spec_of
from methodical import METHODS
from torch import Tensor

from care_core import augment
from care_core.augment import masked
from care_core.distributed import ALONE
from care_core.spec import Augment
from care_core.views.feed import Feed
from care_core.views.resident import Resident, suits

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)


def wide(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values).view(3, 1, 1)


@pytest.mark.parametrize("rows", [48, 12, 1])
@pytest.mark.parametrize("cropped", [True, False])
def test_choosing_after_and_choosing_before_give_the_same_images(rows: int, cropped: bool) -> None:
    source = torch.Generator().manual_seed(rows)
    for _ in range(4 if rows > 1 else 24):  # one row each: with and without everything
        images = torch.randint(0, 256, (48, 3, 24, 24), dtype=torch.uint8, generator=source)
        drawn = augment.sample(rows, 24, 24, Augment(jitter=0.6, blur=0.5, gray=0.3), source)
        drawn = drawn if cropped else drawn._replace(crop=None)
        usual = augment.apply(images, drawn, size=24, blur_kernel=5, mean=MEAN, std=STD)
        made = masked.apply(images, drawn, size=24, blur_kernel=5, mean=wide(MEAN), std=wide(STD))
        torch.testing.assert_close(made, usual, rtol=0, atol=2e-6)
        assert made.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("method", ["simclr", "equimod of simclr"])
@pytest.mark.parametrize("term", [{}, {"crop": False}, {"shared_by": "step"}, {"weight": 0}])
def test_a_resident_steps_views_are_the_feeds(method: str, term: dict[str, object]) -> None:
    equivariance = {"weight": 0.1, "splits": 16, **term}
    spec = spec_of(method=METHODS[method], equivariance=equivariance)
    (usual,) = given(spec, identical())
    feed = Feed(spec, identical(), ALONE, torch.device("cpu"))
    assert feed.pixels is not None
    feed.resident = Resident(spec, feed.pixels, feed.described)
    (made,) = feed.steps(0, 1)
    assert len(made.tensors) == len(usual.tensors)
    for one, other in zip(made.tensors, usual.tensors, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-6)


def test_only_small_steps_on_a_gpu_are_recorded() -> None:
    spec, gpu = spec_of(), torch.device("cuda")
    assert suits(spec, gpu) and not suits(spec, torch.device("cpu"))
    assert not suits(spec_of(launch={"cuda_graphs": False}), gpu)
    large = spec.model_copy(update={"data": spec.data.model_copy(update={"image_size": 224})})
    many = large.model_copy(
        update={"training": spec.training.model_copy(update={"batch_size": 256})}
    )
    assert not suits(many, gpu)
