"""Worker processes that make a dataset's items ahead of time, in order.

A worker lives and dies with the process that started it, and with nothing else: a cluster warns
every process of a job of its end, and the loop that is about to save still needs its images.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import multiprocessing.util  # noqa: F401 - joins its children at exit: loaded first, it acts last
import os
import signal
import sys
import threading
import traceback
import weakref
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from care_core.errors import CareError

T = TypeVar("T")

#: What a terminal or a cluster sends to all processes of a job at once.
_NOT_FOR_WORKERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_PR_SET_PDEATHSIG = 1
_MOST = 16


def cores() -> int:
    """How many workers use this machine well where nothing says how many: its cores, to 16."""
    return min(_MOST, len(os.sched_getaffinity(0)))


def loader(dataset: Dataset[T], keys: Iterable[Any], workers: int) -> Loader[T]:
    """`dataset[key]` for each key, in the keys' order, made ahead of time in `workers` processes.

    Items come as the dataset makes them, not collated; two a worker are made ahead. Tensors come
    through shared memory with an open file each, so let a key stand for many images; they are
    pinned if this process uses CUDA. Nothing is drawn from torch's own generator.

    Args:
        dataset: map-style. It is copied into the workers, and must be picklable.
        keys: taken as they are needed.
        workers: processes; 0 makes the items in this one.

    Raises:
        CareError: while iterating, what a dataset raises (a DataError names its file), of the
            same class and with the same sentence as it had in the worker; or a worker died.
    """
    return Loader(dataset, keys, workers)


class Loader(Generic[T]):
    """An iterator over items (see `loader`). `close` ends the workers; so does the last item."""

    def __init__(self, dataset: Dataset[T], keys: Iterable[Any], workers: int) -> None:
        found = DataLoader(
            _Caught(dataset),
            batch_size=None,
            sampler=keys,
            num_workers=workers,
            collate_fn=_as_it_is,
            worker_init_fn=_settle,
            pin_memory=torch.cuda.is_initialized(),
            generator=torch.Generator(),  # else it would draw from the global one
        )
        with _deaths_told_by_next():
            self._items: Iterator[Any] | None = iter(found)
        _open.add(self)

    def __iter__(self) -> Loader[T]:
        return self

    def __next__(self) -> T:
        if self._items is None:
            raise StopIteration
        try:
            item = next(self._items)
        except StopIteration:
            self.close()
            raise
        except RuntimeError as error:
            self.close()
            if not str(error).startswith("DataLoader worker"):
                raise
            raise CareError(
                f"a process that makes images ready died: {str(error).splitlines()[0]}\n"
                "Most likely memory or shared memory (/dev/shm) ran out: take fewer of them "
                "(launch.workers). If not, `carectl data verify` finds a file that breaks the "
                "decoder."
            ) from error
        if isinstance(item, _Failure):
            self.close()
            raise item.error or RuntimeError(f"while an item was made:\n{item.text}")
        return item

    def close(self) -> None:
        """End the workers. Harmless if it was done before."""
        items, self._items = self._items, None
        shut_down = getattr(items, "_shutdown_workers", None)  # else it waits for the collector
        if shut_down:
            shut_down()

    def __enter__(self) -> Loader[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # an interpreter that ends has lost its modules
            self.close()


@contextlib.contextmanager
def _deaths_told_by_next() -> Iterator[None]:
    """DataLoader's handler of a worker's death would raise wherever the loop is just then."""
    before = signal.getsignal(signal.SIGCHLD)
    yield
    if before is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, before)


_open: weakref.WeakSet[Loader[Any]] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Workers end when they are told to: nobody may wait for them before that."""
    for each in list(_open):
        each.close()


class _Failure(NamedTuple):
    """What an item became instead: a sentence for a person as it is, a defect as its traceback."""

    error: CareError | None
    text: str


class _Caught(Dataset[Any]):
    """Hands an exception on as a value: DataLoader would wrap it into its traceback."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.dataset[key]
        except CareError as error:
            return _Failure(error.with_traceback(None), "")
        except Exception:
            return _Failure(None, traceback.format_exc())


def _as_it_is(item: T) -> T:
    return item


def _settle(worker: int) -> None:
    """In a new worker: one thread, deaf to the job's signals, and gone when the parent is."""
    torch.set_num_threads(1)
    for number in _NOT_FOR_WORKERS:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        # at once, where DataLoader's own watch takes seconds: what is inherited, such as the lock
        # of a run, must not outlive its owner
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
