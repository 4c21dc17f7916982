"""Pretraining: one linear loop, read top to bottom.

The state after any step is the weights, the optimiser's moments and one integer, since every draw
is counted (care_core.draws). So an interrupted run goes on bitwise as if it had not been: the
same machine kind, versions and number of threads give the same final weights.

Of several ranks each runs this loop on its share of the batch, at the same step as the others.
Batch-norm statistics are a rank's own. Rank 0 alone writes, speaks and tracks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from care_core import augment, checkpoint, data, draws, knn, methods, metrics
from care_core.distributed import ALONE, World
from care_core.errors import CareError, Interrupted, SpecError
from care_core.facts import DATASETS
from care_core.files import read_json, write_json
from care_core.spec import Optimizer, PretrainSpec, Schedule


class Tracker(Protocol):
    """Whoever wants to know that the record up to a step can no longer be lost."""

    def committed(self, step: int) -> object: ...


def pretrain(
    spec: PretrainSpec,
    run_dir: Path,
    *,
    data_dir: Path = Path("data"),
    device: torch.device | str | None = None,
    threads: int | None = None,
    tracker: Tracker | None = None,
    stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda text: None,
    world: World = ALONE,
) -> dict[str, Any]:
    """Train a spec in a run folder, from its last checkpoint if there is one.

    Args:
        spec: what to train.
        run_dir: gets checkpoints/, metrics.jsonl, progress.json and result.json.
        data_dir: where the datasets lie.
        device: default: the GPU if there is one.
        threads: CPU threads of the tensor library; fixed here, because results depend on it.
        tracker: told after each checkpoint up to which step the record stands.
        stop: asked after each step; true on any rank saves and raises Interrupted on all.
        say: gets sentences about what happens, one a call.
        world: this process among its peers (`distributed.join`), each of which must call this.

    Returns:
        What is in result.json: steps, seconds, images/s, final loss terms, the weights' sha256.

    Raises:
        DataError, SpecError, StorageError, Interrupted, CareError (a loss that is not finite, or
        a peer that is gone).
    """
    world.require_even_shares(spec)
    if not world.is_main:
        tracker, say = None, lambda text: None
    with world.naming_losses():
        result = world.told(read_json(run_dir / "result.json"))
        if result:
            say("already trained; nothing to do")
            return dict(result)
        return _Run(spec, run_dir, data_dir, device, threads, tracker, stop, say, world).train()


class _Run:
    """One process's pretraining: what it holds, then `train`, the loop."""

    def __init__(
        self,
        spec: PretrainSpec,
        run_dir: Path,
        data_dir: Path,
        device: torch.device | str | None,
        threads: int | None,
        tracker: Tracker | None,
        stop: Callable[[], bool],
        say: Callable[[str], None],
        world: World,
    ) -> None:
        self.spec, self.run_dir, self.tracker, self.stop, self.say = (
            spec, run_dir, tracker, stop, say
        )  # fmt: skip
        self.world = world
        self.device = set_up(device, threads)
        self.images = data.load(spec.data.name, "pretrain", data_dir, spec.image_size)
        self.per_epoch = len(self.images) // spec.training.batch_size
        if self.per_epoch == 0:
            raise SpecError(
                f"training.batch_size: {spec.training.batch_size} is larger than "
                f"{spec.data.name}, which has {len(self.images)} images"
            )
        self.steps = spec.training.epochs * self.per_epoch
        self.pixels = self.images.images.to(self.device)
        labelled = data.load(spec.data.name, "train", data_dir, spec.image_size)
        self.check = knn.hold_out(labelled) if world.is_main else None
        self.method = methods.build(spec, world).to(self.device)
        self.forward = world.parallel(self.method)
        self.optimizer = build_optimizer(spec.optimizer, self.method)
        self.step = self._resume()
        self.log = metrics.MetricsLog(run_dir, self.step or -1) if world.is_main else None
        self.saved_at = self.started = time.monotonic()
        self.first_step = self.step
        self.latest = {
            row.key: row.value
            for row in metrics.read(run_dir)
            if row.step <= self.step and row.key != "epoch"
        }

    def train(self) -> dict[str, Any]:
        """From the step resumed at to the last one; then the result."""
        spec = self.spec
        self._progress()
        self._arrange_buckets()
        while self.step < self.steps:
            epoch, position = divmod(self.step, self.per_epoch)
            if position == 0 or self.step == self.first_step:
                order = draws.epoch_order(spec.seed, epoch, len(self.images))
            batch = order[position * spec.training.batch_size :][: spec.training.batch_size]

            rate = learning_rate(spec.schedule, spec.optimizer.lr, self.step / self.per_epoch,
                                 spec.training.epochs)  # fmt: skip
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            views, pair = self._views(batch)
            loss, terms = self.forward(views, pair)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.step += 1

            epoch_ended = self.step % self.per_epoch == 0
            if self.step % spec.log.every_steps == 0 or self.step == self.steps:
                self._record(terms, rate)
            if epoch_ended:
                self._epoch_end(epoch + 1)
            stopping = self.step < self.steps and self.world.any(self.stop())
            if stopping or self._save_is_due(epoch_ended):
                self._save(terms["loss"])
            if stopping:
                raise Interrupted(f"stopped on request after step {self.step}; it can go on")
        return self._finish()

    def _arrange_buckets(self) -> None:
        """Go backward once and forget it: see `World.parallel`."""
        if self.world.size > 1:
            with self.world.averaged(self.method.encoder):
                loss, _ = self.forward(*self._views(torch.arange(self.spec.training.batch_size)))
                loss.backward()

    def _views(self, batch: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The two views augmented image by image, and CARE's pair augmented split by split."""
        spec, term = self.spec, self.spec.equivariance
        batch = batch.to(self.device)
        pixels = self.pixels[batch[self.world.share(len(batch))]]
        views = [self._augment(pixels, len(batch), f"view{n}") for n in range(2)]
        if term.weight == 0:
            return views, []
        fed = self.pixels[batch[self.world.share(spec.equivariance_batch)]]
        return views, [self._augment(fed, term.splits, f"pair{n}") for n in range(2)]

    def _augment(self, pixels: Tensor, rows: int, purpose: str) -> Tensor:
        """`rows` parameter rows are drawn for the global batch; this rank applies its share."""
        spec, facts = self.spec, DATASETS[self.spec.data.name]
        height, width = pixels.shape[-2:]
        drawn = augment.sample(
            rows, height, width, spec.augment, draws.generator(spec.seed, purpose, self.step)
        )
        return augment.apply(
            pixels, drawn.rows(self.world.share(rows)), size=spec.image_size,
            blur_kernel=spec.augment.blur_kernel, mean=facts.mean, std=facts.std,
        )  # fmt: skip

    def _record(self, terms: dict[str, Tensor], rate: float) -> None:
        """Read the terms off the device (the only synchronisation) and write them down."""
        everywhere = self.world.mean(torch.stack(list(terms.values()))).tolist()
        values = {**dict(zip(terms, everywhere, strict=True)), "lr": rate}
        self._require_finite(values["loss"])
        self.latest |= values
        if self.log:
            self.log.append(self.step, values)
        self._progress()

    def _require_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise CareError(
                f"the loss is {loss} at step {self.step}; lower optimizer.lr or raise "
                f"method.temperature, or replay from the last checkpoint in {self.run_dir}"
            )

    def _epoch_end(self, epoch: int) -> None:
        every = self.spec.monitor.every_epochs
        if every and (epoch % every == 0 or epoch == self.spec.training.epochs):
            self._monitor(epoch)
        terms = "  ".join(f"{k} {v:.4g}" for k, v in self.latest.items() if k != "lr")
        self.say(f"epoch {epoch}/{self.spec.training.epochs}  {terms}")

    def _monitor(self, epoch: int) -> None:
        with self.world.averaged(self.method.encoder):
            if self.check and self.log:
                accuracy = knn.check(self.method.encoder, *self.check, spec=self.spec)
                self.latest["knn"] = accuracy
                self.log.append(self.step, {"knn": accuracy, "epoch": float(epoch)})
                self._progress()

    def _save_is_due(self, epoch_ended: bool) -> bool:
        policy = self.spec.checkpoint
        if self.step == self.steps:
            return True
        if epoch_ended and (self.step // self.per_epoch) % policy.every_epochs == 0:
            return True
        minutes = (time.monotonic() - self.saved_at) / 60
        return policy.every_minutes is not None and self.world.any(minutes >= policy.every_minutes)

    def _save(self, loss: Tensor) -> None:
        self._require_finite(float(self.world.mean(loss)))  # else nothing is worth keeping
        with self.world.averaged(self.method.encoder) as statistics:
            if self.log:
                self.log.sync()
                folder = self.run_dir / "checkpoints"
                checkpoint.save(
                    folder,
                    {
                        "model": self.method.encoder.state_dict(),
                        "optimizer": self.optimizer.state_dict(),
                        "step": self.step,
                        "steps_per_epoch": self.per_epoch,
                        "spec": self.spec.model_dump_json(),
                        "ranks": self.world.size,
                        "statistics": statistics,
                    },
                    epoch=self.step // self.per_epoch,
                    step=self.step,
                    whole=self.step % self.per_epoch == 0,
                )
                checkpoint.prune(folder, self.spec.checkpoint.keep)
        self.world.told()  # nobody goes on, or ends, before it is on the disk
        self.saved_at = time.monotonic()
        if self.tracker:
            self.tracker.committed(self.step)

    def _resume(self) -> int:
        """Take up the newest good checkpoint. Returns the step after which it was saved."""
        if self.world.is_main:
            for leftover in self.run_dir.glob(".*.tmp"):  # a write that a kill cut off
                leftover.unlink(missing_ok=True)
        state = checkpoint.latest(
            self.run_dir / "checkpoints", self.say, self.device, world=self.world
        )
        if state is None:
            return 0
        other = PretrainSpec.model_validate_json(state["spec"])
        if other.determining() != self.spec.determining():
            raise SpecError(
                f"{self.run_dir} holds a run of another spec ({other.name}, seed {other.seed}); "
                "take an empty folder"
            )
        ranks = state.get("ranks", 1)
        if ranks != self.world.size:
            raise SpecError(
                f"{self.run_dir} holds a run of {ranks} rank(s), not {self.world.size}; each has "
                f"batch statistics of its own: go on with {ranks}, or take an empty folder"
            )
        self.method.encoder.load_state_dict(state["model"])
        for name, ranks_own in state.get("statistics", {}).items():
            self.method.encoder.get_buffer(name).copy_(ranks_own[self.world.rank])
        self.optimizer.load_state_dict(state["optimizer"])
        step = int(state["step"])
        self.say(f"resuming after step {step} of {self.steps}")
        return step

    def _progress(self) -> None:
        """What a waiting person wants to see; not synced, it is only a view."""
        if not self.world.is_main:
            return
        elapsed = time.monotonic() - self.started
        done = self.step - self.first_step
        speed = done * self.spec.training.batch_size / elapsed if done else None
        left = (self.steps - self.step) * self.spec.training.batch_size
        write_json(
            self.run_dir / "progress.json",
            {
                "epoch": self.step // self.per_epoch,
                "epochs": self.spec.training.epochs,
                "step": self.step,
                "steps": self.steps,
                "images_per_s": speed,
                "eta_s": left / speed if speed else None,
                "heartbeat": time.time(),
                "metrics": self.latest,
            },
            durable=False,
        )

    def _finish(self) -> dict[str, Any]:
        elapsed = time.monotonic() - self.started
        done = self.step - self.first_step
        with self.world.averaged(self.method.encoder):
            digest = checkpoint.weights_sha256(self.method.encoder)
        if not self.world.is_main:
            return dict(self.world.told())
        result = {
            "kind": "pretrain",
            "steps": self.steps,
            "epochs": self.spec.training.epochs,
            "seconds": round(elapsed, 3),
            "images_per_s": done * self.spec.training.batch_size / elapsed if done else None,
            "metrics": self.latest,
            "weights_sha256": digest,
            "checkpoint": checkpoint.at_epoch(self.run_dir / "checkpoints", None).name,
            # what the bits depend on beside the spec
            "on": {
                "device": self.device.type,
                "threads": torch.get_num_threads(),
                "ranks": self.world.size,
                "torch": str(torch.__version__),
            },
        }
        write_json(self.run_dir / "result.json", result)
        return dict(self.world.told(result))


def set_up(device: torch.device | str | None, threads: int | None) -> torch.device:
    """Choose the device, fix the threads, and ask for the same result every time."""
    if threads:
        torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def build_optimizer(spec: Optimizer, module: nn.Module) -> torch.optim.Optimizer:
    """Adam or SGD over all parameters; weight decay is the L2 term of both papers."""
    parameters = list(module.parameters())
    if spec.name == "adam":
        return torch.optim.Adam(parameters, lr=spec.lr, weight_decay=spec.weight_decay)
    return torch.optim.SGD(
        parameters, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay
    )


def learning_rate(schedule: Schedule, base: float, epoch: float, epochs: int) -> float:
    """The rate at a fractional epoch: linear warm-up, then the schedule over what is left."""
    if epoch < schedule.warmup_epochs:
        return base * (epoch + 1) / (schedule.warmup_epochs + 1)
    if schedule.name == "cosine":
        share = (epoch - schedule.warmup_epochs) / (epochs - schedule.warmup_epochs)
        return base * 0.5 * (1 + math.cos(math.pi * share))
    if schedule.name == "multistep":
        return base * schedule.gamma ** sum(epoch >= at for at in schedule.milestones)
    return base
