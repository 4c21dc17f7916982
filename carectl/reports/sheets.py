"""A table as CSV: what it shows in full precision, its spread and marks in columns of their own.

A spreadsheet takes text that begins with = + - @ for a formula and computes it, so such a text
(a name of somebody's) stands behind an apostrophe. Numbers are numbers.
"""

from __future__ import annotations

import csv
import io
from typing import Any

from carectl.reports.document import Cell, DataTable

_BESIDE = (("sd", "spread"), ("n", "n"), ("low", "low"), ("high", "high"), ("note", "note"))


def text(table: DataTable) -> str:
    """The CSV, with a header; cells without a value keep their words, runs stand at the end."""
    columns: list[tuple[str, int, str]] = []
    for index, column in enumerate(table.columns):
        columns.append((column.head, index, "value"))
        cells = [row[index] for row in table.rows]
        columns += [
            (f"{column.head}: {name}", index, field)
            for name, field in (*_BESIDE, ("mark", "mark"))
            if any(getattr(cell, field) not in (None, "") for cell in cells)
        ]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*(_text(head) for head, _, _ in columns), "runs"])
    for row in table.rows:
        runs = dict.fromkeys(run for cell in row for run in cell.runs)
        writer.writerow([*(_field(row[i], name) for _, i, name in columns), _text(" ".join(runs))])
    return out.getvalue()


def _field(cell: Cell, name: str) -> str:
    value: Any = getattr(cell, name)
    if name == "value" and value is None:
        return "" if cell.text == "–" else _text(cell.text)
    return "" if value is None else _text(value) if isinstance(value, str) else str(value)


def _text(words: str) -> str:
    return f"'{words}" if words.lstrip().startswith(("=", "+", "-", "@", "|", "%")) else words
