"""How close a training step is to its floor: the same passes on ready-made tensors."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from care_core import augment, draws, losses, methods
from care_core.distributed import World
from care_core.facts import DATASETS
from care_core.spec import PretrainSpec
from care_core.train import build_optimizer, set_up

WARM_UP = 3  # rounds: the first passes allocate, and choose kernels


def measure(spec: PretrainSpec, repeats: int, threads: int | None = None) -> dict[str, Any]:
    """Median seconds of a whole step, of its floor, and of augmenting, taken in turns in one run.

    The whole step draws and augments all views from uint8 images, encodes them, computes the
    loss, goes backward and updates. The floor is the forwards of as many ready-made views, the
    same loss, and the backward: no data, no augmentation, no update.
    """
    device = set_up(None, threads)
    facts, batch, term = DATASETS[spec.data.name], spec.training.batch_size, spec.equivariance
    size = spec.image_size
    pixels = torch.randint(
        0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=draws.generator(0, "bench")
    ).to(device)
    method = methods.build(spec, World()).to(device)
    optimizer = build_optimizer(spec.optimizer, method)

    def views(step: int) -> list[torch.Tensor]:
        rows = [batch, batch] + ([term.splits] * 2 if term.weight else [])
        return [
            augment.apply(
                pixels if index < 2 else pixels[: spec.equivariance_batch],
                augment.sample(count, size, size, spec.augment, draws.generator(0, step, index)),
                size=size, blur_kernel=spec.augment.blur_kernel, mean=facts.mean, std=facts.std,
            )
            for index, count in enumerate(rows)
        ]  # fmt: skip

    ready = views(0)

    def floor(step: int) -> None:
        outputs = [method.encoder(view) for view in ready]
        loss = losses.info_nce(outputs[0], outputs[1], spec.method.temperature)
        if term.weight:
            loss = loss + term.weight * losses.equivariance(outputs[2], outputs[3], term.splits)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()

    def whole(step: int) -> None:
        made = views(step)
        loss, _ = method(made[:2], made[2:])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def augmenting(step: int) -> None:
        views(step)

    times = _in_turns({"step_s": whole, "floor_s": floor, "augment_s": augmenting}, repeats, device)
    found: dict[str, Any] = {key: statistics.median(values) for key, values in times.items()}
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "backbone": spec.model.backbone,
        "batch": batch,
        "views": len(ready),
        **found,
        "step_over_floor": found["step_s"] / found["floor_s"],
        "images_per_s": batch / found["step_s"],
    }


def _in_turns(
    kinds: dict[str, Callable[[int], None]], repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each kind of work, alternating, after the warm-up."""
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for step in range(repeats + WARM_UP):
        for name, work in kinds.items():
            start = time.perf_counter()
            work(step)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if step >= WARM_UP:
                times[name].append(time.perf_counter() - start)
    return times
