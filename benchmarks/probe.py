"""How long CIFAR10's probe takes: extraction, 100 epochs of the linear probe, and kNN.

Command: python benchmarks/probe.py [--epochs N] [--threads N] [--device NAME]. It prints, it
decides nothing. The features are made up, of CIFAR10's and ResNet-18's sizes: 50,000 images to
learn from and 10,000 to be read on, 512 numbers of the backbone and 128 of the projection.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from care_core.data.base import ImageSet
from care_core.device import set_up
from care_core.measures import knn
from care_core.measures.features import Features, extract
from care_core.measures.linear import Stored, classify
from care_core.models import Encoder
from care_core.spec import Data, LinearProbe, Model

TRAIN, TEST, CLASSES = 50_000, 10_000, 10


def features(count: int, device: torch.device, seed: int) -> tuple[Features, Tensor]:
    """Clouds, a class each, that overlap so much that a classifier has something to do."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    centres = torch.randn(CLASSES, 512, generator=torch.Generator().manual_seed(7))
    cloud = torch.relu(0.15 * centres[labels] + torch.randn(count, 512, generator=generator))
    sphere = F.normalize(cloud[:, :128] - cloud[:, :128].mean(dim=0), dim=1)
    return Features(cloud.to(device), sphere.contiguous().to(device)), labels


def seconds(work: Callable[[], object], device: torch.device, repeats: int = 1) -> float:
    """The median wall-clock time, the device's work included."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def linear(device: torch.device, epochs: int) -> None:
    """One classifier seed, both layers: the protocol's batch 512 and Adam."""
    (known, labels), (asked, truth) = features(TRAIN, device, 0), features(TEST, device, 1)
    spec = LinearProbe(epochs=epochs)

    def train(spec: LinearProbe) -> dict[str, float]:
        source = Stored(known, labels, asked, seed=0, batch_size=spec.batch_size)
        scores = classify(spec, 0, source, truth, CLASSES)
        return {name: round(score.reported, 2) for name, score in scores.items()}

    train(LinearProbe(epochs=1))
    start = time.perf_counter()
    found = train(spec)
    taken = time.perf_counter() - start
    steps = epochs * -(-TRAIN // spec.batch_size)
    print(
        f"linear probe, a seed: {100 * taken / epochs:.1f} s for 100 epochs ({epochs} measured), "
        f"{1e3 * taken / steps:.2f} ms a step; {found}"
    )
    for name, bank, queries in zip(Features._fields, known, asked, strict=True):

        def predict(bank: Tensor = bank, queries: Tensor = queries) -> Tensor:
            return knn.predict(bank, labels, queries, k=200, temperature=0.5, classes=CLASSES)

        print(f"kNN, {name}: {seconds(predict, device):.2f} s")


def extraction(device: torch.device, count: int) -> None:
    """ResNet-18 with the CIFAR stem, untrained."""
    torch.manual_seed(0)
    encoder = Encoder(Model(backbone="resnet18")).to(device, memory_format=torch.channels_last)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    images = ImageSet(pixels, torch.zeros(count, dtype=torch.long), 1)
    normalization = Data(name="cifar10").normalization

    for precision in ("fp32", "bf16"):

        def run(precision: str = precision) -> Features:
            return extract(encoder, images, normalization, precision=precision)

        run()
        print(f"features, {precision}: {count / seconds(run, device, 3):.0f} images/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--images", type=int, help="to extract; default: 1024, 50000 on a GPU")
    asked = parser.parse_args()
    device = set_up(asked.device, asked.threads)
    extraction(device, asked.images or (1024 if device.type == "cpu" else TRAIN))
    linear(device, asked.epochs)


if __name__ == "__main__":
    main()
