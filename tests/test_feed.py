"""What a step sees: which images, augmented how, alike for any number of ranks."""

from __future__ import annotations

import pytest
import torch
from feeding import (
    JITTER,
    PLAIN,
    alike,
    apart,
    distinct,
    given,
    identical,
    numbered,
    numbers,
    spec_of,
    unstandardised,
)
from torch import Tensor

from care_core import draws, methods
from care_core.distributed import World
from care_core.methods import Step
from care_core.spec import PretrainSpec
from care_core.spec.facts import DATASETS
from care_core.views import transform


def test_simclr_takes_two_views_and_nothing_else() -> None:
    (step,) = given(spec_of(equivariance={"weight": 0}), identical())
    assert [view.shape for view in step.views] == [(64, 3, 16, 16)] * 2
    assert (step.number, step.pair, step.plain, step.parameters) == (0, [], None, None)


def test_every_image_of_a_view_and_every_split_of_the_pair_has_its_own_augmentation() -> None:
    (step,) = given(spec_of(augment=JITTER), identical())
    assert [view.shape for view in (*step.views, *step.pair)] == [(64, 3, 16, 16)] * 4
    assert distinct(torch.cat(step.views))
    splits = [half.reshape(16, 4, 3, 16, 16) for half in step.pair]
    assert all(alike(split) for half in splits for split in half)
    assert distinct(torch.cat([half[:, 0] for half in splits]))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_pair_shared_by_the_step_is_one_in_all_on_any_number_of_ranks(size: int) -> None:
    term = {"weight": 0.1, "splits": 16, "shared_by": "step"}
    spec = spec_of(augment=JITTER, equivariance=term)
    steps = [given(spec, identical(), world=World(rank, size))[0] for rank in range(size)]
    halves = [torch.cat([step.pair[n] for step in steps]) for n in range(2)]
    assert all(len(half) == 64 and alike(half) for half in halves)
    assert distinct(torch.stack([half[0] for half in halves]))


@pytest.mark.parametrize(("shared_by", "sizes"), [(16, [16, 16, 16, 16]), (24, [24, 24, 16])])
def test_a_pair_shared_by_a_number_of_images_is_shared_by_so_many(
    shared_by: int, sizes: list[int]
) -> None:
    term = {"weight": 0.1, "splits": 8, "shared_by": shared_by}
    (step,) = given(spec_of(augment=JITTER, equivariance=term), identical())
    for half in step.pair:
        parts = half.split(sizes)
        assert all(alike(part) for part in parts)
        assert distinct(torch.stack([part[0] for part in parts]))


def official(gpus: int) -> PretrainSpec:
    """Official CARE-SimCLR on ImageNet100, of small images; ranks keep their own statistics here
    because these tests have no process group to synchronise them over."""
    return PretrainSpec.model_validate(
        {
            "name": "official", "fidelity": "official",
            "data": {"name": "imagenet100", "image_size": 16},
            "augment": JITTER,
            "model": {"backbone": "small", "width": 4, "hidden": 16, "embedding": 8},
            "equivariance": {"weight": 0.1, "batch": 128},
            "training": {"epochs": 1, "batch_size": 256},
            "bn": {"sync": False},
            "launch": {"gpus": gpus},
        }
    )  # fmt: skip


@pytest.mark.parametrize(("gpus", "pairs", "block"), [(4, 1, 8), (2, 2, 16), (1, 4, 32)])
def test_official_imagenet100_draws_by_chunks_of_32_and_compares_by_four_splits_a_gpu(
    gpus: int, pairs: int, block: int
) -> None:
    """Keep 128 / GPUs images of a GPU, chunk them by 32, then split them into 4 again."""
    spec = official(gpus)
    for rank in range(gpus):
        world = World(rank, gpus)
        (step,) = given(spec, identical(256), world=world)
        kept = 128 // gpus
        chunks = [half.split(32) for half in step.pair]
        assert [len(half) for half in step.pair] == [kept, kept]
        assert [len(halves) for halves in chunks] == [pairs, pairs]
        assert all(alike(chunk) for halves in chunks for chunk in halves)
        assert distinct(torch.stack([chunk[0] for halves in chunks for chunk in halves]))

        source = torch.Generator().manual_seed(rank)
        step = step._replace(pair=[torch.randn(kept, 3, 16, 16, generator=source) for _ in "12"])
        method = methods.build(spec, world)
        z1, z2 = (method.encoder(half).detach().double() for half in step.pair)
        total = 0.0
        for a, b in zip(z1.chunk(4), z2.chunk(4), strict=True):
            assert len(a) == block
            total += float((a @ a.T - b @ b.T).square().sum()) * 2 / kept
        _, terms = methods.build(spec, world)(step)
        assert float(terms["equivariance"]) == pytest.approx(total, rel=1e-4)


