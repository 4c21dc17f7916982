"""How close a training step is to its floor: the same passes on ready-made tensors."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from care_core import draws, methods
from care_core.data.base import ImageSet
from care_core.device import set_up
from care_core.distributed import ALONE
from care_core.feed import Feed
from care_core.methods import Step
from care_core.optim import build_optimizer
from care_core.spec import PretrainSpec

WARM_UP = 3  # rounds: the first passes allocate, and choose kernels


def measure(spec: PretrainSpec, repeats: int, threads: int | None = None) -> dict[str, Any]:
    """Median seconds of a whole step, of its floor, and of augmenting, taken in turns in one run.

    The whole step draws and augments all views from uint8 images in memory, encodes them, computes
    the loss, goes backward and updates. The floor is the trained encoder's forwards of as many
    ready-made views and their backward: no data, no loss, no update, no second encoder.
    """
    device = set_up(None, threads)
    size, batch = spec.image_size, spec.training.batch_size
    pixels = torch.randint(
        0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=draws.generator(0, "bench")
    )
    images = ImageSet(pixels, torch.zeros(batch, dtype=torch.int64), classes=1)
    feed = Feed(spec, images, ALONE, device)
    method = methods.build(spec, ALONE).to(device)
    optimizer = build_optimizer(spec.optimizer, method)

    def made(step: int) -> Step:
        return next(feed.steps(step, step + 1))

    ready = made(0)
    views = [*method.images(ready), *ready.pair]

    def floor(step: int) -> None:
        outputs = torch.cat([method.encoder(view) for view in views])
        optimizer.zero_grad(set_to_none=True)
        outputs.sum().backward()

    def whole(step: int) -> None:
        loss, _ = method(made(step))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        method.after_step(0.0)

    def augmenting(step: int) -> None:
        made(step)

    times = _in_turns({"step_s": whole, "floor_s": floor, "augment_s": augmenting}, repeats, device)
    found: dict[str, Any] = {key: statistics.median(values) for key, values in times.items()}
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "backbone": spec.model.backbone,
        "batch": batch,
        "views": len(views),
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
