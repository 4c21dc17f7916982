"""What is known of each dataset before its files are read. Torch-free, as the spec is."""

from __future__ import annotations

from typing import Literal, NamedTuple

DatasetName = Literal["digits", "cifar10", "cifar100", "stl10"]


class DatasetFacts(NamedTuple):
    """What is known of a dataset before its files are read."""

    image_size: int
    classes: int
    pretrain_images: int
    probe_images: int
    test_images: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


DATASETS: dict[str, DatasetFacts] = {
    "digits": DatasetFacts(
        image_size=16, classes=10, pretrain_images=1437, probe_images=1437, test_images=360,
        mean=(0.25, 0.25, 0.25), std=(0.3, 0.3, 0.3),  # round numbers, as good as the set's own
    ),
    "cifar10": DatasetFacts(
        image_size=32, classes=10, pretrain_images=50000, probe_images=50000, test_images=10000,
        mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010),
    ),
    "cifar100": DatasetFacts(
        image_size=32, classes=100, pretrain_images=50000, probe_images=50000, test_images=10000,
        mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761),
    ),
    "stl10": DatasetFacts(
        image_size=32, classes=10, pretrain_images=105000, probe_images=5000, test_images=8000,
        mean=(0.4406, 0.4273, 0.3858), std=(0.2312, 0.2265, 0.2237),
    ),
}  # fmt: skip
