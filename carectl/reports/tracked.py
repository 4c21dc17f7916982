"""A report's files in MLflow: artifacts of one run a target and profile, brought up to date.

What was sent, and to where, is noted beside the files as a hash: to load MLflow takes seconds, and
a report that is the same as before is not sent again.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from care_core.errors import StorageError
from care_core.files import read_json, write_json
from carectl import mlflow_runs, redaction, tracking
from carectl.console.output import Output
from carectl.flow import Options
from carectl.reports.document import Document

if TYPE_CHECKING:
    from carectl.submission import Place

NOTE = ".sent.json"


def store(
    target: str,
    documents: Sequence[Document],
    folder: Path,
    files: Iterable[Path],
    options: Options,
    output: Output,
) -> str:
    """Send a report's files; returns the MLflow run's id, or "" where nothing could be sent.

    Reports with other seeds or settings lie in folders of their own within that run. Nothing is
    lost if MLflow is: the files are in the folder, and a warning is said.
    """
    if all(run.state == "not run" for document in documents for run in document.runs):
        return ""  # nothing was ever submitted: no store is made for an empty table
    place: Place = options.place()
    address, sent = tracking.uri(place.project), list(files)
    named = (place.experiment, target, documents[0].profile, folder.name, place.tags)
    note = read_json(folder / NOTE)
    if isinstance(note, dict) and note.get("sent") == _mark(address, named, sent):
        return str(note.get("run_id"))
    try:
        run_id = mlflow_runs.store_report(
            address, place.experiment, place.project,
            target, documents[0].profile, folder.name, sent, place.tags,
        )  # fmt: skip
    except Exception as error:
        told = tracking.first_line(error)[:200]
        output.note(f"warning: the report is in {folder}, but not in MLflow: {told}")
        return ""
    with contextlib.suppress(StorageError):  # then it is sent again
        found = {"run_id": run_id, "sent": _mark(address, named, sent)}
        write_json(folder / NOTE, found, durable=False)
    return run_id


def _mark(address: str, named: object, files: Sequence[Path]) -> str:
    """The hash of a report's files, its names, and the store: of a file, this very one."""
    store = Path(address.removeprefix("sqlite:///"))
    this = store.stat().st_ino if address.startswith("sqlite:") and store.exists() else 0
    mark = hashlib.sha256(repr((redaction.address(address), this, named)).encode())
    for path in files:
        mark.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return mark.hexdigest()
