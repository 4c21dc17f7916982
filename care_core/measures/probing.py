"""What a trained encoder is worth: linear probe, kNN, hue, geometry, colour and composition.

The encoder is frozen and in eval mode, and nothing is augmented, unless the linear probe's protocol
says otherwise. Features that are asked for twice are computed once.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from care_core import checkpoint, data, draws, metrics, models
from care_core.data.clouds import CloudSet
from care_core.data.files import FileSet
from care_core.device import set_up
from care_core.errors import Interrupted
from care_core.files import read_json, write_json
from care_core.measures import axis, colour, composition, hue, knn, shape
from care_core.measures.augmented import Augmented
from care_core.measures.features import Features, extract
from care_core.measures.linear import Score, Source, Stored, accuracy, classify
from care_core.models import Encoder
from care_core.spec import ProbeSpec

if TYPE_CHECKING:
    from care_core.data import Images


def probe(
    spec: ProbeSpec,
    run_dir: Path,
    checkpoint_path: Path,
    *,
    data_dir: Path = Path("data"),
    device: torch.device | str | None = None,
    threads: int | None = None,
    decoders: int | None = None,
    say: Callable[[str], None] = lambda text: None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Measure a checkpoint's encoder and write result.json to the run folder.

    Args:
        spec: which measurements. With `probe.folds` > 0 they are cross-validated over the
            training images and the test set is not read.
        checkpoint_path: a file that `pretrain` saved.
        decoders: processes that decode image files; default: a core each.
        stop: asked between batches and epochs; true ends it, and nothing of it is kept.

    Returns:
        What is in result.json; accuracies in per cent.

    Raises:
        CheckpointError, DataError, StorageError, Interrupted.
    """
    result = read_json(run_dir / "result.json")
    if result:
        return dict(result)
    started = time.monotonic()
    place = set_up(device, threads)
    encoder = load_encoder(checkpoint_path, place)
    untrained = functools.partial(load_encoder, checkpoint_path, place, trained=False)
    train = data.load(spec.data, "train", data_dir, spec.image_size, say)
    progress = _Progress(run_dir, spec, stop)
    folds = (
        _Fold(spec, encoder, untrained, learn, measure, progress, decoders, say)
        for learn, measure in _splits(spec, train, data_dir, say)
    )  # one at a time: each holds its features
    result = _summary(spec, folds)
    result["seconds"] = round(time.monotonic() - started, 3)
    write_json(run_dir / "result.json", result)
    return result


def load_encoder(
    path: Path, device: torch.device | str = "cpu", *, trained: bool = True
) -> Encoder:
    """The encoder in a checkpoint, in eval mode; or without training, as its spec initialises it.

    Raises:
        CheckpointError: damaged, or not one of this engine's.
    """
    encoder, _ = models.restore(checkpoint.read(path), path, trained=trained)
    return encoder.to(device)


def _splits(
    spec: ProbeSpec, train: Images, data_dir: Path, say: Callable[[str], None]
) -> Iterator[tuple[Images, Images]]:
    """(learn from, measure on): the training set and the test set, or folds of the former."""
    folds = spec.probe.folds
    if folds == 0:
        yield train, data.load(spec.data, "test", data_dir, spec.image_size, say)
        return
    order = torch.randperm(len(train), generator=draws.generator(0, "folds"))
    for fold in range(folds):
        held = torch.zeros(len(train), dtype=torch.bool)
        held[order[fold::folds]] = True
        yield train.take((~held).nonzero()[:, 0]), train.take(held.nonzero()[:, 0])


class _Progress:
    """Says in progress.json, now and then, that the probe is alive and how far its classifiers are.

    It ends the probe where that is asked to stop. Epochs are counted over all classifier seeds and
    folds.
    """

    EVERY_S = 10.0

    def __init__(self, run_dir: Path, spec: ProbeSpec, stop: Callable[[], bool]) -> None:
        self.run_dir, self.stop, linear = run_dir, stop, spec.probe.linear
        seeds = len(linear.seeds) if "linear" in spec.kinds else 0
        self.before, self.epochs = 0, linear.epochs * seeds * max(1, spec.probe.folds)
        self.last = time.monotonic()

    def update(self, epoch: int = 0) -> None:
        """Called as often as one likes, `epoch` of the present classifier being done."""
        if self.stop():
            raise Interrupted("stopped on request; an evaluation begins again")
        if time.monotonic() < self.last + self.EVERY_S:
            return
        self.last = time.monotonic()
        done = self.before + epoch
        metrics.write_progress(
            self.run_dir, epoch=done, epochs=self.epochs, step=done, steps=self.epochs
        )


