"""Work that a GPU is told once and then does again and again: CUDA graphs.

A step of a small network is thousands of short kernels. To launch each from Python takes longer
than to run them (ResNet-18, 256 images at 32 pixels, on an H100: docs/performance.md), so the
launches of a step are recorded and played back by one call.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from care_core.distributed import World
from care_core.errors import CareError
from care_core.spec import PretrainSpec

#: Calls before the one that is recorded: the first ones make moments and workspaces and compile.
WARM_UP = 3


def recordable(spec: PretrainSpec, world: World, device: torch.device) -> bool:
    """Whether a step of the spec is the same launches each time, none decided by the host.

    Ranks exchange between them, fp16's scaler and timm's LARS look at values, and timm's networks
    draw what they drop.
    """
    return (
        device.type == "cuda"
        and spec.launch.cuda_graphs
        and world.size == 1
        and spec.training.precision != "fp16"
        and spec.optimizer.name != "lars"
        and not spec.model.backbone.startswith("timm/")
    )


class Recorded:
    """A function of tensors, whose launches are recorded and from then on played back.

    It has to launch the same kernels on the same shapes each time, with nothing from the host but
    what it is given. What it changes in place it changes in every call, recorded or not.
    """

    def __init__(
        self, function: Callable[[list[Tensor]], list[Tensor]], device: torch.device, on: bool
    ) -> None:
        """`on`: whether to record at all; else the function is merely called."""
        self.function, self.device, self.on = function, device, on
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.pool: Any = None  # memory to record in; graphs that share one must not be held apart
        self.given: list[Tensor] = []  # where the graph reads, and
        self.made: list[Tensor] = []  # where it writes

    def __call__(self, given: Sequence[Tensor]) -> list[Tensor]:
        """What the function makes of the tensors, from any device. The results are the caller's.

        Raises:
            CareError: the function cannot be recorded.
            torch.OutOfMemoryError: the GPU does not hold it.
        """
        self.calls += 1
        if not self.on or self.calls <= WARM_UP:
            return self.function([self._here(tensor) for tensor in given])
        if self.graph is None:
            self.given = [self._here(tensor).clone() for tensor in given]
            self._record()
            assert self.graph is not None
        else:
            for place, tensor in zip(self.given, given, strict=True):
                place.copy_(tensor, non_blocking=True)
        self.graph.replay()
        return [tensor.clone() for tensor in self.made]  # the next call writes there again

    @property
    def ready(self) -> bool:
        """Whether the next call is recorded, or played back."""
        return self.on and self.calls >= WARM_UP

    @contextlib.contextmanager
    def launched(self) -> Iterator[None]:
        """Within, every call is launched from the host, so that it can be looked into.

        What was recorded is forgotten: a method may hold what the function made last, and would
        go on with that. The next call is recorded anew.
        """
        on, self.on = self.on, False
        self.graph, self.given, self.made = None, [], []
        try:
            yield
        finally:
            self.on = on

    def _here(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)

    def _record(self) -> None:
        gc.collect()  # graphs of a run before, in this process: they hold memory
        graph = torch.cuda.CUDAGraph()
        # A stream of its own, on the function's device: graphs recorded on one stream share the
        # scratch memory of matrix products, and two may be played at once.
        stream = torch.cuda.Stream(self.device)
        try:
            # other threads, such as one that pins memory, may go on meanwhile
            with torch.cuda.graph(
                graph, pool=self.pool, stream=stream, capture_error_mode="thread_local"
            ):
                self.made = self.function(self.given)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            cause: BaseException = error  # the end of a broken recording fails, too
            while cause.__context__ is not None:
                cause = cause.__context__
            first = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
            raise CareError(
                f"a step could not be recorded as a CUDA graph ({first}); "
                "set launch.cuda_graphs=false"
            ) from error
        self.graph = graph
