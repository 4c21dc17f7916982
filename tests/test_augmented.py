"""Images that pass through a frozen backbone anew: what moves, what stays, what is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import digit_files
import pytest
import torch
from conftest import tiny
from torch import Tensor, nn

from care_core import data, draws, models
from care_core.data.base import ImageSet
from care_core.measures import augmented
from care_core.measures.augmented import Augmented
from care_core.measures.features import Features, extract
from care_core.measures.linear import Stored, classify
from care_core.models import Encoder
from care_core.spec import ProbeSpec

IMAGES = digit_files.digits("train", 96)
TEST = digit_files.digits("test", 40)
STILL = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "flip": 0.0}
COLOURLESS = {"jitter": 0.0, "gray": 0.0, "blur": 0.0}


def encoder() -> Encoder:
    """As initialised, with statistics of batch norm that are not the identity's."""
    made = models.build(tiny()).train()
    with torch.no_grad():
        made(torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    return made.eval()


def spec(augment: dict[str, Any] | None = None, **settings: Any) -> ProbeSpec:
    made = tiny()
    fields = {"epochs": 2, "batch_size": 32, **settings}
    return ProbeSpec.model_validate(
        {"name": "x", "source": "0" * 64, "data": made.data, "probe": {"linear": fields},
         "augment": made.augment.model_copy(update=augment or {})}
    )  # fmt: skip


def source(
    asked: ProbeSpec, network: Encoder, images: data.Images = IMAGES, seed: int = 0
) -> Augmented:
    def test(as_it_is: Encoder) -> Features:
        return extract(as_it_is, TEST, asked.normalization)

    return Augmented(asked, network, images, test, seed=seed, decoders=0)


def inputs(found: Augmented, epoch: int = 0) -> Tensor:
    """All images of an epoch as the encoder gets them, in the order of the set."""
    order = draws.epoch_order(found.seed, epoch, len(found.train))
    rows = order.split(found.linear.batch_size)
    return torch.cat(list(found._inputs(epoch, rows)))[order.argsort()]


@pytest.mark.parametrize("augmentation", ["none", "crop_flip", "simclr"])
def test_a_frozen_backbone_stays_as_it_is_to_the_last_bit(augmentation: str) -> None:
    network = encoder()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    asked = spec(augmentation=augmentation)
    classify(asked.probe.linear, 0, source(asked, network), TEST.labels, 10)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_in_train_mode_the_statistics_drift_in_a_copy_for_each_seed() -> None:
    network = encoder()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    asked = spec(augmentation="none", backbone="train")
    found = source(asked, network)
    first = network.backbone[1]  # type: ignore[index]
    assert isinstance(first, nn.BatchNorm2d) and first.running_mean is not None
    wanted = first.running_mean.clone()
    order = draws.epoch_order(0, 0, len(IMAGES))
    with torch.no_grad():
        for rows in order.split(32):
            batch = data_inputs(IMAGES.images[rows])
            inner = network.backbone[0](batch)  # type: ignore[index]
            wanted = 0.9 * wanted + 0.1 * inner.mean(dim=(0, 2, 3))
    list(found.epoch(0))
    drifted = found.encoder.backbone[1].running_mean  # type: ignore[index, union-attr]
    torch.testing.assert_close(drifted, wanted)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    for old, new in zip(network.parameters(), found.encoder.parameters(), strict=True):
        assert torch.equal(old, new)


def data_inputs(pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(part)[:, None, None] for part in tiny().data.normalization)
    return (pixels / 255 - mean) / std


def test_in_train_mode_features_follow_the_batch_and_the_test_is_in_eval_mode() -> None:
    asked = spec(augmentation="none", backbone="train")
    found = source(asked, encoder())
    assert not any(module.training for module in found.encoder.modules())
    untouched = found.test()
    features, _ = next(iter(found.epoch(0)))
    one_by_one = extract(found.encoder, IMAGES, asked.normalization, batch=1)
    order = draws.epoch_order(0, 0, len(IMAGES))[:32]
    assert not torch.allclose(features.backbone, one_by_one.backbone[order], atol=1e-2)
    list(found.epoch(1))
    assert not any(module.training for module in found.encoder.modules())
    asked_again = found.test()
    assert not torch.allclose(asked_again.backbone, untouched.backbone, atol=1e-3)
    alone = [
        extract(found.encoder, TEST.take(torch.tensor([n])), asked.normalization) for n in (3, 8)
    ]
    torch.testing.assert_close(asked_again.backbone[[3, 8]], torch.cat([x.backbone for x in alone]))


def test_only_batch_norm_is_ever_in_train_mode() -> None:
    network = encoder()
    network.backbone.append(nn.Dropout(0.9))  # type: ignore[operator]
    found = source(spec(augmentation="none", backbone="train"), network)
    features, _ = next(iter(found.epoch(0)))
    assert (features.backbone == 0).float().mean() < 0.5


def test_features_computed_once_equal_the_loop_without_augmentation() -> None:
    network, asked = encoder(), spec()
    once = extract(network, IMAGES, asked.normalization)
    kept = Stored(
        once, IMAGES.labels, extract(network, TEST, asked.normalization), seed=3, batch_size=32
    )
    loop = source(asked, network, seed=3)
    assert kept.steps == loop.steps == 3
    for epoch in range(2):
        for (x, labels), (y, others) in zip(kept.epoch(epoch), loop.epoch(epoch), strict=True):
            assert torch.equal(labels, others)
            for a, b in zip(x, y, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    for a, b in zip(kept.test(), loop.test(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("augmentation", ["crop_flip", "simclr"])
def test_augmentations_are_drawn_anew_by_seed_and_epoch_and_by_nothing_else(
    augmentation: str,
) -> None:
    asked, network = spec(augmentation=augmentation), encoder()
    torch.manual_seed(1)
    first = inputs(source(asked, network))
    torch.manual_seed(2)
    assert torch.equal(inputs(source(asked, network)), first)
    for other in (inputs(source(asked, network, seed=1)), inputs(source(asked, network), epoch=1)):
        changed = (other - first).abs().amax(dim=(1, 2, 3)) > 0.05
        assert changed.float().mean() > 0.9


def test_no_two_batches_epochs_or_seeds_share_their_draws() -> None:
    rows = torch.arange(64).split(32)
    found = [
        augmented.Drawn(tiny().augment, seed, epoch, rows).numbers(step)
        for seed in (0, 1)
        for epoch in (0, 1)
        for step in (0, 1)
    ]
    assert len(torch.cat(found).unique()) == 8 * 32 * found[0].shape[1]


def test_crop_flip_crops_and_flips_and_leaves_colours_alone() -> None:
    network, plain = encoder(), data_inputs(IMAGES.images)
    whole = inputs(source(spec(STILL, augmentation="crop_flip"), network))
    torch.testing.assert_close(whole, plain, rtol=1e-4, atol=1e-4)
    mirrored = inputs(source(spec({**STILL, "flip": 1.0}, augmentation="crop_flip"), network))
    torch.testing.assert_close(mirrored, plain.flip(-1), rtol=1e-4, atol=1e-4)
    coloured = inputs(source(spec(STILL, augmentation="simclr"), network))
    assert not torch.allclose(coloured, plain, atol=0.05)


def test_crop_flip_is_simclr_without_its_colours() -> None:
    network = encoder()
    short = inputs(source(spec(augmentation="crop_flip"), network))
    assert torch.equal(inputs(source(spec(COLOURLESS, augmentation="simclr"), network)), short)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[data.Images]:
    folder = digit_files.write(tmp_path_factory.mktemp("digits"), train=96)
    yield data.load(folder, "train", Path())


def test_files_are_the_images_they_hold(files: data.Images) -> None:
    assert torch.equal(files.labels, IMAGES.labels) and files.classes == 10
    network = encoder()
    whole = spec(STILL, augmentation="crop_flip")
    read, held = source(whole, network, files), source(whole, network)
    torch.testing.assert_close(inputs(read), inputs(held), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("augmentation", ["crop_flip", "simclr"])
def test_files_are_cropped_as_images_in_memory_but_for_rounding(
    files: data.Images, augmentation: str
) -> None:
    network, asked = encoder(), spec({"jitter": 0.0}, augmentation=augmentation)
    read, held = inputs(source(asked, network, files)), inputs(source(asked, network))
    step = 1 / 255 / min(tiny().data.normalization[1])
    assert float((read - held).abs().max()) < 1.5 * step
    assert float((held - inputs(source(asked, network), epoch=1)).abs().max()) > 20 * step


def test_workers_change_nothing(files: data.Images) -> None:
    network, asked = encoder(), spec(augmentation="simclr")
    here, there = source(asked, network, files), source(asked, network, files)
    there.decoders = 2
    assert torch.equal(inputs(here), inputs(there))


def test_files_without_augmentation_are_centred_as_those_that_are_asked(
    files: data.Images,
) -> None:
    network, asked = encoder(), spec(augmentation="none", backbone="eval")
    centred = torch.cat(list(files.batches(40, 0)))
    memory = ImageSet(centred, files.labels, files.classes)
    once = extract(network, memory, asked.normalization)
    for read, held in zip(
        extract(network, files, asked.normalization, decoders=0), once, strict=True
    ):
        assert torch.equal(read, held)
    made = source(asked, network, files)
    order = draws.epoch_order(0, 0, len(files))
    loop = torch.cat([features.backbone for features, _ in made.epoch(0)])
    torch.testing.assert_close(loop, once.backbone[order], rtol=1e-4, atol=1e-5)
