"""Ranks and what they exchange: the engine asks its peers through this module alone.

One process is a world of one, in which every exchange hands back what it was given. What the
losses need travels between the devices; flags and words travel over a side group between the
hosts, so that asking "does anyone want to stop?" waits for no device.
"""

from __future__ import annotations

import secrets
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from care_core.errors import CareError, PeerLostError, SpecError
from care_core.files import read_json, write_json
from care_core.presence import Presence
from care_core.spec import PretrainSpec


@dataclass(frozen=True)
class World:
    """This process among its peers: `rank` of `size`, the `local_rank`th on its host.

    With peers, every rank must make the same calls in the same order.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    side: Any = field(default=None, repr=False)  #: the hosts' own process group, over gloo
    presence: Presence | None = field(default=None, repr=False, compare=False)

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files that there is one of."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This rank's positions in a global batch (or list of splits) of `count`."""
        each = count // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def require_even_shares(self, spec: PretrainSpec) -> None:
        """Raise a SpecError if a batch or the splits cannot be shared out to the ranks evenly."""
        problems = spec.rank_problems(self.size)
        if problems:
            raise SpecError("\n".join(problems))

    def parallel(self, module: nn.Module) -> nn.Module:
        """The module with its gradients averaged over the ranks; its buffers stay a rank's own.

        DDP arranges its buckets anew after the first backward of a process, and a sum over three
        ranks or more depends in its last bit on where in a bucket it stands. A run that is to be
        resumed bitwise therefore has one backward before its first step.
        """
        if self.size == 1:
            return module
        with warnings.catch_warnings():  # its successor would broadcast the buffers at the start
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(module, broadcast_buffers=False)

    def gather(self, rows: Tensor) -> Tensor:
        """(B/size, d) → (B, d), the rows of all ranks in order, carrying gradients.

        Every rank must make the same loss of them. Each then goes backward through its own rows
        only, times the size: averaged over the ranks, that is the gradient of the one loss.
        """
        if self.size == 1:
            return rows
        gathered: Tensor = _Gather.apply(rows, self)
        return gathered

    def stack(self, values: Tensor) -> Tensor:
        """(…) → (size, …), the values of all ranks in order, without gradients."""
        values = values.detach().contiguous()
        if self.size == 1:
            return values[None]
        found = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(found, values)
        return torch.stack(found)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the ranks, in float64, on the device."""
        return self.stack(values).double().mean(dim=0)

    def maximum(self, value: Tensor) -> Tensor:
        """The largest of the ranks' values, in place, on the device."""
        if self.size > 1:
            dist.all_reduce(value, dist.ReduceOp.MAX)
        return value

    @contextmanager
    def averaged(self, module: nn.Module) -> Iterator[dict[str, Tensor]]:
        """Within, batch-norm statistics are their means over the ranks; afterwards each its own.

        Yields every rank's own ones, (size, …) by name. Counts are the same on every rank.
        """
        buffers = {
            f"{place}.{name}": buffer
            for place, layer in module.named_modules()
            if isinstance(layer, _BatchNorm)
            for name, buffer in layer.named_buffers(recurse=False)
        }
        own = {name: self.stack(buffer).clone() for name, buffer in buffers.items()}
        for name, buffer in buffers.items():
            buffer.copy_(own[name].mean(dim=0) if buffer.is_floating_point() else own[name][0])
        try:
            yield own
        finally:
            for name, buffer in buffers.items():
                buffer.copy_(own[name][self.rank])

    def any(self, flag: bool) -> bool:
        """Whether any rank says yes."""
        if self.size == 1:
            return flag
        answer = torch.tensor(int(flag))
        dist.all_reduce(answer, dist.ReduceOp.MAX, group=self.side)
        return bool(answer)

    def broadcast(self, value: Any = None) -> Any:
        """What rank 0 says, on every rank: plain data. None goes past before rank 0 is there."""
        if self.size == 1:
            return value
        words = [value]
        dist.broadcast_object_list(words, src=0, group=self.side)
        return words[0]

    @contextmanager
    def naming_lost_ranks(self) -> Iterator[None]:
        """Within, an exchange that fails, as a peer's end makes it, raises a PeerLostError.

        It says which ranks are gone. Of any other error the peers are told before it is raised.
        """
        try:
            yield
        except BaseException as error:
            if self.size == 1:
                raise
            words = (str(error).strip().splitlines() or [""])[0]
            lost = isinstance(error, dist.DistError) or "gloo" in words
            if isinstance(error, RuntimeError) and lost:
                raise self._lost(words) from error
            if self.presence:
                self.presence.leave(words or type(error).__name__)
            raise

    def _lost(self, words: str) -> PeerLostError:
        stuck = "Timed out" in words
        gone = self.presence.absent(closed=not stuck) if self.presence else {}
        named = " and ".join(
            f"rank {rank}" + (f" (it said: {said})" if said else "")
            for rank, said in sorted(gone.items())
        )
        found = f"lost {named}" if named else "lost a peer"
        if stuck and not named:
            found = "waited in vain (launch.patience_s), and all are there: one is stuck"
        error = PeerLostError(
            f"rank {self.rank} of {self.size} {found}; its own log may say why. Run the "
            f"same command again, it goes on from the last checkpoint ({words})"
        )
        error.speaks = all(rank in gone for rank in range(self.rank))
        return error

    def close(self) -> None:
        """Leave the process group, if there is one; peers that still wait get an error."""
        if self.presence:
            self.presence.leave("")
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


