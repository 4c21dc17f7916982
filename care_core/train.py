"""Pretraining: one linear loop (`_Run.train`), read top to bottom.

The state after any step is the weights, the optimiser's moments and one integer, since every draw
is counted (care_core.draws). So an interrupted run goes on bitwise as if it had not been: the
same machine kind, versions and number of threads give the same final weights.

What it adds to the networks' passes, `carectl bench` measures against a floor: the same passes on
ready tensors (docs/performance.md).

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
from torch import Tensor

from care_core import checkpoint, data, finite, methods, metrics, resuming
from care_core.device import set_up
from care_core.distributed import ALONE, World
from care_core.errors import CareError, Interrupted, SpecError
from care_core.files import read_json, write_json
from care_core.measures.monitor import Monitor
from care_core.optim import learning_rate
from care_core.spec import PretrainSpec
from care_core.stepping import Stepper
from care_core.views.clouds import feed_of


class Tracker(Protocol):
    """Whoever wants to know that the record up to a step can no longer be lost."""

    def committed(self, step: int) -> object:
        """Rows up to this step are final: a checkpoint after it is on the disk."""


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
    with world.naming_lost_ranks():
        result = world.broadcast(read_json(run_dir / "result.json"))
        if result:
            say("already trained; nothing to do")
            return dict(result)
        place = set_up(device, threads)
        return _Run(spec, run_dir, data_dir, place, tracker, stop, say, world).train()


class _Run:
    """One process's pretraining: what it holds, then `train`, the loop."""

    def __init__(
        self,
        spec: PretrainSpec,
        run_dir: Path,
        data_dir: Path,
        device: torch.device,
        tracker: Tracker | None,
        stop: Callable[[], bool],
        say: Callable[[str], None],
        world: World,
    ) -> None:
        self.spec, self.run_dir, self.device, self.world = spec, run_dir, device, world
        self.tracker, self.stop, self.say = tracker, stop, say
        images = data.load(spec.data, "pretrain", data_dir, say=say)
        self.steps_per_epoch = len(images) // spec.training.batch_size
        if self.steps_per_epoch == 0:
            raise SpecError(
                f"training.batch_size: {spec.training.batch_size} is larger than "
                f"{spec.data.name}, which has {len(images)} images"
            )
        self.total_steps = spec.training.epochs * self.steps_per_epoch
        self.feed = feed_of(spec, images, world, device)
        self.monitor = Monitor(spec, data_dir, world)
        self.method = methods.build(spec, world).to(device)
        self.stepper = Stepper(spec, self.method, world, device)
        self.step = self.first_step = self._resume()
        self.log = metrics.MetricsLog(run_dir, self.step or -1) if world.is_main else None
        self.saved_at = self.started = time.monotonic()
        self.latest = {
            row.key: row.value
            for row in metrics.read(run_dir)
            if row.step <= self.step and row.key != "epoch"
        }

    def train(self) -> dict[str, Any]:
        """From the step resumed at to the last one; then the result."""
        spec = self.spec
        self._show_progress()
        if self.world.size > 1 and self.step < self.total_steps:
            self.stepper.settle(next(self.feed.steps(self.step, self.step + 1)))
        for batch in self.feed.steps(self.step, self.total_steps):
            rate = learning_rate(
                spec.schedule, spec.optimizer.lr, self.step / self.steps_per_epoch,
                spec.training.epochs,
            )  # fmt: skip
            terms = self.stepper.update(batch, rate, (self.step + 1) / self.total_steps)
            self.step += 1
            if self.step % spec.log.every_steps == 0 or self.step == self.total_steps:
                self._record(terms, rate)
            if self._epoch_ended:
                self._end_epoch()
            stopping = self.step < self.total_steps and self.world.any(self.stop())
            if stopping or self._save_is_due():
                self._save()
            if stopping:
                raise Interrupted(f"stopped on request after step {self.step}; it can go on")
        return self._finish()

    @property
    def _epoch(self) -> int:
        """How many epochs are complete."""
        return self.step // self.steps_per_epoch

    @property
    def _epoch_ended(self) -> bool:
        return self.step % self.steps_per_epoch == 0

    def _record(self, terms: dict[str, Tensor], rate: float) -> None:
        """Read the terms off the device (the only synchronisation) and write them down."""
        counts = self.stepper.guard.counts()
        everywhere = self.world.mean(torch.stack([*terms.values(), *counts])).tolist()
        self._require_finite(*everywhere[len(terms) :])
        means = zip(terms, everywhere, strict=False)
        values = {key: value for key, value in means if math.isfinite(value)} | {"lr": rate}
        if self.spec.training.on_nan == "skip":
            values["skipped_updates"] = everywhere[-2]
        self.latest |= values
        if self.log:
            self.log.append(self.step, values)
        self._show_progress()

    def _require_finite(self, first: float, skipped: float, row: float) -> None:
        """Stop if a step was not finite; with on_nan: skip, if none is any more."""
        skipping = self.spec.training.on_nan == "skip"
        if not first or (skipping and row < finite.ALL_BAD):
            return
        guard = self.stepper.guard
        assert guard.terms is not None
        found = finite.finding(int(first), guard.names, self.world.stack(guard.terms).tolist())
        remedy = "lower optimizer.lr or raise method.temperature"
        if skipping:
            raise CareError(
                f"the last {row:.0f} updates were all left out, {skipped:.0f} in all "
                f"(training.on_nan: skip): nothing is learnt any more, since {found}; {remedy}"
            )
        raise CareError(
            f"{found}; {remedy}, or leave such updates out (training.on_nan: skip, another run). "
            f"Nothing of that step was kept. {resuming.replay(self.run_dir, int(first))}"
        )

    def _end_epoch(self) -> None:
        """The kNN check if it is due, and a line for whoever watches."""
        if self.monitor.due(self._epoch):
            accuracy = self.monitor.check(self.method, self._epoch)
            self.latest["knn"] = accuracy
            if self.log:
                self.log.append(self.step, {"knn": accuracy, "epoch": float(self._epoch)})
            self._show_progress()
        terms = "  ".join(f"{k} {v:.4g}" for k, v in self.latest.items() if k != "lr")
        self.say(f"epoch {self._epoch}/{self.spec.training.epochs}  {terms}")

    def _save_is_due(self) -> bool:
        policy = self.spec.checkpoint
        if self.step == self.total_steps:
            return True
        if self._epoch_ended and self.monitor.best_epoch == self._epoch:
            return True
        if self._epoch_ended and self._epoch % policy.every_epochs == 0:
            return True
        minutes = (time.monotonic() - self.saved_at) / 60
        return policy.every_minutes is not None and self.world.any(minutes >= policy.every_minutes)

    def _save(self) -> None:
        self._require_finite(*torch.stack(self.stepper.guard.counts()).tolist())
        with self.world.averaged(self.method) as statistics:
            if self.log:
                self.log.sync()
                folder = self.run_dir / "checkpoints"
                state = resuming.pack(self.stepper, statistics)
                state |= {
                    "step": self.step,
                    "steps_per_epoch": self.steps_per_epoch,
                    "best": self.monitor.best,
                }
                checkpoint.save(
                    folder, state, epoch=self._epoch, step=self.step, whole=self._epoch_ended
                )
                checkpoint.prune(folder, self.spec.checkpoint.keep, self.monitor.best_epoch)
        self.world.broadcast()  # nobody goes on, or ends, before it is on the disk
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
        step = resuming.unpack(state, self.stepper, self.run_dir, self.say)
        accuracy, epoch = state["best"]
        self.monitor.best = float(accuracy), int(epoch)
        self.say(f"resuming after step {step} of {self.total_steps}")
        return step

    def _show_progress(self) -> None:
        """Write progress.json, for whoever waits."""
        if not self.world.is_main:
            return
        speed = self._images_per_s()
        left = (self.total_steps - self.step) * self.spec.training.batch_size
        metrics.write_progress(
            self.run_dir,
            epoch=self._epoch,
            epochs=self.spec.training.epochs,
            step=self.step,
            steps=self.total_steps,
            images_per_s=speed,
            eta_s=left / speed if speed else None,
            data_bound=self.feed.data_bound(),
            latest=self.latest,
        )

    def _images_per_s(self) -> float | None:
        """Since this process began; None before its first step."""
        images = (self.step - self.first_step) * self.spec.training.batch_size
        return images / (time.monotonic() - self.started) if images else None

    def _finish(self) -> dict[str, Any]:
        elapsed, speed = time.monotonic() - self.started, self._images_per_s()
        with self.world.averaged(self.method):
            digest = checkpoint.weights_sha256(self.method.encoder)
        if not self.world.is_main:
            return dict(self.world.broadcast())
        # once more: the attempt that saved last may have been killed before it pruned
        folder = self.run_dir / "checkpoints"
        checkpoint.prune(folder, self.spec.checkpoint.keep, self.monitor.best_epoch)
        result = {
            "kind": "pretrain",
            "steps": self.total_steps,
            "epochs": self.spec.training.epochs,
            "seconds": round(elapsed, 3),
            "images_per_s": speed,
            "metrics": self.latest,
            "images": self.feed.planner.images,
            "skipped": self.feed.skipped,  # files that cannot be decoded, by data.unreadable
            "skipped_updates": int(self.stepper.guard.skipped),  # not finite, by training.on_nan
            "weights_sha256": digest,
            "checkpoint": checkpoint.at_epoch(folder, self.monitor.best_epoch).name,
            # what the bits depend on beside the spec
            "on": {
                "device": self.device.type,
                "threads": torch.get_num_threads(),
                "ranks": self.world.size,
                "cuda_graphs": self.stepper.recorded.on,
                "torch": str(torch.__version__),
            },
        }
        write_json(self.run_dir / "result.json", result)
        return dict(self.world.broadcast(result))
