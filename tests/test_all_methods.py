"""Every method learns: its recipe on digits, made quick, against encoders that were not trained.

The digits are easy: with all 1,437 labels a classifier does well on random features too. So it is
given ten labelled images a class, and is trained to its end, which helps random features most.
Settings were chosen on folds of the training images with other seeds; the test images, read here,
chose nothing.
"""

from __future__ import annotations

import functools
import statistics
from pathlib import Path

import pytest
import torch

from care_core import data, models, pretrain
from care_core.data.base import ImageSet
from care_core.measures import probing
from care_core.measures.features import Features, extract
from care_core.measures.linear import Stored, classify
from care_core.models import Encoder
from care_core.spec import LinearProbe, Optimizer, PretrainSpec
from carectl import specs

METHODS = (
    "simclr", "care-simclr", "moco", "care-moco", "barlow", "care-barlow", "byol",
    "equimod-simclr", "equimod-byol",
)  # fmt: skip

#: Those that are trained whenever the suite runs; the others by `make test-long`.
USUAL = ("care-simclr", "moco")

#: The same for all: less to compute, and views that are alike in shape but not in tint.
QUICK = (
    "data.image_size=8", "model.width=16", "training.epochs=10", "monitor.every_epochs=0",
    "checkpoint.every_epochs=10", "augment.crop_scale=[0.6, 1.0]", "augment.jitter=1.0",
    "augment.hue=0.5", "augment.blur=0.0",
)  # fmt: skip

SEEDS = (0, 1, 2)
UNTRAINED = tuple(range(8))
A_CLASS = 10
#: Disjoint ones: with one alone, which ten it holds is half of the spread over encoders.
LABEL_SETS = 8
PROBE = LinearProbe(epochs=200, optimizer=Optimizer(lr=0.1, weight_decay=1e-6), seeds=(0,))


def quick(method: str, seed: int) -> PretrainSpec:
    return specs.load(specs.find(f"digits/{method}"), [*QUICK, f"seed={seed}"])


@functools.cache
def digits(split: str) -> ImageSet:
    found = data.load(quick("simclr", 0).data, split, Path("data"))  # type: ignore[arg-type]
    assert isinstance(found, ImageSet)
    return found


def accuracy(encoder: Encoder, spec: PretrainSpec) -> float:
    """Per cent of test images, by linear classifiers of the backbone: a mean over label sets."""
    known, asked = digits("train"), digits("test")
    x, y = (extract(encoder, part, spec.data.normalization) for part in (known, asked))
    places = [(known.labels == label).nonzero()[:, 0] for label in range(known.classes)]
    found = []
    for start in range(0, LABEL_SETS * A_CLASS, A_CLASS):
        few = torch.cat([rows[start : start + A_CLASS] for rows in places])
        source = Stored(
            Features(*(layer[few] for layer in x)), known.labels[few], y,
            seed=0, batch_size=PROBE.batch_size,
        )  # fmt: skip
        scores = classify(PROBE, 0, source, asked.labels, known.classes)
        found.append(scores["backbone"].last)
    return statistics.fmean(found)


@pytest.fixture(scope="module")
def untrained() -> list[float]:
    """Accuracies of encoders as they are initialised: one backbone, whatever the method."""
    torch.set_num_threads(1)
    made = [quick("simclr", seed) for seed in UNTRAINED]
    return [accuracy(models.build(spec).eval(), spec) for spec in made]


@pytest.mark.parametrize(
    "method",
    [m if m in USUAL else pytest.param(m, marks=pytest.mark.long) for m in METHODS],
)
def test_a_method_beats_untrained_encoders_by_five_standard_deviations(
    method: str, untrained: list[float], tmp_path: Path
) -> None:
    trained = []
    for seed in SEEDS:
        spec, folder = quick(method, seed), tmp_path / str(seed)
        result = pretrain(spec, folder, threads=1)
        encoder = probing.load_encoder(folder / "checkpoints" / result["checkpoint"])
        trained.append(accuracy(encoder, spec))
    gain = statistics.fmean(trained) - statistics.fmean(untrained)
    deviation = max(statistics.stdev(trained), statistics.stdev(untrained))
    print(f"{method}: {trained} against {untrained}: {gain / deviation:.1f} sd")
    assert gain > 5 * deviation, f"{trained} against {untrained}"