#: The world of a process without peers.
ALONE = World()


#: Seconds that one attempt to reach rank 0 may take, before its file is read again.
_PATIENCE = 3


class _Gather(torch.autograd.Function):
    """`World.gather`: all rows forward; backward a rank's own, times the number of ranks."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, world: World) -> Tensor:
        ctx.world = world
        return world.stack(rows).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return gradient[ctx.world.share(len(gradient))] * ctx.world.size, None


def join(
    *,
    rank: int,
    size: int,
    local_rank: int,
    meeting: Path,
    single_host: bool,
    timeout_s: float = 600,
    patience_s: float = 1800,
) -> World:
    """Meet the other ranks of a job at a fresh place, and form the process groups.

    Rank 0 opens a store on a port that is free and writes where to `meeting`; the others wait for
    that file. Neither a fixed port nor an environment variable is involved, so jobs that start at
    the same time do not collide, and what an earlier attempt left in `meeting` does no harm.

    Args:
        meeting: a file of this attempt, in a folder that all ranks see.
        single_host: whether all ranks are processes of this host.
        timeout_s: how long to wait for all to be there.
        patience_s: how long, later, to wait for a peer that is silent but whose connection stands;
            rank 0's checks and checkpoints must fit in. (Between GPUs NCCL's own limit holds.)

    Raises:
        CareError: somebody did not come in time; says who waited for whom.
    """
    if size == 1:
        return ALONE
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
    deadline = time.monotonic() + timeout_s
    if rank == 0:
        store = _open_store(meeting, "127.0.0.1" if single_host else _own_address(), size)
    else:
        store = _find_store(meeting, rank, deadline, timeout_s)
    with World(rank, size).naming_lost_ranks():
        _wait_for_all(store, rank, size, deadline, timeout_s)
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        patience = timedelta(seconds=patience_s)
        dist.init_process_group(
            backend, store=store, rank=rank, world_size=size,
            timeout=patience if backend == "gloo" else None,
        )  # fmt: skip
        side = dist.new_group(backend="gloo", timeout=patience)
        return World(rank, size, local_rank, side, Presence(store, rank, size))


def _open_store(meeting: Path, host: str, size: int) -> TCPStore:
    store = TCPStore(host, 0, size, is_master=True, wait_for_workers=False)
    token = secrets.token_hex(8)
    store.set("token", token)
    write_json(meeting, {"host": host, "port": store.port, "token": token})
    return store


def _find_store(meeting: Path, rank: int, deadline: float, timeout_s: float) -> TCPStore:
    """The store that `meeting` names, once it answers with the token that the file gives.

    A file of an earlier attempt names a port that is closed, or somebody else's by now.
    """
    while time.monotonic() < deadline:
        place = read_json(meeting)
        if place:
            host, port = place["host"], place["port"]
            try:
                # A closed port is told at once here; a store would retry, and fill the log.
                socket.create_connection((host, port), timeout=_PATIENCE).close()
                patience = timedelta(seconds=_PATIENCE)
                store = TCPStore(host, port, timeout=patience, wait_for_workers=False)
                if store.get("token").decode() == place["token"]:
                    store.set_timeout(timedelta(seconds=timeout_s))
                    return store
            except (OSError, RuntimeError, ValueError):  # nobody there, or not a store
                pass
        time.sleep(0.05)
    raise CareError(
        f"rank {rank} waited {timeout_s:g} s for rank 0 to open {meeting}; "
        "see rank 0's log, and whether both hosts see that folder and reach each other"
    )


def _wait_for_all(store: TCPStore, rank: int, size: int, deadline: float, timeout_s: float) -> None:
    store.set(f"here/{rank}", "")
    missing = list(range(size))
    while missing := [peer for peer in missing if not store.check([f"here/{peer}"])]:
        if time.monotonic() > deadline:
            names = ", ".join(str(peer) for peer in missing)
            raise CareError(
                f"rank {rank} waited {timeout_s:g} s for rank {names} of {size}; "
                "see their logs, and whether the job got all its processes"
            )
        time.sleep(0.02)


def _own_address() -> str:
    """This host's address for the other hosts; its own name often means the loopback to itself."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("10.255.255.255", 1))  # sends nothing: it asks for the route only
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()
