"""What is known of each dataset before its files are read. Torch-free, as the spec is."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypedDict

DatasetName = Literal[
    "digits", "cifar10", "cifar100", "stl10", "imagenet100", "flowers102", "folder", "chains",
    "proteins",
]  # fmt: skip


#: Sets that are somebody's own files: data.path says where they lie.
OWN = ("folder", "proteins")


class DatasetFacts(NamedTuple):
    """Numbers of images and classes are None where only the files can tell.

    What is said of images holds for point clouds, where a set has those: it has `points` of them.
    """

    image_size: int
    classes: int | None
    pretrain_images: int | None
    probe_images: int | None
    test_images: int | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    files: bool = False  #: an image a file, decoded when it is needed; else all lie in memory
    points: int = 0  #: of a cloud, unless a spec says otherwise; 0: the set has images


class _Moments(TypedDict):
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


_CLOUDS: _Moments = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
_IMAGENET: _Moments = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}

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
    "imagenet100": DatasetFacts(
        image_size=224, classes=100, pretrain_images=126689, probe_images=126689, test_images=5000,
        files=True, **_IMAGENET,
    ),
    "flowers102": DatasetFacts(
        image_size=224, classes=102, pretrain_images=2040, probe_images=2040, test_images=6149,
        files=True, **_IMAGENET,
    ),
    "folder": DatasetFacts(
        image_size=224, classes=None, pretrain_images=None, probe_images=None, test_images=None,
        files=True, **_IMAGENET,
    ),
    "chains": DatasetFacts(
        image_size=0, classes=5, pretrain_images=4096, probe_images=4096, test_images=1024,
        points=64, **_CLOUDS,
    ),
    "proteins": DatasetFacts(  # classes: none
        image_size=0, classes=0, pretrain_images=None, probe_images=None, test_images=None,
        points=64, **_CLOUDS,
    ),
}  # fmt: skip
