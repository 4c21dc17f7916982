"""The sections of a spec: each setting once, with its unit and range. Torch-free.

What is optimised has its sections in `objectives`. What settings mean together is judged in
`pretrain` and `probe`; which of them the fidelity presets choose is said in `fidelity`.
"""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from care_core.spec import timm_names
from care_core.spec.facts import DATASETS, OWN, DatasetName

#: Channels of the small backbone's first stage, unless a spec says otherwise.
SMALL_WIDTH = 24

#: Units of a DeepSet's layers, unless a spec says otherwise.
DEEPSET_WIDTH = 64

#: The backbones that are known by a name of their own; timm/NAME is any model of timm.
BACKBONES = ("small", "resnet18", "resnet34", "resnet50", "deepset")

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Channels = tuple[Finite, Finite, Finite]


class Section(BaseModel):
    """A part of a spec: unknown keys are refused, values are not coerced from strings."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Section):
    """Which images, or point clouds.

    `folder` is any folder with train/ and test/ (or val/) of class folders, `proteins` any folder
    of PDB or mmCIF files.
    """

    name: DatasetName
    image_size: int | None = Field(None, ge=8, le=512, description="pixels; default: the set's own")
    path: str | None = Field(
        None,
        description="folder and proteins: where they lie, from the data folder unless absolute",
    )
    points: int | None = Field(
        None, ge=4, le=4096, description="of clouds: points along each chain; default 64"
    )
    mean: Channels | None = Field(None, description="of [0, 1] intensities; default: the set's own")
    std: Channels | None = Field(None, description="as mean")
    unreadable: Literal["error", "skip"] = Field(
        "error", description="files that cannot be decoded: stop, or leave out and count"
    )

    @model_validator(mode="after")
    def _path(self) -> Data:
        if (self.name in OWN) != (self.path is not None):
            raise ValueError(
                f"path: the {self.name} dataset needs one"
                if self.path is None
                else f"path: only the {' or '.join(OWN)} dataset has one; {self.name} "
                + ("is generated" if self.clouds else "lies in the data folder")
            )
        of_images = (("image_size", self.image_size), ("mean", self.mean), ("std", self.std))
        for key, value in of_images if self.clouds else (("points", self.points),):
            if value is not None:
                has = "point clouds" if self.clouds else "images"
                raise ValueError(f"{key}: {self.name} has {has}, which have none")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError("std: must be above 0 in each channel")
        return self

    @property
    def clouds(self) -> bool:
        """Whether its items are point clouds, and not images."""
        return DATASETS[self.name].points > 0

    @property
    def size(self) -> int:
        """Pixels a side, of clouds points; the dataset's own unless the spec says otherwise."""
        facts = DATASETS[self.name]
        return (self.points or facts.points) if self.clouds else self.image_size or facts.image_size

    def of_size(self, size: int) -> Data:
        """The same with images of so many pixels, or clouds of so many points."""
        return self.model_copy(update={"points" if self.clouds else "image_size": size})

    def determining(self) -> dict[str, Any]:
        """What of it determines a result, beside the content of its files."""
        if self.clouds:
            return {"name": self.name, "points": self.size}
        normalization = [list(part) for part in self.normalization]
        return {"name": self.name, "image_size": self.size, "normalization": normalization}

    @property
    def normalization(self) -> tuple[Channels, Channels]:
        """Mean and standard deviation a channel, of [0, 1] intensities."""
        facts = DATASETS[self.name]
        return self.mean or facts.mean, self.std or facts.std


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
    ranks: Literal["independent", "alike"] = Field(
        "independent", description="alike: every rank draws what rank 0 draws (official ImageNet)"
    )

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

    backbone: str = Field("resnet50", description=f"{', '.join(BACKBONES)}, or timm/NAME")
    stem: Literal["cifar", "imagenet"] | None = Field(
        None, description="of a ResNet; default: cifar up to 64 pixels, imagenet above"
    )
    width: int | None = Field(
        None, ge=4, le=512,
        description="small: channels of its first stage, default 24; deepset: units, default 64",
    )  # fmt: skip
    hidden: int = Field(512, ge=1, description="units of the projector's hidden layers")
    embedding: int = Field(128, ge=2, description="d, the dimension of the sphere's space")
    projector_layers: int = Field(2, ge=1, le=6, description="linear layers of the projector")
    projector_norm: bool = Field(
        True, description="batch norm after each hidden layer, which then has no bias"
    )

    @field_validator("backbone")
    @classmethod
    def _known(cls, name: str) -> str:
        if name in BACKBONES:
            return name
        if re.fullmatch(r"timm/[A-Za-z0-9_.]+", name):
            return timm_names.known(name)
        near = difflib.get_close_matches(name, BACKBONES, 1)
        hint = f", did you mean {near[0]}?" if near else ""
        raise ValueError(f"'{name}' is not one of {', '.join(BACKBONES)}, timm/NAME{hint}")

    @model_validator(mode="after")
    def _only(self) -> Model:
        if self.width is not None and self.backbone not in ("small", "deepset"):
            raise ValueError(
                f"width: only the small backbone and deepset have one; {self.backbone} is fixed"
            )
        if self.stem is not None and not self.backbone.startswith("resnet"):
            raise ValueError(f"stem: only ResNets have the choice; {self.backbone} has its own")
        return self


