"""The engine's contract: what determines a pretraining run and its evaluation.

Torch-free on purpose, so that a command line can validate a spec in milliseconds. Each setting
lives here once, with its unit and range; unknown keys are errors.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from care_core.facts import DATASETS, DatasetName
from care_core.launch import Launch

#: Raised whenever a computed function changes, so that old results are not taken for new ones.
NUMERICS = 1

#: Channels of the small backbone's first stage, unless a spec says otherwise.
SMALL_WIDTH = 24

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Section(BaseModel):
    """A part of a spec: unknown keys are refused, values are not coerced from strings."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Section):
    """Which images are trained on. Their size is given in pixels."""

    name: DatasetName
    image_size: int | None = Field(None, ge=8, le=512, description="pixels; default: the set's own")


class Augment(Section):
    """The distribution of augmentations (paper appendix: SimCLR's, at 32 pixels)."""

    crop_scale: tuple[Positive, Positive] = (0.08, 1.0)
    crop_ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    flip: Probability = 0.5
    jitter: Probability = 0.8
    brightness: NonNegative = 0.4
    contrast: NonNegative = 0.4
    saturation: NonNegative = 0.4
    hue: float = Field(0.1, ge=0, le=0.5)
    gray: Probability = 0.2
    blur: Probability = 0.5
    blur_kernel: int = Field(3, ge=1, description="pixels, odd")
    blur_sigma: tuple[Positive, Positive] = (0.1, 2.0)

    @model_validator(mode="after")
    def _ranges(self) -> Augment:
        for key in ("crop_scale", "crop_ratio", "blur_sigma"):
            low, high = getattr(self, key)
            if low > high:
                raise ValueError(f"{key}: the lower end {low} is above the upper end {high}")
        if self.crop_scale[1] > 1:
            raise ValueError(
                f"crop_scale: a crop cannot exceed the image ({self.crop_scale[1]} > 1)"
            )
        if self.blur_kernel % 2 == 0:
            raise ValueError(f"blur_kernel: must be odd, not {self.blur_kernel}")
        return self


class Model(Section):
    """Backbone and projector. The probe reads the backbone, the losses the projection."""

    backbone: Literal["resnet18", "resnet34", "resnet50", "small"] = "resnet50"
    width: int | None = Field(
        None, ge=4, le=512, description="channels of the small backbone's first stage; default 24"
    )
    hidden: int = Field(512, ge=1, description="units of the projector's hidden layer")
    embedding: int = Field(128, ge=2, description="d, the dimension of the sphere's space")

    @model_validator(mode="after")
    def _width(self) -> Model:
        if self.width is not None and self.backbone != "small":
            raise ValueError(f"width: only the small backbone has one; {self.backbone} is fixed")
        return self


class Method(Section):
    """The invariant method that the equivariance term is added to."""

    name: Literal["simclr"] = "simclr"
    temperature: Positive = 0.5


class Equivariance(Section):
    """CARE's term: one pair of augmentations a split (paper, Algorithm 1). Weight 0: left out."""

    weight: NonNegative = 0.0
    splits: int = Field(
        16, ge=1, description="pairs of augmentations a step, over the global batch"
    )
    batch: int | None = Field(
        None, ge=1, description="images of the global batch that feed the term; default: all"
    )


class BatchNorm(Section):
    """Statistics per view (as separate forwards give, the official code's function) or pooled."""

    views: Literal["separate", "together"] = "separate"


class Optimizer(Section):
    """Adam or SGD, as torch defines them; `momentum` is SGD's."""

    name: Literal["adam", "sgd"] = "adam"
    lr: Positive = 1e-3
    weight_decay: NonNegative = 0.0
    momentum: float = Field(0.0, ge=0, lt=1)


class Schedule(Section):
    """Learning rate over epochs: linear warm-up, then constant, half a cosine to 0, or steps."""

    name: Literal["constant", "cosine", "multistep"] = "constant"
    warmup_epochs: int = Field(0, ge=0)
    milestones: tuple[int, ...] = ()
    gamma: float = Field(0.1, gt=0, le=1, description="factor at each milestone")

    @model_validator(mode="after")
    def _milestones(self) -> Schedule:
        if self.name == "multistep" and not self.milestones:
            raise ValueError("milestones: a multistep schedule needs at least one epoch")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError("milestones: must be rising, each epoch once")
        return self


class Training(Section):
    """Length and batch. `batch_size` is global: images a step over all ranks."""

    epochs: int = Field(400, ge=1)
    batch_size: int = Field(256, ge=2)


class Monitor(Section):
    """The kNN check while training. It splits the *training* images: the test set is never read."""

    every_epochs: int = Field(10, ge=0, description="0: never")
    k: int = Field(200, ge=1)
    temperature: Positive = 0.5


class Log(Section):
    """How often the loss terms are written down; costs one synchronisation with the device."""

    every_steps: int = Field(10, ge=1, description="steps between two rows of a curve")


class Checkpoint(Section):
    """When to save and what to keep. The newest two are always kept, one to fall back to."""

    every_epochs: int = Field(1, ge=1)
    every_minutes: Positive | None = None
    keep: Literal["last", "all"] | Annotated[int, Field(ge=1)] = Field(
        "last", description="last | all | N: also every Nth epoch"
    )


class LinearProbe(Section):
    """A linear classifier on frozen features, taken once in eval mode without augmentation."""

    epochs: int = Field(100, ge=1)
    batch_size: int = Field(512, ge=1)
    optimizer: Optimizer = Optimizer(lr=1e-3, weight_decay=1e-6)
    seeds: tuple[Seed, ...] = Field((0, 1, 2), min_length=1)


