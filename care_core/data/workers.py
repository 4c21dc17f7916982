"""Worker processes that make a dataset's items ahead of time, in order.

A worker lives and dies with the process that started it, and with nothing else: a cluster warns
every process of a job of its end, and the loop that is about to save still needs its images.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
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
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from care_core.errors import CareError

T = TypeVar("T")


class WorkerDiedError(CareError):
    """A worker died while it was `at` these (`working_on`), `killed` from outside or by itself."""

    at: tuple[str, ...] = ()
    ending: str = ""
    killed: bool = True


#: What a terminal or a cluster sends to all processes of a job at once.
_NOT_FOR_WORKERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_PR_SET_PDEATHSIG = 1
_MOST = 16
_NOTE = 1024  # bytes


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
            same class and with the same sentence as it had in the worker; or a worker died, with
            what it was at (`working_on`).
    """
    return Loader(dataset, keys, workers)


class Loader(Generic[T]):
    """An iterator over items (see `loader`). `close` ends the workers; so does the last item."""

    def __init__(self, dataset: Dataset[T], keys: Iterable[Any], workers: int) -> None:
        #: what each worker is at, in memory that outlives it
        self._notes = torch.zeros(workers, _NOTE, dtype=torch.uint8).share_memory_()
        found = DataLoader(
            _Caught(dataset),
            batch_size=None,
            sampler=keys,
            num_workers=workers,
            collate_fn=_as_it_is,
            worker_init_fn=functools.partial(_settle, notes=self._notes),
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
            words = str(error).splitlines()[0]
            death = self._death(words) if words.startswith("DataLoader worker") else None
            self.close()
            if death is None:
                raise
            raise death from error
        if isinstance(item, _Failure):
            self.close()
            raise item.error or RuntimeError(f"while an item was made:\n{item.text}")
        return item

    def _death(self, words: str) -> WorkerDiedError:
        """What to say of workers that died: how, at which file, and what to do."""
        pairs = zip(getattr(self._items, "_workers", ()), self._notes, strict=False)
        dead = [(worker.exitcode, _text(note)) for worker, note in pairs if not worker.is_alive()]
        how = ", ".join(_ending(code) for code, _ in dead) or words
        at = tuple(text for _, text in dead if text)
        places = f" at {' and '.join(at)}" if at else ""
        memory = "memory or shared memory (/dev/shm) ran out: take fewer of them (launch.workers)"
        file = (
            "that file breaks the decoder: remove or repair it (`carectl data verify` finds others)"
            if at
            else "a file breaks the decoder: `carectl data verify` finds it"
        )
        killed = not dead or any(code == -signal.SIGKILL for code, _ in dead)
        likely, other = (memory, file) if killed else (file, memory)
        error = WorkerDiedError(
            f"a process that makes images ready died{places} ({how})\n"
            f"Most likely {likely}. If not, {other}."
        )
        error.at, error.ending, error.killed = at, how, killed
        return error

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
        working_on(f"item {key}")
        try:
            return self.dataset[key]
        except CareError as error:
            return _Failure(error.with_traceback(None), "")
        except Exception:
            return _Failure(None, f"{_text(_note)}\n{traceback.format_exc()}")


#: Of this process: what it is at. A worker's lies in memory that outlives it.
_note = torch.zeros(_NOTE, dtype=torch.uint8)


def working_on(what: object) -> None:
    """Note what this process makes ready, such as an image's path: said if it dies of it."""
    text = os.fsencode(str(what))[-_NOTE:].ljust(_NOTE, b"\0")
    _note.numpy().data[:] = text


def _text(note: Tensor) -> str:
    return bytes(note.numpy()).rstrip(b"\0").decode(errors="replace")


def _as_it_is(item: T) -> T:
    return item


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"by {signal.Signals(-code).name}"
    return f"exit code {code}"


def _settle(worker: int, notes: Tensor) -> None:
    """In a new worker: one thread, deaf to the job's signals, and gone when the parent is."""
    global _note
    _note = notes[worker]
    torch.set_num_threads(1)
    for number in _NOT_FOR_WORKERS:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        # at once, where DataLoader's own watch takes seconds: what is inherited, such as the lock
        # of a run, must not outlive its owner
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
