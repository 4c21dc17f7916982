"""The engine's step as training takes it, on images made up for it, and its phases."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from care_core import draws, methods
from care_core.bench.turns import wait_for
from care_core.data.base import ImageSet
from care_core.data.clouds import CloudSet
from care_core.data.files import FileSet
from care_core.distributed import ALONE, World
from care_core.files import write_json
from care_core.methods import Step
from care_core.metrics import MetricsLog
from care_core.optim import learning_rate
from care_core.spec import PretrainSpec
from care_core.spec.facts import DATASETS
from care_core.stepping import Stepper
from care_core.views.clouds import feed_of

PHASES = ("augment", "forward", "loss", "backward", "update")

_ENDLESS = 2**40  # steps
_MEMORY = 2**27  # bytes that made-up images may take
_FILES = 32  # different image files; the set names them again and again


class Engine:
    """What a training run holds, without its checkpoints: `step` is one pass of its loop."""

    def __init__(
        self, spec: PretrainSpec, device: torch.device, folder: Path, world: World = ALONE
    ) -> None:
        self.spec, self.device, self.folder = spec, device, folder
        self.feed = feed_of(spec, made_up(spec, folder), world, device)
        self.stepper = Stepper(spec, methods.build(spec, world).to(device), world, device)
        self.stream: Iterator[Step] = self.feed.steps(0, _ENDLESS)
        self.log = MetricsLog(folder, -1)
        self.terms: dict[str, Tensor] = {}
        self.done = 0

    def step(self) -> None:
        """Draw and augment, encode, lose, go backward, update."""
        images = next(self.stream)
        optimizer = self.spec.optimizer
        rate = learning_rate(
            self.spec.schedule, optimizer.lr, images.number / self.feed.planner.per_epoch,
            self.spec.training.epochs,
        )  # fmt: skip
        self.terms = self.stepper.update(images, rate, 0.0)
        self.done += 1

    def record(self) -> None:
        """Read the terms off the device and write them down, as is done every so many steps."""
        values = self.stepper.world.mean(torch.stack(list(self.terms.values()))).tolist()
        found = dict(zip(self.terms, values, strict=True))
        self.log.append(self.done, found)
        write_json(self.folder / "progress.json", {"metrics": found}, durable=False)

    def phases(self) -> dict[str, float]:
        """Seconds of each of PHASES in one step, the device waited for between them.

        An update that is recorded is launched for it, which takes longer. `forward` is what passes
        through networks, `loss` all else of the method's forward.
        """
        at: dict[str, float] = {}
        method, through = self.stepper.method, self.stepper.method.through
        inside = 0.0

        def mark(name: str) -> None:
            wait_for(self.device)
            at[name] = time.perf_counter()

        def timed(*arguments: Any) -> Any:
            nonlocal inside
            mark("in")
            outputs = through(*arguments)
            mark("out")
            inside += at["out"] - at["in"]
            return outputs

        hooks = (
            method.register_forward_pre_hook(lambda *_: mark("augmented")),
            method.register_forward_hook(lambda *_: mark("lost")),
            self.stepper.optimizer.register_step_pre_hook(lambda *_: mark("backward")),
        )
        method.through = timed  # type: ignore[method-assign, assignment]
        try:
            with self.stepper.recorded.launched():
                mark("start")
                self.step()
                mark("end")
        finally:
            del method.through
            for hook in hooks:
                hook.remove()
        return {
            "augment": at["augmented"] - at["start"],
            "forward": inside,
            "loss": at["lost"] - at["augmented"] - inside,
            "backward": at["backward"] - at["lost"],
            "update": at["end"] - at["backward"],
        }

    def close(self) -> None:
        """End the workers that decode, if there are any."""
        closing = getattr(self.stream, "close", None)
        if closing:
            closing()


def made_up(spec: PretrainSpec, folder: Path) -> ImageSet | FileSet:
    """Images such as the spec's dataset has: in memory, or JPEG files of a camera's usual size.

    Of point clouds, clouds.
    """
    size, batch = spec.image_size, spec.training.batch_size
    generator = draws.generator(0, "bench")
    if spec.data.clouds:
        count = 4 * batch
        points = torch.randn(count, size, 3, generator=generator)
        return CloudSet(points, torch.zeros(count, dtype=torch.int64), classes=1)
    if DATASETS[spec.data.name].files:
        with contextlib.suppress(FileExistsError):
            (folder / "images").mkdir()
        paths = [_jpeg(folder / "images" / f"{n}.jpg", generator) for n in range(_FILES)]
        names = tuple(str(path) for path in paths) * -(-4 * batch // _FILES)
        return FileSet(names, torch.zeros(len(names), dtype=torch.int64), 1, size)
    count = batch * min(64, max(1, _MEMORY // (batch * 3 * size * size)))
    pixels = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    return ImageSet(pixels, torch.zeros(count, dtype=torch.int64), classes=1)


def _jpeg(path: Path, generator: torch.Generator) -> Path:
    """A picture of 500 × 375 pixels, smooth with a little noise: noise alone decodes slowly."""
    from PIL import Image

    coarse = torch.rand(1, 3, 24, 32, generator=generator)
    fine = F.interpolate(coarse, size=(375, 500), mode="bicubic", align_corners=False)
    noisy = fine + 0.03 * torch.randn(fine.shape, generator=generator)
    pixels = (noisy.clamp(0, 1) * 255).to(torch.uint8)[0].permute(1, 2, 0).contiguous()
    memory = io.BytesIO()
    Image.frombytes("RGB", (500, 375), pixels.numpy().tobytes()).save(memory, "JPEG", quality=90)
    path.write_bytes(memory.getvalue())
    return path
