"""A document as Markdown that shows every name as it is."""

from __future__ import annotations

import re
from collections.abc import Iterable

from carectl.reports.document import Cell, DataTable, Document


def text(document: Document) -> str:
    """Title, warnings, findings, figures, tables, setting, what differs, and the runs."""
    parts = [f"# {_escape(document.title)}", ""]
    parts += [line for told in document.warnings for line in (f"> **§ {_escape(told)}**", "")]
    parts += [_escape(document.question), ""] if document.question else []
    parts += [*_bullets(document.findings)]
    for figure in document.figures:
        parts += [f"![{_escape(figure.alt)}]({figure.key}.png)", "", _escape(figure.caption), ""]
    for table in document.tables:
        parts += _table(table)
    for title, lines in (("Setting", document.setting), ("What differs", document.differs)):
        parts += [f"## {title}", "", *_bullets(lines)] if lines else []
    parts += ["## Runs", "", *_rows(_runs(document)), ""]
    parts += [_escape(f"Source: {document.source}"), ""] if document.source else []
    return "\n".join(parts)


def _table(table: DataTable) -> list[str]:
    head = [_escape(column.head) for column in table.columns]
    rule = ["---:" if column.numeric else "---" for column in table.columns]
    rows = [[_cell(cell) for cell in row] for row in table.rows]
    notes = [line for note in table.notes for line in (_escape(note), "")]
    return [f"## {_escape(table.caption)}", "", *_rows([head, rule, *rows]), "", *notes]


def _cell(cell: Cell) -> str:
    shown = _escape(cell.text)
    shown = f"**{shown}**" if cell.strong else shown
    return f"{shown} ({cell.mark})" if cell.mark and cell.mark not in cell.text else shown


def _runs(document: Document) -> list[list[str]]:
    rows = [["run", "of", "seed", "state", "preset", "code", "seconds"], ["---"] * 7]
    for run in document.runs:
        state = f"{run.state}: {run.reason}" if run.reason else run.state
        code = run.commit + ("+" if run.dirty else "")
        seconds = "" if run.seconds is None else f"{run.seconds:.1f}"
        seed = "" if run.seed is None else str(run.seed)
        fields = (run.id, run.label, seed, state, run.fidelity, code, seconds)
        rows.append([_escape(field) for field in fields])
    return rows


def _rows(cells: Iterable[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in cells]


def _bullets(lines: Iterable[str]) -> list[str]:
    found = [f"- {_escape(line)}" for line in lines]
    return [*found, ""] if found else []


def _escape(words: str) -> str:
    """Text that Markdown shows as it is, on one line: no mark, heading, list, link or entity."""
    flat = re.sub(r"([\\|\[\]<>*`_~#&$])", r"\\\1", " ".join(words.split()))
    flat = re.sub(r"^([-+=]|\d+[.)])(?=\s|$)", lambda m: f"{m[1][:-1]}\\{m[1][-1]}", flat)
    return re.sub(r"(?<=\w):(?=//)", r"\\:", flat)
