"""The sections of a spec that say how a trained encoder is measured. Torch-free."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from care_core.spec.sections import Data, Optimizer, Positive, Schedule, Section, Seed


class LinearProbe(Section):
    """A linear classifier on frozen features."""

    epochs: int = Field(100, ge=1)
    batch_size: int = Field(512, ge=1)
    optimizer: Optimizer = Optimizer(lr=1e-3, weight_decay=1e-6)
    schedule: Schedule = Schedule()
    augmentation: Literal["none", "crop_flip", "simclr"] = Field(
        "none", description="of the training images; none: features are computed once in eval mode"
    )
    backbone: Literal["eval", "train"] = Field(
        "eval", description="mode of its batch norm; train: it drifts, fidelity: official alone"
    )
    report: Literal["last", "best"] = Field(
        "last", description="epoch of the classifier; best, on the test set: official alone"
    )
    seeds: tuple[Seed, ...] = Field((0, 1, 2), min_length=1)

    @model_validator(mode="after")
    def _length(self) -> LinearProbe:
        if self.schedule.warmup_epochs >= self.epochs and self.schedule.warmup_epochs:
            raise ValueError(
                f"schedule: {self.schedule.warmup_epochs} warm-up epochs leave nothing of "
                f"{self.epochs}"
            )
        return self


class KnnProbe(Section):
    """Votes of the k nearest training images by cosine, weighted by exp(cos / temperature)."""

    k: int = Field(200, ge=1)
    temperature: Positive = 0.5


class GeometryProbe(Section):
    """γ_f, Wahba errors and cosines over `augmentations` draws, each acting on all `images` images.

    Some of the images are also followed along paths, from no augmentation to all of it.
    """

    augmentations: int = Field(20, ge=1)
    images: int = Field(2000, ge=2)
    path_images: int = Field(32, ge=1, description="how many images are followed along the paths")
    path_steps: int = Field(20, ge=1, description="of a path, from none of an augmentation to all")


class ColourProbe(Section):
    """Neighbours under a shift of the hue, and augmentations read from pairs of embeddings."""

    images: int = Field(2000, ge=3, description="test images: each asks for neighbours among them")
    neighbours: int = Field(5, ge=1, description="as in the paper's figures")
    hue_shift: float = Field(0.2, gt=-1, lt=1, description="turns; the paper does not give its own")
    queries: int = Field(8, ge=1, description="images whose neighbours are kept as pictures")
    pairs: int = Field(
        1500,
        ge=4,
        description="of training images to fit regressions on, and of test images to read",
    )


class CompositionProbe(Section):
    """Whether rotations compose, over `pairs` pairs of augmentations of up to `images` images."""

    pairs: int = Field(8, ge=1)
    images: int = Field(
        2000, ge=2, description="training images to fit on, and test images to read"
    )


class AxisProbe(Section):
    """Of point clouds: their principal axis from an embedding, and its path as a cloud turns."""

    rotations: int = Field(100, ge=2, description="about each axis, evenly over a whole turn")
    clouds: int = Field(4, ge=1, description="whose paths are recorded")


class Probe(Section):
    """How a trained encoder is measured. Not part of the pretraining's identity."""

    data: Data | None = Field(
        None, description="transfer: the dataset to probe on; default: the one trained on"
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="of the frozen encoder's passes; features and classifiers are fp32"
    )
    folds: int = Field(
        0, ge=0, description="0: measure on the test set; n: cross-validate on the training set"
    )
    linear: LinearProbe = LinearProbe()
    knn: KnnProbe = KnnProbe()
    geometry: GeometryProbe = GeometryProbe()
    colour: ColourProbe = ColourProbe()
    composition: CompositionProbe = CompositionProbe()
    axis: AxisProbe = AxisProbe()

    @model_validator(mode="after")
    def _folds(self) -> Probe:
        if self.folds == 1:
            raise ValueError("folds: 1 leaves nothing to learn from; take 0 or at least 2")
        return self
