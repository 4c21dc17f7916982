"""One update after another: forward, backward, optimiser. No line of it waits for the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from care_core import models
from care_core.arrangement import arrange
from care_core.distributed import World
from care_core.errors import CareError
from care_core.finite import Guard
from care_core.graphs import Recorded, recordable
from care_core.methods import Method, Step
from care_core.optim import build_optimizer
from care_core.spec import PretrainSpec


class Stepper:
    """A method with its optimiser, and the gradients of all ranks.

    The networks' passes have the spec's precision and may be compiled (`Method.through`); losses,
    weights and updates are fp32. In fp16 small gradients would vanish, so the loss is scaled
    before the backward, by a factor that halves when a gradient overflows; that update is left out.

    A step that is not finite (`finite.Guard`) changes nothing: neither weights nor moments, batch
    norm's statistics, slow copies or queues.
    """

    def __init__(
        self, spec: PretrainSpec, method: Method, world: World, device: torch.device
    ) -> None:
        self.spec, self.method, self.world, self.device = spec, method, world, device
        arrange(method, spec)
        self.forward = world.parallel(method)
        self.optimizer = build_optimizer(spec.optimizer, method)
        self.scaler = torch.amp.GradScaler(device.type, enabled=spec.training.precision == "fp16")
        self.trained = [p for p in method.parameters() if p.requires_grad]
        slow = (p for p in method.parameters() if not p.requires_grad)
        self.lost = torch.zeros((), device=device)  # 1: the last step's loss was not finite
        self.guard = Guard([*method.buffers(), *slow], device)
        self.number = torch.zeros((), dtype=torch.int64, device=device)  # of the step, from 0
        self.rate = torch.zeros((), device=device)
        self.recorded = Recorded(self._launch, device, recordable(spec, world, device))

    def update(self, images: Step, rate: float, share: float) -> dict[str, Tensor]:
        """One step. Returns the loss and its terms, detached, on the device.

        Args:
            rate: the learning rate.
            share: of all steps, done with this one.
        """
        self._set(rate)
        self.number.fill_(images.number)
        self.method.before_step(images.number)
        self.images = images  # of the recorded step the kernels read copies, and its number is lost
        bad, *values = self.recorded(images.tensors)
        self.method.after_step(share)
        self.guard.undo.back(bad)
        return dict(zip(self.guard.names, values, strict=True))

    def _launch(self, tensors: list[Tensor]) -> list[Tensor]:
        """All of a step that is the same each time. Returns whether it was bad, and the terms."""
        self.guard.undo.remember()
        terms = self.backward(self.images.of(tensors))
        gradients = [p.grad for p in self.trained if p.grad is not None]
        scale = self.scaler.scale(self.guard.one)
        bad = self.guard.judge(self.number, terms, self.lost, gradients, scale)
        self._apply(bad)
        return [bad, *terms.values()]

    def _set(self, rate: float) -> None:
        """The learning rate, on a GPU as a tensor: a recorded update reads it there."""
        tensor = self.recorded.on
        self.rate.fill_(rate)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate if tensor else rate
            if "capturable" in group:
                group["capturable"] = self.recorded.ready  # torch asks for it then, and warns else

    def _apply(self, bad: Tensor) -> None:
        """Let the optimiser update, but for what is bad or, in fp16, an overflow."""
        if self.scaler.is_enabled():  # it looks itself, and finds what `backward` left there
            self.scaler.step(self.optimizer)
            self.scaler.update()
            return
        self.optimizer.found_inf = bad  # type: ignore[attr-defined]
        self.optimizer.step()
        del self.optimizer.found_inf  # type: ignore[attr-defined]

    def backward(self, images: Step) -> dict[str, Tensor]:
        """The gradients of a step, averaged over the ranks (scaled, in fp16).

        Of a loss that is not finite on any rank they are not finite on all.
        """
        self.optimizer.zero_grad(set_to_none=True)
        try:
            with models.seeded_dropout(self.spec, images.number, self.world.rank, self.device):
                loss, terms = self.forward(images)
            self.lost = self.world.maximum((~terms["loss"].isfinite()).float())
            spoilt = 1 / (1 - self.lost)  # 1, or infinite
            self.scaler.scale(loss * spoilt).backward()
        except torch._dynamo.exc.TorchDynamoException as error:
            how, why = self.spec.launch.compile, str(error).strip().splitlines()[:1]
            raise CareError(
                f"launch.compile: {how}: torch cannot compile {self.spec.model.backbone} here "
                f"({''.join(why)}); set launch.compile=off, or install a C++ compiler such as g++"
            ) from error
        return dict(terms)

    def settle(self, images: Step) -> None:
        """Go backward once and forget it: DDP arranges its buckets (see `World.parallel`)."""
        with self.world.averaged(self.method):
            self.backward(images)
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """The moments, the scale of the loss and how much was left out, for a checkpoint."""
        for group in self.optimizer.param_groups:
            group["lr"] = float(group["lr"])  # a plain number, wherever it is read again
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "skipped_updates": self.guard.skipped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take `state_dict` back."""
        self.optimizer.load_state_dict(state["optimizer"])
        if state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])
        if "skipped_updates" in state:  # not in those of earlier versions
            self.guard.skipped.copy_(state["skipped_updates"])