class BatchNorm(Section):
    """Over which images batch norm takes its statistics."""

    views: Literal["separate", "together"] = Field(
        "separate", description="each view by itself (as separate forwards do), or pooled"
    )
    sync: bool = Field(False, description="over all ranks; false: each rank its own")
    replicas: int = Field(
        1, ge=1, description="parts of a rank's batch with statistics of their own (DataParallel)"
    )


class Optimizer(Section):
    """Adam or SGD, as torch defines them, or timm's LARS; `momentum` is SGD's and LARS's."""

    name: Literal["adam", "sgd", "lars"] = "adam"
    lr: Positive = 1e-3
    weight_decay: NonNegative = 0.0
    momentum: float = Field(0.0, ge=0, lt=1)
    trust: Positive = Field(
        1e-3, description="LARS's η; biases and norms are neither adapted nor decayed"
    )


class Schedule(Section):
    """Learning rate over epochs: linear warm-up, then constant, half a cosine to 0, or steps."""

    name: Literal["constant", "cosine", "multistep"] = "constant"
    warmup_epochs: int = Field(0, ge=0)
    milestones: tuple[Annotated[int, Field(ge=0)], ...] = ()
    gamma: float = Field(0.1, gt=0, le=1, description="factor at each milestone")

    @model_validator(mode="after")
    def _milestones(self) -> Schedule:
        if self.name == "multistep" and not self.milestones:
            raise ValueError("milestones: a multistep schedule needs at least one epoch")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError("milestones: must be rising, each epoch once")
        return self


class Training(Section):
    """Length, batch and precision. `batch_size` is global: images a step over all ranks."""

    epochs: int = Field(400, ge=1)
    batch_size: int = Field(256, ge=2)
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="of the networks' passes, by autocast; losses and weights are fp32"
    )
    on_nan: Literal["stop", "skip"] = Field(
        "stop", description="at a loss or gradient that is not finite: end, or leave the update out"
    )


class Monitor(Section):
    """The kNN check while training. It splits the *training* images: the test set is not read."""

    every_epochs: int = Field(10, ge=0, description="0: never")
    k: int = Field(200, ge=1)
    temperature: Positive = 0.5
    images: Literal["held_out", "test"] = Field(
        "held_out", description="test: a leak; fidelity: official alone"
    )
    train_mode: bool = Field(
        False, description="statistics of batch norm drift on them: a leak; official alone"
    )


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
    select: Literal["last", "best"] = Field(
        "last", description="what is probed; best, by the kNN check: fidelity: official alone"
    )
