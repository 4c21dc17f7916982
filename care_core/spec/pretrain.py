"""A pretraining run: the sections put together, and judged together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, model_validator

from care_core.spec import clouds as cloud_spec
from care_core.spec import fidelity
from care_core.spec.facts import DATASETS
from care_core.spec.launch import Launch
from care_core.spec.objectives import (
    BYOL,
    EquiMod,
    Equivariance,
    Loss,
    Method,
    MoCo,
    SimCLR,
)
from care_core.spec.probe_sections import Probe
from care_core.spec.sections import (
    DEEPSET_WIDTH,
    SMALL_WIDTH,
    Augment,
    BatchNorm,
    Checkpoint,
    Data,
    Log,
    Model,
    Monitor,
    Optimizer,
    Schedule,
    Section,
    Seed,
    Training,
)


class PretrainSpec(Section):
    """One pretraining run, and how it is to be probed."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,99}$")
    seed: Seed = 0
    fidelity: Literal["paper", "official"] = Field(
        "paper", description="preset for what the spec leaves open where the two part"
    )
    data: Data
    augment: Augment = Augment()
    model: Model = Model()
    method: Method = SimCLR()
    loss: Loss = Loss()
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

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, raw: Any) -> Any:
        return cloud_spec.expand(fidelity.expand(raw)) if isinstance(raw, dict) else raw

    @model_validator(mode="after")
    def _consistent(self) -> PretrainSpec:
        problems = [
            *self._batch_problems(),
            *self._schedule_problems(),
            *self._loss_problems(),
            *self.rank_problems(self.launch.ranks),
            *self._leak_problems(),
            *cloud_spec.problems(self),
        ]
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
        if size is not None and batch > size:
            found.append(
                f"training.batch_size: {batch} is larger than {self.data.name}, "
                f"which has {size} images to train on"
            )
        if isinstance(self.method, MoCo) and self.method.queue % batch:
            near = -(-self.method.queue // batch) * batch
            found.append(
                f"method.queue: {self.method.queue} keys are not a multiple of the batch of "
                f"{batch}, which is put in at each step; take {near}"
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
            elif batch % term.splits:
                found.append(
                    f"equivariance.splits: {term.splits} splits do not divide the batch of "
                    f"{batch}; each takes its images from its own part of it"
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

    def _loss_problems(self) -> list[str]:
        loss = self.loss
        if loss.method + loss.alignment + loss.uniformity + self.equivariance.weight > 0:
            return []
        return [
            "loss.method: 0 leaves nothing to optimise; give loss.alignment, loss.uniformity or "
            "equivariance.weight a weight, or take 1"
        ]

    def rank_problems(self, ranks: int) -> list[str]:
        """What is wrong with as many ranks: each needs as many images and splits as the others."""
        term = self.equivariance
        counts = {"training.batch_size": self.training.batch_size}
        if term.weight > 0:
            counts |= {"equivariance.batch": self.equivariance_batch}
        shared = counts if term.weight == 0 else {**counts, "equivariance.splits": term.splits}
        found = [
            f"{key}: {count} cannot be shared out to {ranks} ranks evenly; take a multiple of "
            f"{ranks}, or ranks (launch.nodes × launch.gpus) that divide it"
            for key, count in shared.items()
            if count % ranks
        ]
        return found or self._norm_problems(counts, ranks)

    def _norm_problems(self, counts: dict[str, int], ranks: int) -> list[str]:
        """Batch norm needs two images at least, and parts of one size."""
        parts, pooled = self.bn.replicas, ranks if self.bn.sync else 1
        found = []
        for key, count in counts.items():
            share = count // ranks
            if share % parts:
                found.append(
                    f"bn.replicas: {parts} parts of a rank's {share} images ({key} {count}) are "
                    "uneven; take a divisor, or 1"
                )
            elif share // parts * pooled < 2:
                found.append(
                    f"{key}: {count} leaves batch norm a single image (launch ranks "
                    f"{ranks}, bn.replicas {parts}); it needs 2, or bn.sync: true"
                )
        return found

    def _leak_problems(self) -> list[str]:
        if self.fidelity == "official":
            return []
        values, word = self.model_dump(mode="json"), fidelity.word
        setting = fidelity.setting_of(values)
        return [
            f"{choice.key}: {word(fidelity.value_of(values, choice.key))} is a leak of the "
            f"official code ({choice.instead}); take {word(choice.paper(setting))}, or "
            "fidelity: official, which marks every table made with it"
            for choice in fidelity.leaks(values)
        ]

    @property
    def image_size(self) -> int:
        """Pixels a side (of clouds points), the dataset's own unless the spec says otherwise."""
        return self.data.size

    @property
    def equivariance_batch(self) -> int:
        """How many images of the global batch feed the equivariance term."""
        return self.equivariance.batch or self.training.batch_size

    @property
    def compares(self) -> bool:
        """Whether a loss compares images with each other, so that it matters with which."""
        return self.loss.uniformity > 0 or not isinstance(self.method, MoCo | BYOL)

    @property
    def world_matters(self) -> bool:
        """Whether the computed function depends on the number of ranks, rounding apart."""
        term = self.equivariance
        return self.launch.ranks > 1 and (
            not self.bn.sync
            or self.bn.replicas > 1
            or (self.loss.negatives == "local" and self.compares)
            or self.augment.ranks == "alike"
            or (term.weight > 0 and isinstance(term.shared_by, int))
        )

    def determining(self) -> dict[str, Any]:
        """The part that determines the weights: what a run's identity is made of."""
        fields = self.model_dump(
            mode="json",
            exclude={"name", "fidelity", "log", "checkpoint", "probe", "launch", "monitor"},
        )
        # what is without effect, or said in two ways, must not make another run
        for key in self._idle():
            section, _, last = key.partition(".")
            del fields[section][last]
        fields["data"] = self.data.determining()
        if self.world_matters:
            fields["ranks"] = self.launch.ranks
        if self.loss.method == 0 and not isinstance(self.method, MoCo | EquiMod):
            fields["method"] = {"name": self.method.name}
        if self.equivariance.weight == 0:
            fields["equivariance"] = {"weight": 0.0}
        else:
            fields["equivariance"]["batch"] = self.equivariance_batch
        if self.model.backbone == "small":
            fields["model"]["width"] = self.model.width or SMALL_WIDTH
        if self.model.backbone == "deepset":
            fields["model"]["width"] = self.model.width or DEEPSET_WIDTH
        if self.model.backbone.startswith("resnet"):
            fields["model"]["stem"] = self.stem
        checked = self.monitor.train_mode or self.checkpoint.select == "best"
        if checked and self.monitor.every_epochs:
            fields["monitor"] = self.monitor.model_dump(mode="json")
            fields["select"] = self.checkpoint.select
        return fields

    def _idle(self) -> Iterator[str]:
        """The settings that have no effect beside the others."""
        alone = not self.world_matters  # ranks that do as one rank would
        ablated = self.loss.alignment + self.loss.uniformity > 0
        if alone:
            yield from ("bn.sync", "augment.ranks")
        if alone or not self.compares:
            yield "loss.negatives"
        whole = alone and self.bn.replicas == 1  # one batch norm sees all keys, in any order
        if isinstance(self.method, MoCo) and (whole or self.bn.sync):
            yield "method.shuffle_bn"
        if not ablated:
            yield "loss.form"
        if not ablated or self.loss.form == "paper":
            yield "loss.temperature"
        if self.model.projector_layers == 1:
            yield from ("model.hidden", "model.projector_norm")
        if self.optimizer.name == "adam":
            yield "optimizer.momentum"
        if self.optimizer.name != "lars":
            yield "optimizer.trust"
        if self.schedule.name != "multistep":
            yield from ("schedule.milestones", "schedule.gamma")
        if self.training.on_nan == "stop":  # then a run that ends met none
            yield "training.on_nan"
        if self.data.clouds:
            yield from (f"augment.{key}" for key in Augment.model_fields if key != "ranks")
            yield from ("model.stem", "equivariance.crop")

    @property
    def stem(self) -> Literal["cifar", "imagenet"]:
        """Of a ResNet: 3×3 without pooling for small images, or 7×7 with."""
        return self.model.stem or ("cifar" if self.image_size <= 64 else "imagenet")
