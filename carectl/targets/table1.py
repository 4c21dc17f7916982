"""Table 1: what a linear classifier makes of the frozen features, method by method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from carectl.reports import bars, cells, summary, tolerance, words
from carectl.reports.document import Column, DataTable, Document, Figure, Mark
from carectl.reports.summary import HEADLINE, Line, Table
from carectl.targets.context import Answer, Context

_JUDGED = "paper"  # the profile whose numbers are put beside the paper's
_DIFFERENCES = (
    Column("Linear probe, backbone", "points"), Column("projection", "points"),
    Column("kNN", "points", rank=2), Column("hue R², projection", rank=3),
)  # fmt: skip
_MEASURES = (HEADLINE, "linear, projection", "kNN, backbone", "hue R², projection")


def plan(context: Context) -> Sequence[Answer]:
    """The grid's cells."""
    return context.answers


def document(context: Context) -> Document:
    """A table a dataset, all of them side by side, CARE against its baselines, and the bars."""
    quoted = context.grid.quoted(context.profile, context.only)
    table = summary.summarise(context.entries, context.grid.reference, quoted)
    datasets = list(dict.fromkeys(dataset for dataset, _ in table.rows))
    judged = context.profile == _JUDGED
    tables = [_overview(table, datasets, judged)] if len(datasets) > 1 else []
    tables += [_dataset(table, dataset, judged) for dataset in datasets]
    if table.differences:
        tables.append(_differences(table))
    published = any(line.paper is not None for line in table.lines)
    return context.document(
        tables=tables,
        figures=[_bars(table)],
        findings=[*_told(table, judged), *words.sentences(table)],
        setting=[*words.notes(table), *([tolerance.RULE] if judged and published else [])],
        data=summary.values(table),
    )


def _overview(table: Table, datasets: Sequence[str], judged: bool) -> DataTable:
    """Methods × datasets, as in the paper."""
    rows = []
    for row in dict.fromkeys(row for _, row in table.rows):
        fields = []
        for dataset in datasets:
            line = table.line(row, dataset)
            if line is None:
                fields.append(cells.NOTHING)
                continue
            cell = cells.headline(line, words.state_of(table, row, dataset))
            mark, why = _judgement(table, line, judged)
            fields.append(replace(cell, mark=mark, note=why) if mark else cell)
        rows.append((cells.name(row), *fields))
    return DataTable(
        "overview",
        "Linear probe on the backbone's features, top-1 accuracy in per cent",
        (Column("Method", numeric=False), *(Column(name) for name in datasets)),
        tuple(rows),
    )


def _dataset(table: Table, dataset: str, judged: bool) -> DataTable:
    """Every measure of one dataset's methods, beside the published number if there is one."""
    lines = [line for line in table.lines if line.dataset == dataset]
    present = {line.measure for line in lines if line.n}
    published = any(line.paper is not None for line in lines)
    more = [
        (measure, column, places)
        for measure, column, places in (
            ("linear, projection", Column("projection", "%", rank=1), 2),
            ("kNN, backbone", Column("kNN", "%", rank=2), 2),
            ("hue R², backbone", Column("hue R², backbone", rank=6), 3),
            ("hue R², projection", Column("hue R², projection", rank=5), 3),
        )
        if measure in present
    ]
    columns = [
        Column("Method", numeric=False),
        Column("Linear probe", "%"),
        Column("sd over classifiers", rank=4),
        Column("n"),
        *([Column("paper", "%"), Column("Δ")] if published else []),
        *(column for _, column, _ in more),
    ]
    rows = []
    for place, row in table.rows:
        if place != dataset:
            continue
        line = table.line(row, dataset)
        fields = [
            cells.name(row),
            cells.headline(line, words.state_of(table, row, dataset)),
            cells.classifiers(line),
            cells.count(line),
        ]
        if published:
            mark, why = _judgement(table, line, judged) if line else (Mark.NONE, "")
            fields += [cells.paper(line), cells.delta(line, mark, why)]
        fields += [cells.number(table.line(row, dataset, m), places) for m, _, places in more]
        rows.append(tuple(fields))
    return DataTable(
        f"table1-{dataset}", f"Frozen encoders on {dataset}", tuple(columns), tuple(rows)
    )


def _judgement(table: Table, line: Line, judged: bool) -> tuple[Mark, str]:
    """What the tolerance says of a line, in the profile whose numbers are the paper's."""
    if not judged:
        return Mark.NONE, ""
    here = [cell for cell in table.cells if (cell.row, cell.dataset) == (line.row, line.dataset)]
    return tolerance.judge(line, any(cell.changes for cell in here))


def _told(table: Table, judged: bool) -> list[str]:
    """How many numbers are the paper's, and which are not."""
    lines = [line for line in table.lines if line.measure == HEADLINE and line.n]
    marks = [(line, _judgement(table, line, judged)[0]) for line in lines]
    within = sum(mark is Mark.WITHIN for _, mark in marks)
    outside = [f"{line.row} on {line.dataset}" for line, mark in marks if mark is Mark.OUTSIDE]
    if not within and not outside:
        return []
    judgeable = within + len(outside)
    told = (
        f"{within} of {judgeable} numbers that can be judged are the paper's within its tolerance"
    )
    return [f"{told}; outside: {', '.join(outside)}." if outside else f"{told}."]


def _differences(table: Table) -> DataTable:
    """CARE's term against the method that it is added to, paired by pretraining seed."""
    found = {(g.row, g.base, g.dataset, g.measure): g for g in table.differences}
    present = [measure for measure in _MEASURES if any(key[3] == measure for key in found)]
    several = len({key[2] for key in found}) > 1
    rows = []
    for row, base, dataset in dict.fromkeys(key[:3] for key in found):
        where = f", {dataset}" if several else ""
        fields = []
        for measure in present:
            lines = [table.line(name, dataset, measure) for name in (row, base)]
            gap = found.get((row, base, dataset, measure))
            cell = cells.difference(gap, 3 if measure.startswith("hue") else 1)
            runs = cells.runs_of([line for line in lines if line])
            fields.append(cell if gap is None else replace(cell, runs=runs))
        rows.append((cells.name(f"{row} − {base}{where}"), *fields))
    heads = [
        column
        for column, measure in zip(_DIFFERENCES, _MEASURES, strict=True)
        if measure in present
    ]
    one = all(len(gap.seeds) == 1 for gap in table.differences)
    how = (
        "n = 1: one seed is not evidence of a difference."
        if one
        else "Mean difference and its 95 % t interval over paired pretraining seeds; bold where "
        f"the interval leaves zero out: {len(table.differences)} comparisons, not corrected for "
        "that."
    )
    return DataTable(
        "differences",
        "What CARE's term changes, paired by seed",
        (Column("Difference", numeric=False), *heads),
        tuple(rows),
        (how,),
    )


def _bars(table: Table) -> Figure:
    lines = [line for line in table.lines if line.measure == HEADLINE]
    published = any(line.paper is not None for line in lines)
    told = [
        f"{line.row} on {line.dataset} {words.headline(line)}"
        for line in lines
        if line.mean is not None
    ]

    def draw(png: Path, svg: Path) -> None:
        bars.draw(table, png, svg)

    return Figure(
        "bars",
        "Linear-probe accuracy of frozen encoders, a bar a method, with 95 % intervals"
        + (" and single pretraining seeds" if any(line.n > 1 for line in lines) else "")
        + ("; diamonds are the paper's figures." if published else "."),
        "Bar chart of linear-probe accuracy in per cent: "
        + ("; ".join(told) or "nothing is measured"),
        draw,
        [summary.plain(line) for line in lines],
    )
