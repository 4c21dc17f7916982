"""How the cost of the losses grows with the batch, and of a step with the ranks."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from care_core import losses
from care_core.bench.engine import Engine
from care_core.bench.turns import in_turns
from care_core.device import set_up
from care_core.distributed import join
from care_core.errors import CareError
from care_core.files import read_json, write_json
from care_core.spec import PretrainSpec

BATCHES = (64, 128, 256, 512, 1024, 2048, 4096)

_PATIENCE = 600  # seconds that ranks may take altogether


class LossCost(NamedTuple):
    """Seconds, forward and backward, of both losses of a batch."""

    batch: int
    info_nce_s: float
    equivariance_s: float


class RankCost(NamedTuple):
    """Median seconds of a step that so many ranks share, each on one thread or one GPU."""

    ranks: int
    batch: int
    step_s: float


def loss_costs(
    batches: Sequence[int] = BATCHES,
    *,
    repeats: int = 5,
    dimension: int = 128,
    splits: int = 16,
    threads: int | None = None,
    device: torch.device | str | None = None,
) -> Iterator[LossCost]:
    """InfoNCE over two views and the equivariance term, on unit rows, for each batch size."""
    on = set_up(device, threads)
    for batch in batches:
        leaves = [torch.randn(batch, dimension, device=on, requires_grad=True) for _ in range(2)]

        def rows(leaves: Sequence[torch.Tensor] = leaves) -> list[torch.Tensor]:
            return [F.normalize(leaf, dim=1) for leaf in leaves]

        def info_nce() -> None:
            z1, z2 = rows()
            losses.info_nce(z1, z2, 0.5).backward()

        def equivariance() -> None:
            z1, z2 = rows()
            losses.equivariance(z1, z2, splits).backward()

        times = in_turns({"a": info_nce, "b": equivariance}, repeats, on)
        yield LossCost(batch, times["a"].median_s, times["b"].median_s)


def rank_costs(spec: PretrainSpec, sizes: Sequence[int], *, repeats: int = 3) -> list[RankCost]:
    """The same global batch shared by one rank, two, and so on: real processes that exchange.

    Raises:
        CareError: a rank ended without a word, or took too long.
    """
    return [RankCost(size, spec.training.batch_size, _of(spec, size, repeats)) for size in sizes]


def _of(spec: PretrainSpec, size: int, repeats: int) -> float:
    context = multiprocessing.get_context("spawn")  # torch has threads, which a fork would lose
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ranks = [
            context.Process(
                target=_be, args=(rank, size, spec.model_dump_json(), folder, repeats), daemon=True
            )
            for rank in range(size)
        ]
        for rank in ranks:
            rank.start()
        try:
            for rank in ranks:
                rank.join(_PATIENCE)
        finally:
            for rank in ranks:
                rank.kill()
        found: dict[str, Any] | None = read_json(folder / "found.json")
    if found is None:
        raise CareError(f"{size} ranks did not get through their steps; what they wrote says why")
    return float(found["step_s"])


def _be(rank: int, size: int, spec: str, folder: Path, repeats: int) -> None:
    """Be one of the ranks; rank 0 writes what it found."""
    device = set_up(None, threads=1)
    world = join(
        rank=rank, size=size, local_rank=rank, meeting=folder / "meeting.json", single_host=True
    )
    own = folder / str(rank)
    own.mkdir()
    engine = Engine(PretrainSpec.model_validate_json(spec), device, own, world)
    times = in_turns({"step": engine.step}, repeats, device)
    if rank == 0:
        write_json(folder / "found.json", {"step_s": times["step"].median_s})
    engine.close()
    world.broadcast()
    world.close()
