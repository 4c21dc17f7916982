"""A document for a terminal: its tables within the width there is, its findings, its runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from carectl.reports.document import Cell, DataTable, Document, RunNote

if TYPE_CHECKING:
    import rich.console
    import rich.table

RUNS = 24  # that are listed; of more only those without a result
MARKS = {"within": "✓", "outside": "✗", "uncertain": "?", "not comparable": "§",
         "too few seeds": "·"}  # fmt: skip


def render(document: Document, width: int) -> rich.console.Group:
    """All that a person needs at once; names are text, never markup.

    Args:
        width: columns of the terminal. Columns of the highest rank go first where they do not fit,
            and it is said which.
    """
    from rich.console import Group
    from rich.text import Text

    parts: list[rich.console.RenderableType] = [
        Text(f"§ {told}", style="bold yellow") for told in document.warnings
    ]
    for table in document.tables:
        parts += [Text(table.caption, style="bold"), *_table(table, width), ""]
    parts += [Text(finding) for finding in document.findings]
    parts += ["", Text(" ".join(document.setting), style="dim")]
    listed = document.runs if len(document.runs) <= RUNS else document.missing
    if listed:
        parts += ["", _runs(listed)]
    if len(listed) < len(document.runs):
        done = len(document.runs) - len(document.missing)
        parts.append(
            Text(f"{done} of {len(document.runs)} runs are done; the page lists them all.")
        )
    return Group(*parts)


def _table(table: DataTable, width: int) -> list[rich.console.RenderableType]:
    from rich.table import Table as Rich
    from rich.text import Text

    kept = _fitting(table, width)
    shown = Rich(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for number in kept:
        column = table.columns[number]
        shown.add_column(
            Text(_head(table, number)), justify="right" if column.numeric else "left",
            vertical="bottom", no_wrap=column.numeric, overflow="fold",
        )  # fmt: skip
    for row in table.rows:
        shown.add_row(*(Text(_text(row[i]), style="bold" if row[i].strong else "") for i in kept))
    found: list[rich.console.RenderableType] = [shown]
    used = dict.fromkeys(row[i].mark for row in table.rows for i in kept if row[i].mark in MARKS)
    if used:
        legend = ", ".join(f"{MARKS[mark]} {mark}" for mark in used)
        found.append(Text(legend, style="dim"))
    found += [Text(note, style="dim") for note in table.notes]
    left = [column.head for i, column in enumerate(table.columns) if i not in kept]
    if left:
        found.append(Text(f"Not shown for want of width: {', '.join(left)}.", style="dim"))
    return found


def _head(table: DataTable, number: int) -> str:
    """A title, over two lines where it is wider than what stands under it."""
    title = table.columns[number].head
    widest = max((len(_text(row[number])) for row in table.rows), default=0)
    if len(title) <= max(widest, 6):
        return title
    breaks = [i for i, char in enumerate(title) if char == " "]
    if not breaks:
        return title
    middle = min(breaks, key=lambda i: abs(i - len(title) / 2))
    return f"{title[:middle]}\n{title[middle + 1 :]}"


def _fitting(table: DataTable, width: int) -> list[int]:
    """The columns that fit; of the same rank the last goes first. The first two always stay."""

    def wide(number: int) -> int:
        parts = [*_head(table, number).split("\n"), *(_text(row[number]) for row in table.rows)]
        return max(map(len, parts)) + 2

    kept = list(range(len(table.columns)))
    while sum(map(wide, kept)) - 2 > width and len(kept) > 2:
        kept.remove(max(kept[1:], key=lambda i: (table.columns[i].rank, i)))
    return kept


def _text(cell: Cell) -> str:
    flat = " ".join(cell.text.split())
    return f"{flat} {MARKS[cell.mark]}" if cell.mark in MARKS else flat


def _runs(notes: Sequence[RunNote]) -> rich.table.Table:
    from rich.table import Table as Rich
    from rich.text import Text

    shown = Rich(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("runs of", "seed", "what", "run", "state"):
        shown.add_column(title, overflow="fold")
    for run in notes:
        role = run.role if run.epoch is None else f"{run.role} at {run.epoch}"
        shown.add_row(
            Text(run.label), "" if run.seed is None else str(run.seed),
            Text(role), Text(run.short), run.state,
        )  # fmt: skip
    return shown
