"""What a rank sees at each step: which images, augmented how.

Everything random is drawn for the whole global batch and sliced by position, so a step depends on
its number alone. Images in memory lie on the device and are cropped there; image files are decoded
and cropped by workers, a whole step at a time, and the rest of the augmentation is the device's.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from care_core import augment, draws
from care_core.augment import Params
from care_core.data import decode, workers
from care_core.data.base import ImageSet
from care_core.data.files import FileSet
from care_core.distributed import World
from care_core.spec import EquiMod, PretrainSpec
from care_core.views import resident, transform
from care_core.views.beside import Beside
from care_core.views.meter import Meter
from care_core.views.step import Step


class Plan(NamedTuple):
    """A rank's share of a step before any pixel is touched. Numbers are `augment.numbers` rows."""

    images: Tensor  #: (B,) positions in the dataset
    fed: Tensor  #: (E,) positions among `images` of the images that feed the equivariance term
    views: tuple[Tensor, ...]  #: two (B, 35)
    pair: tuple[Tensor, ...]  #: none, or two (N, 35), a row for E / N images each


class Planner:
    """Draws the steps of a spec for one rank. Cheap, and alike wherever it runs."""

    def __init__(self, spec: PretrainSpec, world: World, images: int) -> None:
        self.spec, self.images = spec, images
        self.world = World(world.rank, world.size)  # plain: workers get a copy
        self.per_epoch = images // spec.training.batch_size

    def at(self, step: int) -> Plan:
        """The plan of the step after `step` steps are done."""
        spec, batch = self.spec, self.spec.training.batch_size
        epoch, position = divmod(step, self.per_epoch)
        chosen = _order(spec.seed, epoch, self.images)[position * batch :][:batch]
        views = tuple(self._numbers(batch, f"view{n}", step) for n in range(2))
        mine = chosen[self.world.share(batch)]
        if spec.equivariance.weight == 0:
            return Plan(mine, torch.empty(0, dtype=torch.int64), views, ())
        pair = tuple(self._pair_numbers(f"pair{n}", step) for n in range(2))
        return Plan(mine, self._fed(), views, pair)

    def _fed(self) -> Tensor:
        """The first images of each split's part of the batch: a rank's splits lie in its share."""
        spec, size = self.spec, self.world.size
        splits = spec.equivariance.splits // size
        part = spec.training.batch_size // size // splits
        first = torch.arange(spec.equivariance_batch // size // splits)
        return (torch.arange(splits)[:, None] * part + first).flatten()

    def _pair_numbers(self, purpose: str, step: int) -> Tensor:
        """Rows for the rank's images of the term, by which of them share a pair."""
        term, size = self.spec.equivariance, self.world.size
        if term.shared_by == "step":
            return augment.numbers(1, self._generator(purpose, step))
        if term.shared_by == "split":
            return self._numbers(term.splits, purpose, step)
        mine = self.spec.equivariance_batch // size
        rows = self._numbers(-(-mine // term.shared_by) * size, purpose, step)
        if mine % term.shared_by == 0:
            return rows
        return rows[torch.arange(mine) // term.shared_by]  # the last ones share among fewer

    def _numbers(self, count: int, purpose: str, step: int) -> Tensor:
        drawn = augment.numbers(count, self._generator(purpose, step))
        alike = self.spec.augment.ranks == "alike"
        return drawn[World(0, self.world.size).share(count) if alike else self.world.share(count)]

    def _generator(self, purpose: str, step: int) -> torch.Generator:
        return draws.generator(self.spec.seed, purpose, step)


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, images: int) -> Tensor:
    return draws.epoch_order(seed, epoch, images)


class Feed:
    """A rank's steps, augmented on its device."""

    def __init__(
        self, spec: PretrainSpec, images: ImageSet | FileSet, world: World, device: torch.device
    ) -> None:
        self.spec, self.device = spec, device
        self.planner = Planner(spec, world, len(images))
        self.described = isinstance(spec.method, EquiMod)
        self.scale = transform.scale(spec.augment) if self.described else None
        self.images = images
        self.skipped = images.skipped if isinstance(images, FileSet) else 0
        self.pixels = images.images.to(device) if isinstance(images, ImageSet) else None
        self.meter = None if isinstance(images, ImageSet) else Meter(device)
        self.resident = None
        if self.pixels is not None and not spec.data.clouds and resident.suits(spec, device):
            self.resident = resident.Resident(spec, self.pixels, self.described)
        self.beside = Beside(device)

    def steps(self, first: int, last: int) -> Iterator[Step]:
        """The steps from `first` on, up to `last` and without it."""
        numbers = range(first, last)
        if self.pixels is not None:
            for number in numbers:
                yield self.beside.make(self._from_memory, number)
            return
        assert isinstance(self.images, FileSet)
        decoded = _Decoded(self.images, self.planner, self.described)
        found = iter(workers.loader(decoded, numbers, self.spec.launch.decoders))
        assert self.meter is not None
        for number in numbers:
            with self.meter.waiting(at_start=number == first):
                parts = next(found)
            yield self.beside.make(self._from_files, number, *parts)

    def data_bound(self) -> float | None:
        """The share of the last seconds in which the device waited for files; None: no files."""
        return self.meter.share() if self.meter else None

    def _from_memory(self, number: int) -> Step:
        plan, spec = self.planner.at(number), self.spec
        assert self.pixels is not None
        height, width = self.pixels.shape[-2:]
        crops = [augment.boxes(u, height, width, spec.augment) for u in plan.views]
        drawn = [
            augment.decide(u, spec.augment, box) for u, box in zip(plan.views, crops, strict=True)
        ]
        shared = self._shared(plan, height, width)
        side = torch.tensor([height, width, height, width])
        described = self._describe(plan, torch.stack(crops) / side)
        if self.resident:
            made = self.resident.views(plan.images, plan.fed, drawn, shared)
            return Step(number, *made, described)
        pixels = self.pixels[self._send(plan.images)]
        fed = pixels[self._send(plan.fed)]
        return Step(
            number,
            [self._apply(pixels, params) for params in drawn],
            [self._apply(fed, params) for params in shared],
            self._plain(pixels) if self.described else None,
            described,
        )

    def _from_files(self, number: int, cropped: Tensor, centred: Tensor, fractions: Tensor) -> Step:
        plan, spec = self.planner.at(number), self.spec
        cropped, centred = self._send(cropped), self._send(centred)
        fed = centred[self._send(plan.fed)] if self.described else centred
        return Step(
            number,
            [
                self._apply(view, augment.decide(u, spec.augment, None))
                for view, u in zip(cropped, plan.views, strict=True)
            ],
            [self._apply(fed, params) for params in self._shared(plan, *fed.shape[-2:])],
            self._plain(centred) if self.described else None,
            self._describe(plan, fractions),
        )

    def _shared(self, plan: Plan, height: int, width: int) -> list[Params]:
        """CARE's augmentations, of images of one size: the crop is the same fraction of each."""
        spec = self.spec.augment
        crop = self.spec.equivariance.crop
        return [
            augment.decide(u, spec, augment.boxes(u, height, width, spec) if crop else None)
            for u in plan.pair
        ]

    def _apply(self, pixels: Tensor, params: Params) -> Tensor:
        mean, std = self.spec.data.normalization
        return augment.apply(
            pixels, params, size=self.spec.image_size,
            blur_kernel=self.spec.augment.blur_kernel, mean=mean, std=std,
        )  # fmt: skip

    def _send(self, values: Tensor) -> Tensor:
        """To the device, without waiting for it."""
        return values.to(self.device, non_blocking=True)

    def _plain(self, pixels: Tensor) -> Tensor:
        mean, std = self.spec.data.normalization
        return augment.normalize(pixels, size=self.spec.image_size, mean=mean, std=std)

    def _describe(self, plan: Plan, fractions: Tensor) -> Tensor | None:
        """(2, B, 17) standardised numbers of both views' augmentations, on the device."""
        if self.scale is None:
            return None
        mean, std = self.scale
        found = [
            (transform.describe(augment.decide(u, self.spec.augment, None), f) - mean) / std
            for u, f in zip(plan.views, fractions, strict=True)
        ]
        return self._send(torch.stack(found))


class _Decoded(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """A step's images from files, as workers make them: uint8, cropped for each view.

    Item `step`: (2, B, 3, S, S) views; the centred images that the term (or EquiMod) needs,
    (n, 3, S, S); and the views' crops in fractions of each image, (2, B, 4).
    """

    def __init__(self, images: FileSet, planner: Planner, all_centred: bool) -> None:
        self.images, self.planner, self.all_centred = images, planner, all_centred

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        plan, size = self.planner.at(step), self.images.size
        spec = self.planner.spec.augment
        wanted = set(range(len(plan.images)) if self.all_centred else plan.fed.tolist())
        views, centred, fractions = [], [], []
        for place, number in enumerate(plan.images.tolist()):
            image = self.images.decode(number)
            height, width = image.shape[-2:]
            boxes = [augment.boxes(u[place, None], height, width, spec)[0] for u in plan.views]
            views.append(torch.stack([decode.crop(image, box, size) for box in boxes]))
            fractions.append(torch.stack(boxes) / torch.tensor([height, width, height, width]))
            if place in wanted:
                centred.append(decode.centred(image, size))
        empty = torch.empty(0, 3, size, size, dtype=torch.uint8)
        return (
            torch.stack(views, dim=1),
            torch.stack(centred) if centred else empty,
            torch.stack(fractions, dim=1),
        )