class KnnProbe(Section):
    """Votes of the k nearest training images by cosine, weighted by exp(cos / temperature)."""

    k: int = Field(200, ge=1)
    temperature: Positive = 0.5


class GeometryProbe(Section):
    """γ_f and the Wahba error over `augmentations` draws, each acting on all `images` images."""

    augmentations: int = Field(20, ge=1)
    images: int = Field(2000, ge=2)


class Probe(Section):
    """How a trained encoder is measured. Not part of the pretraining's identity."""

    folds: int = Field(
        0, ge=0, description="0: measure on the test set; n: cross-validate on the training set"
    )
    linear: LinearProbe = LinearProbe()
    knn: KnnProbe = KnnProbe()
    geometry: GeometryProbe = GeometryProbe()

    @model_validator(mode="after")
    def _folds(self) -> Probe:
        if self.folds == 1:
            raise ValueError("folds: 1 leaves nothing to learn from; take 0 or at least 2")
        return self


class PretrainSpec(Section):
    """One pretraining run, and how it is to be probed."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,99}$")
    seed: Seed = 0
    data: Data
    augment: Augment = Augment()
    model: Model = Model()
    method: Method = Method()
    equivariance: Equivariance = Equivariance()
    bn: BatchNorm = BatchNorm()
    optimizer: Optimizer = Optimizer(weight_decay=1e-6)
    schedule: Schedule = Schedule()
    training: Training = Training()
    monitor: Monitor = Monitor()
    log: Log = Log()
    checkpoint: Checkpoint = Checkpoint()
    probe: Probe = Probe()
    launch: Launch = Launch()

    @model_validator(mode="after")
    def _consistent(self) -> PretrainSpec:
        problems = [*self._batch_problems(), *self._schedule_problems(), *self._rank_problems()]
        if ".." in self.name:
            problems.append("name: may not contain '..'")
        if self.augment.blur_kernel // 2 >= self.image_size:
            problems.append(
                f"augment.blur_kernel: {self.augment.blur_kernel} is too large for images of "
                f"{self.image_size} pixels"
            )
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _batch_problems(self) -> list[str]:
        batch, term = self.training.batch_size, self.equivariance
        size = DATASETS[self.data.name].pretrain_images
        found = []
        if batch > size:
            found.append(
                f"training.batch_size: {batch} is larger than {self.data.name}, "
                f"which has {size} images to train on"
            )
        if term.weight > 0:
            fed = term.batch or batch
            if fed > batch:
                found.append(
                    f"equivariance.batch: {fed} is larger than training.batch_size {batch}"
                )
            if fed % term.splits:
                found.append(
                    f"equivariance.splits: {term.splits} splits do not divide the {fed} images "
                    "that feed the term"
                )
            elif fed // term.splits < 2:
                found.append(
                    f"equivariance.splits: {term.splits} splits of {fed} images leave one image "
                    "a split; the term compares pairs, so a split needs at least 2"
                )
        return found

    def _schedule_problems(self) -> list[str]:
        epochs, plan = self.training.epochs, self.schedule
        found = []
        if plan.warmup_epochs >= epochs and plan.warmup_epochs:
            found.append(
                f"schedule.warmup_epochs: {plan.warmup_epochs} leaves nothing of {epochs} epochs"
            )
        if plan.name == "multistep" and plan.milestones[-1] >= epochs:
            found.append(
                f"schedule.milestones: epoch {plan.milestones[-1]} is past the last of {epochs}"
            )
        return found

    def _rank_problems(self) -> list[str]:
        """Every rank needs as many images and whole splits as every other."""
        ranks, term = self.launch.ranks, self.equivariance
        counts = {"training.batch_size": self.training.batch_size}
        if term.weight > 0:
            counts |= {
                "equivariance.splits": term.splits,
                "equivariance.batch": term.batch or ranks,
            }
        return [
            f"{key}: {count} cannot be shared out to {ranks} ranks "
            f"(launch.nodes {self.launch.nodes} × launch.gpus {self.launch.gpus})"
            for key, count in counts.items()
            if count % ranks
        ]

    @property
    def image_size(self) -> int:
        """Pixels a side, the dataset's own unless the spec says otherwise."""
        return self.data.image_size or DATASETS[self.data.name].image_size

    @property
    def equivariance_batch(self) -> int:
        """How many images of the global batch feed the equivariance term."""
        return self.equivariance.batch or self.training.batch_size

    def determining(self) -> dict[str, Any]:
        """The part that determines the weights: what a run's identity is made of."""
        fields = self.model_dump(
            mode="json", exclude={"name", "log", "checkpoint", "probe", "launch", "monitor"}
        )
        fields["data"]["image_size"] = self.image_size
        if self.launch.ranks > 1:  # batch-norm statistics are a rank's own
            fields["ranks"] = self.launch.ranks
        # what is without effect, or said in two ways, must not make another run
        if self.equivariance.weight == 0:
            fields["equivariance"] = {"weight": 0.0}
        else:
            fields["equivariance"]["batch"] = self.equivariance_batch
        if self.model.backbone == "small":
            fields["model"]["width"] = self.model.width or SMALL_WIDTH
        if self.optimizer.name == "adam":
            del fields["optimizer"]["momentum"]
        if self.schedule.name != "multistep":
            del fields["schedule"]["milestones"], fields["schedule"]["gamma"]
        return fields


class ProbeSpec(Section):
    """One evaluation: which encoder, of which epoch, measured how."""

    name: str
    source: str = Field(
        description="sha256 of the pretrain run's identity, or of a checkpoint file"
    )
    epoch: int | None = Field(None, ge=0, description="default: the last")
    kinds: tuple[Literal["linear", "knn", "geometry"], ...] = ("linear", "knn", "geometry")
    data: Data
    augment: Augment
    probe: Probe
