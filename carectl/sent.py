"""How far a run's record has arrived in MLflow: `sent.json`, so that no process begins anew.

A row that is sent again adds nothing, but costs a server as much as a new one. The note counts for
the store and the MLflow run that it names alone, and only while the last row that it names stands
in the record where it stood: another store gets everything, and so does one whose run's record was
cut back and written anew. The note may be behind, or be lost; it is never ahead.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from care_core.errors import StorageError
from care_core.files import read_json, write_json
from care_core.metrics import Row
from carectl import redaction

FILE = "sent.json"


class Receiver(NamedTuple):
    """A run of MLflow, and the store that it is in."""

    address: str
    run_id: str


def count(run_dir: Path, to: Receiver, record: Sequence[Row]) -> int:
    """How many rows of the record, from its first, a receiver is known to have."""
    found = read_json(run_dir / FILE)
    rows = found.get("rows") if isinstance(found, dict) else None
    if not isinstance(rows, int) or not 0 < rows <= len(record):
        return 0
    # as text: a value that is not a number equals nothing
    return rows if json.dumps(found) == json.dumps(_words(to, record, rows)) else 0


def note(run_dir: Path, to: Receiver, record: Sequence[Row], rows: int) -> None:
    """Write down that the first so many rows have arrived."""
    with contextlib.suppress(StorageError):  # a full disk or a read-only folder: sent once more
        write_json(run_dir / FILE, _words(to, record, rows), durable=False)


def _words(to: Receiver, record: Sequence[Row], rows: int) -> dict[str, Any]:
    address = redaction.address(to.address)  # a store is the same under a new password
    return {"uri": address, "run_id": to.run_id, "rows": rows, "last": record[rows - 1]}
