"""What a spec of point clouds may not say, and what is measured of which dataset. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from care_core.spec.facts import DATASETS
from care_core.spec.objectives import EquiMod
from care_core.spec.sections import Augment, Data

if TYPE_CHECKING:
    from care_core.spec import PretrainSpec


def classless(name: object) -> bool:
    """Whether a dataset is known to have no classes, so that nothing can be classified."""
    return isinstance(name, str) and name in DATASETS and DATASETS[name].classes == 0


def expand(raw: dict[str, Any]) -> dict[str, Any]:
    """A spec's raw values; without classes there is no kNN check, unless it is asked for."""
    data, monitor = raw.get("data"), raw.get("monitor", {})
    if not (isinstance(data, dict) and classless(data.get("name")) and isinstance(monitor, dict)):
        return raw
    return {**raw, "monitor": {"every_epochs": 0, **monitor}}


def problems(spec: PretrainSpec) -> Iterator[str]:
    """What does not fit together: sets of images and of clouds, and the settings of either."""
    name, deep = spec.data.name, spec.model.backbone == "deepset"
    if spec.data.clouds and not deep:
        yield (
            f"model.backbone: {spec.model.backbone} takes images, and {name} has point clouds; "
            "take deepset"
        )
    if deep and not spec.data.clouds:
        yield f"model.backbone: deepset takes point clouds, and {name} has images"
    other = spec.probe.data
    if other is not None and other.clouds != spec.data.clouds:
        has = "point clouds" if other.clouds else "images"
        yield f"probe.data: {other.name} has {has}, which an encoder of {name} does not take"
    if spec.data.clouds:
        yield from _of_clouds(spec)


def _of_clouds(spec: PretrainSpec) -> Iterator[str]:
    if spec.fidelity == "official":
        yield "fidelity: the official code has nothing on point clouds; take paper"
        return
    if isinstance(spec.method, EquiMod):
        yield (
            "method.name: equimod reads what augmented an image, and clouds are rotated; take "
            "simclr, moco, barlow or byol"
        )
    images = Augment()
    for key in Augment.model_fields:
        if key != "ranks" and getattr(spec.augment, key) != getattr(images, key):
            yield f"augment.{key}: is of images; a cloud is rotated, uniformly, and nothing else"
    if not spec.equivariance.crop:
        yield "equivariance.crop: is of images; a cloud is never cropped"
    if spec.probe.linear.augmentation != "none":
        yield "probe.linear.augmentation: is of images; of clouds take none"
    if classless(spec.data.name) and spec.monitor.every_epochs:
        yield f"monitor.every_epochs: {spec.data.name} has no classes to check by; take 0"


def unmeasurable(data: Data, kinds: tuple[str, ...]) -> Iterator[str]:
    """Why some kinds of measurements cannot be made on a dataset."""
    for kind in kinds:
        if kind == "axis" and not data.clouds:
            yield f"kinds: axis is of point clouds, and {data.name} has images"
        if kind in ("linear", "knn") and classless(data.name):
            yield f"kinds: {kind} needs classes, and {data.name} has none"
        if kind in ("colour", "composition") and data.clouds:
            yield f"kinds: {kind} is of images, and {data.name} has point clouds"


def measurable(data: Data) -> tuple[str, ...]:
    """What is measured on a dataset where nobody says what."""
    kinds = ("linear", "knn", "geometry", *(("axis",) if data.clouds else ()))
    return tuple(kind for kind in kinds if not list(unmeasurable(data, (kind,))))
