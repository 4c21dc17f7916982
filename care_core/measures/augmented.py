"""What a classifier learns from when its images are augmented: features made anew each epoch.

Draws are counted (care_core.draws) by the classifier's seed, the epoch and the batch. Images in
memory are cropped on the device; image files are decoded and cropped by workers, a batch at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import Dataset

from care_core import augment, draws
from care_core.augment import Params
from care_core.data import workers
from care_core.data.base import ImageSet
from care_core.data.decode import crop
from care_core.data.files import FileSet
from care_core.measures.embeddings import augmented_inputs
from care_core.measures.features import Features, encode, frozen, plain
from care_core.models import Encoder
from care_core.spec import Augment, ProbeSpec

if TYPE_CHECKING:
    from care_core.data import Images


class Augmented:
    """A `linear.Source`: images that pass through the frozen backbone in every epoch.

    With `backbone: train` its batch norm normalises by each batch and its statistics drift, as in
    the official CIFAR and STL scripts. They do so in a copy of the encoder: each seed has its own.
    """

    def __init__(
        self, spec: ProbeSpec, encoder: Encoder, train: Images, test: Callable[[Encoder], Features],
        *, seed: int, decoders: int | None = None,
    ) -> None:  # fmt: skip
        self.spec, self.linear = spec, spec.probe.linear
        self.augment = protocol(self.linear.augmentation, spec.augment)
        self.drift = self.linear.backbone == "train"
        self.encoder = copy.deepcopy(encoder) if self.drift else encoder
        self.train, self.test_of, self.seed = train, test, seed
        self.decoders = workers.cores() if decoders is None else decoders
        self.device = next(encoder.parameters()).device
        self.pixels: Tensor | None = None  # of images in memory, on the device
        if isinstance(train, ImageSet) and self.augment is not None:
            self.pixels = train.images.to(self.device)
        self.labels = train.labels.to(self.device)

    @property
    def steps(self) -> int:
        return -(-len(self.train) // self.linear.batch_size)

    def epoch(self, number: int) -> Iterator[tuple[Features, Tensor]]:
        order = draws.epoch_order(self.seed, number, len(self.train))
        rows = order.split(self.linear.batch_size)
        with frozen(self.encoder, drift=self.drift):
            for index, inputs in zip(rows, self._inputs(number, rows), strict=True):
                features = encode(self.encoder, inputs, self.spec.probe.precision)
                yield features, self.labels[index.to(self.device)]

    def test(self) -> Features:
        return self.test_of(self.encoder)

    def _inputs(self, epoch: int, rows: Sequence[Tensor]) -> Iterator[Tensor]:
        """An epoch's batches as the encoder takes them."""
        if self.augment is None:
            chosen = self.train.take(torch.cat(list(rows)))
            for pixels in chosen.batches(self.linear.batch_size, self.decoders):
                yield plain(self.encoder, pixels, self.spec.normalization)
            return
        drawn = Drawn(self.augment, self.seed, epoch, rows)
        if self.pixels is not None:
            for step, index in enumerate(rows):
                pixels = self.pixels[index.to(self.device)]
                params = drawn.params(step, pixels.shape[-2:])
                yield augmented_inputs(self.spec, pixels, params)
            return
        assert isinstance(self.train, FileSet)
        cropped = _Cropped(self.train, drawn)
        with workers.loader(cropped, range(len(rows)), self.decoders) as found:
            for step, pixels in enumerate(found):
                here = pixels.to(self.device, non_blocking=True)
                yield augmented_inputs(self.spec, here, drawn.params(step))


def protocol(name: str, spec: Augment) -> Augment | None:
    """How a probe's training images are augmented: not, by crop and flip alone, or as `spec`."""
    if name == "none":
        return None
    if name == "simclr":
        return spec
    return spec.model_copy(update={"jitter": 0.0, "gray": 0.0, "blur": 0.0})


class Drawn:
    """An epoch's augmentations, drawn a batch at a time. Cheap, and alike wherever it runs."""

    def __init__(self, spec: Augment, seed: int, epoch: int, rows: Sequence[Tensor]) -> None:
        self.spec, self.seed, self.epoch, self.rows = spec, seed, epoch, rows

    def numbers(self, step: int) -> Tensor:
        """(b, 35) `augment.numbers` of a batch's images."""
        source = draws.generator(self.seed, "classifier view", self.epoch, step)
        return augment.numbers(len(self.rows[step]), source)

    def params(self, step: int, side: Sequence[int] | None = None) -> Params:
        """A batch's augmentations of images of one height and width; None: cropped already."""
        u, box = self.numbers(step), None
        if side is not None:
            height, width = side
            box = augment.boxes(u, height, width, self.spec)
        return augment.decide(u, self.spec, box)


class _Cropped(Dataset[Tensor]):
    """A batch's images from files, as workers make them: item `step` is (b, 3, S, S) uint8."""

    def __init__(self, images: FileSet, drawn: Drawn) -> None:
        self.images, self.drawn = images, drawn

    def __getitem__(self, step: int) -> Tensor:
        found = []
        for number, u in zip(self.drawn.rows[step].tolist(), self.drawn.numbers(step), strict=True):
            image = self.images.decode(number)
            height, width = image.shape[-2:]
            box = augment.boxes(u[None], height, width, self.drawn.spec)[0]
            found.append(crop(image, box, self.images.size))
        return torch.stack(found)