@dataclasses.dataclass
class _Fold:
    """What is measured of an encoder that learns from some images and is asked about others."""

    spec: ProbeSpec
    encoder: Encoder
    untrained: Callable[[], Encoder]
    train: Images
    test: Images
    progress: _Progress
    decoders: int | None
    say: Callable[[str], None]

    @functools.cached_property
    def train_features(self) -> Features:
        self.say(f"features of {len(self.train)} training images")
        return self._extract(self.encoder, self.train)

    @functools.cached_property
    def test_features(self) -> Features:
        self.say(f"features of {len(self.test)} images to measure on")
        return self._extract(self.encoder, self.test)

    def measure(self) -> dict[str, Any]:
        """What the spec asks for, by its name in result.json."""
        found: dict[str, Any] = {}
        if "linear" in self.spec.kinds:
            found |= self._linear()
            if self.train.hues is not None and self.test.hues is not None:
                found["hue_r2"] = self._hue_r2()
        if "knn" in self.spec.kinds:
            found["knn"] = self._knn()
        if "geometry" in self.spec.kinds:
            self.say("geometry")
            found["geometry"] = shape.measure(
                self.spec, self.encoder, self.test, self.progress.run_dir, self.decoders
            )
        if "colour" in self.spec.kinds:
            self.say("colour: neighbours, and regression from pairs of embeddings")
            found["colour"] = colour.measure(
                self.spec, self.encoder, self.train, self.test, self.progress.run_dir, self.decoders
            )
        if "composition" in self.spec.kinds:
            self.say("composition of rotations")
            found["composition"] = composition.measure(
                self.spec, self.encoder, self.untrained(), self.train, self.test,
                self.progress.run_dir, self.decoders,
            )  # fmt: skip
        if "axis" in self.spec.kinds:
            self.say("principal axes of turned clouds")
            found["axis"] = axis.measure(
                self.spec, self.encoder, self.untrained(), self.train, self.test,
                self.progress.run_dir,
            )  # fmt: skip
        return found

    def _linear(self) -> dict[str, dict[str, list[float]]]:
        """Accuracies by layer, one a classifier seed. Of the best epoch: the last one's beside."""
        linear = self.spec.probe.linear
        scores: list[dict[str, Score]] = []
        for seed in linear.seeds:
            source = self._source(seed)
            self.say(f"linear probe, seed {seed}")
            scores.append(
                classify(
                    linear, seed, source, self.test.labels, self.train.classes, self.progress.update
                )
            )
            self.progress.before += linear.epochs
        layers = Features._fields
        found = {"linear": {name: [s[name].reported for s in scores] for name in layers}}
        if linear.report == "best":
            found["linear_last"] = {name: [s[name].last for s in scores] for name in layers}
        return found

    def _source(self, seed: int) -> Source:
        linear = self.spec.probe.linear
        if linear.augmentation == "none" and linear.backbone == "eval":
            return Stored(
                self.train_features,
                self.train.labels,
                self.test_features,
                seed=seed,
                batch_size=linear.batch_size,
            )
        return Augmented(
            self.spec,
            self.encoder,
            self.train,
            self._test_features_of,
            seed=seed,
            decoders=self.decoders,
        )

    def _test_features_of(self, encoder: Encoder) -> Features:
        if encoder is self.encoder:
            return self.test_features
        return self._extract(encoder, self.test)

    def _extract(self, encoder: Encoder, images: Images) -> Features:
        return extract(
            encoder, images, self.spec.normalization, precision=self.spec.probe.precision,
            decoders=self.decoders, tick=self.progress.update,
        )  # fmt: skip

    def _knn(self) -> dict[str, float]:
        settings, found = self.spec.probe.knn, {}
        for name, bank, queries in zip(
            Features._fields, self.train_features, self.test_features, strict=True
        ):
            predicted = knn.predict(
                bank, self.train.labels, queries, k=settings.k, temperature=settings.temperature,
                classes=self.train.classes,
            )  # fmt: skip
            found[name] = accuracy(predicted.cpu(), self.test.labels)
        return found

    def _hue_r2(self) -> dict[str, float]:
        assert self.train.hues is not None and self.test.hues is not None
        return {
            name: hue.r2(x, self.train.hues, y, self.test.hues)
            for name, x, y in zip(
                Features._fields, self.train_features, self.test_features, strict=True
            )
        }


def _summary(spec: ProbeSpec, folds: Iterable[_Fold]) -> dict[str, Any]:
    """Measure fold by fold, and say of which images the means are."""
    measures: list[dict[str, Any]] = []
    images = skipped = 0
    for fold in folds:
        measures.append(fold.measure())
        images += len(fold.test)
        sets = (fold.train,) if spec.probe.folds else (fold.train, fold.test)
        skipped = sum(one.skipped for one in sets if isinstance(one, FileSet | CloudSet))
    many, origin = spec.probe.folds, spec.pretrained_on or spec.data
    return {
        "kind": "probe",
        "data": spec.data.path or spec.data.name,
        "pretrained_on": origin.path or origin.name,
        "measured_on": f"{many} folds of the training set" if many else "test",
        "images": images,
        **({"skipped": skipped} if skipped else {}),
        **({"linear_report": spec.probe.linear.report} if "linear" in spec.kinds else {}),
        **_average(measures),
    }


def _average(measures: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the folds (one, for the test set); lists stay per classifier seed."""
    first = measures[0]
    merged: dict[str, Any] = {}
    for key, value in first.items():
        parts = [measure[key] for measure in measures]
        if isinstance(value, dict):
            merged[key] = _average(parts)
        elif isinstance(value, list):
            merged[key] = [statistics.fmean(seed) for seed in zip(*parts, strict=True)]
        else:
            merged[key] = statistics.fmean(parts)
    return merged
