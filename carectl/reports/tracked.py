"""A report's files in MLflow: artifacts of one run a target and profile, brought up to date."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from carectl import tracking
from carectl.console.output import Output
from carectl.flow import Options
from carectl.reports.document import Document

if TYPE_CHECKING:
    from carectl.submission import Place


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
    try:
        return tracking.store_report(
            tracking.uri(place.project), place.experiment, place.project,
            target, documents[0].profile, folder.name, list(files), place.tags,
        )  # fmt: skip
    except Exception as error:
        told = tracking.first_line(error)[:200]
        output.note(f"warning: the report is in {folder}, but not in MLflow: {told}")
        return ""
