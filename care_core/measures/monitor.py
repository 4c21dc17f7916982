"""The kNN check of a pretraining: how good its features are, every few epochs, at little cost."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from care_core import data
from care_core.distributed import World
from care_core.measures import knn
from care_core.methods import Method
from care_core.spec import PretrainSpec

if TYPE_CHECKING:
    from care_core.data import Images


class Monitor:
    """Classifies held-out training images by the backbone's features, and keeps the best epoch.

    Rank 0 does it for all, on the ranks' mean statistics of batch norm. Under monitor.train_mode
    (a leak of the official code) these statistics drift, so every rank does it, on its own.
    """

    def __init__(self, spec: PretrainSpec, data_dir: Path, world: World) -> None:
        self.spec, self.world = spec, world
        self.best: tuple[float, int] = (-1.0, 0)  #: accuracy in per cent, and after which epoch
        self._sets = self._load(data_dir)

    def due(self, epoch: int) -> bool:
        """Whether there is a check after so many epochs: every few, and after the last one."""
        every = self.spec.monitor.every_epochs
        return every > 0 and (epoch % every == 0 or epoch == self.spec.training.epochs)

    def check(self, method: Method, epoch: int) -> float:
        """The accuracy in per cent after so many epochs, told to every rank."""
        drift = self.spec.monitor.train_mode
        found = None
        with nullcontext() if drift else self.world.averaged(method):
            if self._sets is not None:
                found = knn.check(method.encoder, *self._sets, spec=self.spec, train_mode=drift)
        accuracy = float(self.world.broadcast(found))
        if accuracy > self.best[0]:
            self.best = accuracy, epoch
        return accuracy

    @property
    def best_epoch(self) -> int | None:
        """The epoch to be probed in place of the last one, under checkpoint.select: best."""
        return self.best[1] or None if self.spec.checkpoint.select == "best" else None

    def _load(self, data_dir: Path) -> tuple[Images, Images] | None:
        """The bank and the queries, on the ranks that do the check."""
        settings = self.spec.monitor
        if not settings.every_epochs or not (self.world.is_main or settings.train_mode):
            return None
        labelled = data.load(self.spec.data, "train", data_dir)
        if settings.images == "test":  # a leak, by the official preset
            return labelled, data.load(self.spec.data, "test", data_dir)
        return knn.hold_out(labelled)
