"""What an official checkpoint says of its run, as a spec and a checkpoint of this engine."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from care_core.interchange.official import Official
from care_core.spec import PretrainSpec


def spec_of(found: Official, name: str, dataset: str) -> tuple[PretrainSpec, list[str]]:
    """The run as a spec, and the sections whose flags this engine could not take over.

    `fidelity` is official, since so it was trained. The probe is set to what is correct all the
    same (eval mode, the last epoch of the classifier): the official protocol must be asked for.
    """
    kept: dict[str, Any] = {
        "name": name,
        "fidelity": "official",
        "data": {"name": dataset, "image_size": found.image_size},
        "model": found.model.model_dump(),
        "checkpoint": {"select": "best" if found.best else "last"},
    }
    refused = []
    for section, values in (_cifar if found.kind == "cifar" else _imagenet)(found).items():
        try:
            PretrainSpec.model_validate({**kept, section: values})
            kept[section] = values
        except ValidationError:
            refused.append(section)
    return PretrainSpec.model_validate(kept), refused


def state_of(found: Official, spec: PretrainSpec) -> dict[str, Any]:
    """What `care_core.checkpoint` reads as a checkpoint. It can be probed, not trained further."""
    return {
        "model": found.weights,
        "spec": spec.model_dump_json(),
        "origin": {
            "file": found.file,
            "sha256": found.sha256,
            "layout": found.kind,
            "epoch": found.epoch,
            "settings": found.settings,
        },
    }


def _cifar(found: Official) -> dict[str, Any]:
    """Sections from the flags of a CIFAR or STL run, as far as the file has them."""
    flags = found.settings

    def named(**names: str) -> dict[str, Any]:
        return {ours: flags[theirs] for ours, theirs in names.items() if theirs in flags}

    temperature = named(temperature="temperature")
    losses: dict[str, dict[str, Any]] = {
        "infonce": {},
        "alignment": {"method": 0.0, "alignment": 1.0, **temperature},
        "uniformity": {"method": 0.0, "uniformity": 1.0, **temperature},
    }
    care = not flags.get("train_simclr", True)
    optimizer = named(name="optimizer", lr="lr", weight_decay="weight_decay")
    if "name" in optimizer:
        optimizer["name"] = str(optimizer["name"]).lower()
    schedule = named(name="lr_schedule_type")
    if schedule.get("name") == "cosine":
        schedule |= named(warmup_epochs="warmup_epochs")
    claims = {
        **named(seed="seed"),
        "training": named(epochs="epochs", batch_size="batch_size"),
        "method": temperature,
        "loss": losses.get(str(flags.get("loss_subtype", "infonce")), {"method": 0.0}),
        "equivariance": named(weight="weight", splits="equiv_splits") if care else {},
        "optimizer": optimizer,
        "schedule": schedule if schedule.get("name") else {},
        "probe": {"linear": {"backbone": "eval", "augmentation": "none", "report": "last"}},
    }
    return {section: values for section, values in claims.items() if values != {}}


def _imagenet(found: Official) -> dict[str, Any]:
    """What the official ImageNet100 scripts set; their files have no flags."""
    method: dict[str, Any] = {"name": "simclr", "temperature": 0.2}
    if found.queue:
        method = {"name": "moco", "temperature": 0.2, "momentum": 0.99, "queue": found.queue}
    return {
        "training": {"epochs": found.epoch or 200, "batch_size": 256},
        "augment": {"crop_scale": [0.2, 1.0], "blur_kernel": 5},
        "method": method,
        "optimizer": {"name": "sgd", "lr": 0.4, "momentum": 0.9, "weight_decay": 1e-4},
        "schedule": {"name": "cosine"},
        "monitor": {"k": 20},
        "probe": {
            "linear": {
                "epochs": 60,
                "batch_size": 128,
                "optimizer": {"name": "sgd", "lr": 30.0, "momentum": 0.9},
                "schedule": {"name": "multistep", "milestones": [30, 40, 50]},
                "backbone": "eval",
                "augmentation": "crop_flip",
                "report": "last",
            },
            "knn": {"k": 20},
        },
    }