def test_official_gpus_draw_alike_and_the_papers_do_not() -> None:
    def ranks(spec: PretrainSpec) -> list[Step]:
        return [given(spec, identical(256), world=World(rank, 4))[0] for rank in range(4)]

    first, *others = ranks(official(4))
    for other in others:
        for kind in ("views", "pair"):
            for mine, theirs in zip(getattr(first, kind), getattr(other, kind), strict=True):
                torch.testing.assert_close(mine, theirs)
    assert distinct(first.views[0])
    own = {"augment": {**JITTER, "ranks": "independent"}}
    apart_now = ranks(spec_of(256, **own, equivariance={"weight": 0.1, "splits": 16}))
    assert distinct(torch.cat([step.views[0] for step in apart_now]))
    assert distinct(torch.cat([step.pair[0][::16] for step in apart_now]))


def test_ranks_that_draw_alike_still_have_images_of_their_own() -> None:
    spec = spec_of(augment={**PLAIN, "ranks": "alike"}, equivariance={"weight": 0})
    seen = [given(spec, numbered(100), world=World(rank, 4))[0].views[0] for rank in range(4)]
    assert numbers(torch.cat(seen)) == numbers(given(spec, numbered(100))[0].views[0])


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("fed", [None, 32])
def test_the_shares_of_the_ranks_make_up_what_one_process_sees(fed: int | None, size: int) -> None:
    term = {"weight": 0.1, "splits": 16, "batch": fed}
    spec = spec_of(equivariance=term, method={"name": "equimod"})
    images = identical()
    for number, whole in enumerate(given(spec, images, steps=2)):
        ranks = [given(spec, images, 2, World(rank, size))[number] for rank in range(size)]
        for n in range(2):
            for kind in ("views", "pair", "parameters"):
                wanted = getattr(whole, kind)[n]
                parts = [getattr(rank, kind)[n] for rank in ranks]
                torch.testing.assert_close(torch.cat(parts), wanted, rtol=1e-5, atol=1e-5)
                assert not torch.allclose(parts[0], parts[1], atol=1e-2)
        assert whole.plain is not None
        torch.testing.assert_close(torch.cat([rank.plain for rank in ranks]), whole.plain)  # type: ignore[misc]


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize(("fed", "splits"), [(None, 16), (32, 16), (32, 4), (8, 4)])
def test_the_same_images_feed_the_term_on_any_number_of_ranks(
    fed: int | None, splits: int, size: int
) -> None:
    """The first ones of each split's part of the batch."""
    term = {"weight": 0.1, "splits": splits, "batch": fed}
    spec = spec_of(equivariance=term, augment=PLAIN)
    steps = [given(spec, numbered(100), world=World(rank, size))[0] for rank in range(size)]
    batch = numbers(torch.cat([step.views[0] for step in steps]))
    each = (fed or 64) // splits
    wanted = [image for part in range(splits) for image in batch[part * 64 // splits :][:each]]
    for n in range(2):
        assert numbers(torch.cat([step.pair[n] for step in steps])) == wanted
    assert len(set(wanted)) == (fed or 64)


def test_without_the_crop_the_pair_shows_whole_images() -> None:
    """Corners stay corners but for the flip, where a crop takes others into their place."""
    ramp = torch.arange(16, dtype=torch.uint8) * 15
    image = torch.stack(
        [ramp.expand(16, 16), ramp[:, None].expand(16, 16), ramp.flip(0).expand(16, 16)]
    )
    images = identical()
    images.images.copy_(image.expand(128, 3, 16, 16))
    still = {**PLAIN, "crop_scale": [0.1, 0.3], "flip": 0.5}

    def pair(crop: bool) -> Tensor:
        term = {"weight": 0.1, "splits": 16, "crop": crop}
        (step,) = given(spec_of(augment=still, equivariance=term), images)
        assert not torch.allclose(step.views[0], step.views[0].flip(0), atol=0.1)
        return unstandardised(torch.cat(step.pair)) * 255

    whole = image.float()
    for found in pair(crop=False):
        assert min(float((found - x).abs().max()) for x in (whole, whole.flip(-1))) < 1e-3
    assert float((pair(crop=True) - whole).abs().amax(dim=(1, 2, 3)).min()) > 30


def test_draws_differ_between_steps_and_seeds_and_ignore_the_global_generator() -> None:
    def drawn(seed: int, outside: int) -> list[Tensor]:
        torch.manual_seed(outside)
        state = torch.get_rng_state()
        found = given(spec_of(augment=JITTER, seed=seed), identical(), steps=2)
        assert torch.equal(torch.get_rng_state(), state)
        return [torch.cat([x[::8] for x in (*step.views, *step.pair)]) for step in found]

    first, other = drawn(0, 1), drawn(1, 1)
    assert distinct(torch.cat([*first, *other]))
    again = drawn(0, 2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_step_depends_on_its_number_alone() -> None:
    spec = spec_of()
    whole = given(spec, identical(), steps=4)
    for first in (1, 3):
        found = given(spec, identical(), steps=4 - first, first=first)
        assert [step.number for step in found] == list(range(first, 4))
        for ours, wanted in zip(found, whole[first:], strict=True):
            assert all(map(torch.equal, ours.views + ours.pair, wanted.views + wanted.pair))


def test_an_epoch_visits_every_image_once_in_an_order_of_its_own() -> None:
    spec = spec_of(100, equivariance={"weight": 0}, augment=PLAIN)
    visited: list[int] = []
    for step in given(spec, numbered(310), steps=6):
        seen = [numbers(view) for view in step.views]
        assert seen[0] == seen[1]
        visited += seen[0]
    first, second = visited[:300], visited[300:]  # ten are left out of each epoch
    assert len(set(first)) == len(set(second)) == 300
    assert set(first) | set(second) > set(first)
    assert first != second and first != sorted(first)
    assert first == draws.epoch_order(0, 0, 310).tolist()[:300]


def test_the_order_of_an_epoch_is_a_permutation_by_seed_and_epoch() -> None:
    torch.manual_seed(1)
    orders = [draws.epoch_order(seed, epoch, 50) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order.tolist()) == list(range(50)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 4
    torch.manual_seed(2)
    assert torch.equal(draws.epoch_order(1, 1, 50), orders[3])


def test_equimod_is_told_what_was_done_to_each_view() -> None:
    """Flip, brightness and crop as they are read off the pixels; the image itself beside them."""
    ramp = torch.linspace(20, 140, 16)
    image = torch.stack([ramp.expand(16, 16), ramp[:, None].expand(16, 16), ramp.expand(16, 16)])
    images = identical()
    images.images.copy_(image.round().to(torch.uint8).expand(128, 3, 16, 16))
    augmentation = {
        **PLAIN, "crop_scale": [0.3, 1], "flip": 0.5, "jitter": 1,
        "brightness": 0.4, "contrast": 0, "saturation": 0, "hue": 0,
    }  # fmt: skip
    spec = spec_of(augment=augmentation, equivariance={"weight": 0}, method={"name": "equimod"})
    (step,) = given(spec, images)
    assert step.plain is not None and step.parameters is not None
    plain = unstandardised(step.plain) * 255
    torch.testing.assert_close(plain, images.images[:64].float(), rtol=0, atol=1e-3)
    mean, std = transform.scale(spec.augment)
    for view, told in zip(step.views, step.parameters * std + mean, strict=True):
        top, left, height, width, flip = told[:, :5].unbind(1)
        brightness = told[:, 10]
        pixels = unstandardised(view) * 255 / brightness[:, None, None, None]
        mirrored = pixels[:, 0, 8, 0] > pixels[:, 0, 8, -1]
        assert torch.equal(mirrored, flip > 0.5) and 0 < int(mirrored.sum()) < 64
        centre = (20 + 120 * ((left + width / 2) * 16 - 0.5) / 15).clamp(20, 140)
        torch.testing.assert_close(
            pixels[:, 0, 7:9, 7:9].mean(dim=(1, 2)), centre, rtol=0.02, atol=1
        )
        centre = 20 + 120 * ((top + height / 2) * 16 - 0.5) / 15
        torch.testing.assert_close(
            pixels[:, 1, 7:9, 7:9].mean(dim=(1, 2)), centre, rtol=0.02, atol=1
        )
        assert brightness.std() > 0.1


def test_the_numbers_of_an_augmentation_are_standardised_over_its_distribution() -> None:
    spec = spec_of(256, method={"name": "equimod"}, equivariance={"weight": 0})
    steps = given(spec, identical(256), steps=4)
    told = torch.cat([part for step in steps for part in step.parameters])  # type: ignore[union-attr]
    assert told.shape == (2048, transform.NUMBERS)
    assert told.mean(dim=0).abs().max() < 0.15
    assert (told.std(dim=0) - 1).abs().max() < 0.15


def test_the_facts_of_the_set_normalise_the_images() -> None:
    (step,) = given(spec_of(augment=PLAIN, equivariance={"weight": 0}), identical())
    pixels = identical().images[0].float() / 255
    facts = DATASETS["digits"]
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in (facts.mean, facts.std))
    torch.testing.assert_close(step.views[0][0], (pixels - mean) / std, rtol=1e-4, atol=1e-4)
    assert apart(step.views[0]).max() < 1e-5
