"""What a run tells of itself as it goes: `metrics.jsonl`, its record, and `progress.json`, a view.

The record has one {key, value, step, timestamp} a line, for every point of every curve. A resumed
run cuts it back to its checkpoint and writes the steps again. Rows that were published (sent to a
tracking server) are facts and stay: the run is deterministic, so the steps done again have the
same values, and they are not recorded twice.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from care_core.files import read_json, storage_error, write_bytes, write_json


class Row(NamedTuple):
    """One point of a curve; the timestamp is in milliseconds since 1970."""

    key: str
    value: float
    step: int
    timestamp: int


class MetricsLog:
    """Appends to a run's record, never a row for a step that is already there."""

    def __init__(self, run_dir: Path, resume_step: int) -> None:
        self.path = run_dir / "metrics.jsonl"
        self._floor = max(resume_step, published(run_dir))
        kept = [row for row in read(run_dir) if row.step <= self._floor]
        write_bytes(self.path, b"".join(_line(row) for row in kept))

    def append(self, step: int, values: dict[str, float]) -> None:
        """Record the values of one step, in milliseconds of the wall clock."""
        if step <= self._floor:
            return
        now = int(time.time() * 1000)
        rows = (Row(key, value, step, now) for key, value in values.items())
        try:
            with self.path.open("ab") as file:
                file.write(b"".join(_line(row) for row in rows))
        except OSError as error:
            raise storage_error(self.path, error) from error

    def sync(self) -> None:
        """Bring the rows to the disk: a checkpoint must never be ahead of its record."""
        try:
            with self.path.open("ab") as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise storage_error(self.path, error) from error


def read(run_dir: Path) -> Iterator[Row]:
    """The rows of a run's record; a line torn by a kill ends it."""
    path = run_dir / "metrics.jsonl"
    if not path.is_file():  # a pipe would be waited for
        return
    with path.open("rb") as file:
        for line in file:
            try:
                fields = json.loads(line)
                row = Row(fields["key"], fields["value"], fields["step"], fields["timestamp"])
                if not _sound(row):
                    return
            except (ValueError, KeyError, TypeError, RecursionError):
                return
            if not line.endswith(b"\n"):
                return
            yield row


def published(run_dir: Path) -> int:
    """The step up to which rows may have been published; -1: none."""
    record = read_json(run_dir / "published.json")
    step = record.get("step") if isinstance(record, dict) else None
    return step if isinstance(step, int) else -1


def publishing(run_dir: Path, step: int) -> None:
    """Record, before sending, that rows up to `step` are about to be published."""
    if step > published(run_dir):
        write_json(run_dir / "published.json", {"step": step})


def complete(run_dir: Path) -> bool:
    """Whether everything of a done run was published."""
    record = read_json(run_dir / "published.json")
    return isinstance(record, dict) and bool(record.get("complete"))


def completed(run_dir: Path, step: int) -> None:
    """Record that everything up to the last step was published."""
    write_json(run_dir / "published.json", {"step": step, "complete": True})


def write_progress(
    run_dir: Path,
    *,
    epoch: int,
    epochs: int,
    step: int,
    steps: int,
    images_per_s: float | None = None,
    eta_s: float | None = None,
    data_bound: float | None = None,
    latest: dict[str, float] | None = None,
) -> None:
    """Replace progress.json, what a waiting person wants to see. Not synced: it is only a view.

    Args:
        epoch, step: how many are done, of `epochs` and `steps`.
        eta_s: seconds that are left.
        data_bound: the share of the time in which the device waited for image files.
        latest: the newest value of each curve.
    """
    write_json(
        run_dir / "progress.json",
        {
            "epoch": epoch,
            "epochs": epochs,
            "step": step,
            "steps": steps,
            "images_per_s": images_per_s,
            "eta_s": eta_s,
            "data_bound": data_bound,
            "heartbeat": time.time(),
            "uptime": time.monotonic(),  # the heartbeat by the one clock that nobody sets
            "metrics": latest or {},
        },
        durable=False,
    )


def _sound(row: Row) -> bool:
    whole = isinstance(row.step, int) and isinstance(row.timestamp, int)
    return isinstance(row.key, str) and isinstance(row.value, int | float) and whole


def _line(row: Row) -> bytes:
    return (json.dumps(row._asdict()) + "\n").encode()
