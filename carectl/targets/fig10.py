"""Figure 10: encoders trained with some of the loss's terms, and which of them collapse."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from carectl.reports import cells, summary, words
from carectl.reports.document import Cell, Column, DataTable, Document, Figure
from carectl.reports.drawing import BLUE, GREY, INK, RED, SOFT, plain, said, sheet
from carectl.reports.summary import HEADLINE, Line, Table
from carectl.targets import measured
from carectl.targets.context import Answer, Context
from carectl.targets.measured import Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PROJECTION = "linear, projection"
_ALONE = "equivariance"  # the row that the paper sees collapse
_WITH, _WITHOUT = "all three", "alignment + uniformity"
_BINS = 50  # of those recorded two are drawn as one


def plan(context: Context) -> Sequence[Answer]:
    """The grid's cells."""
    return context.answers


def document(context: Context) -> Document:
    """A table, accuracies and histograms of cosines a dataset, and what collapses."""
    table = summary.summarise(context.entries, context.grid.reference)
    found = measured.of(context, "geometry")
    datasets = list(dict.fromkeys(dataset for dataset, _ in table.rows))
    mine = {name: [m for m in found if m.dataset == name] for name in datasets}
    return context.document(
        tables=[_table(table, mine[name], name) for name in datasets],
        figures=[
            figure
            for name in datasets
            for figure in (_histograms(table, mine[name], name), _accuracies(table, name))
        ],
        findings=[
            *(text for name in datasets for text in _told(table, mine[name], name)),
            *(text for text in words.sentences(table) if "cells and seeds" in text),
        ],
        setting=words.notes(table),
        data=summary.values(table)
        | {
            "geometry": [
                {"row": m.row, "dataset": m.dataset, "seed": m.seed, "run": m.run, **m.numbers,
                 "cosines": m.detail.get("cosines")}
                for m in found
            ]
        },
    )  # fmt: skip


def _rows(table: Table, dataset: str) -> list[str]:
    return [row for place, row in table.rows if place == dataset]


def _of(found: Sequence[Measured], row: str) -> list[Measured]:
    return [m for m in found if m.row == row]


def _collapsed(found: Sequence[Measured], row: str) -> tuple[int, int] | None:
    """How many of a row's encoders are collapsed, and how many were looked at."""
    flags = [value for m in _of(found, row) if (value := m.number("collapsed")) is not None]
    return (sum(flag > 0.5 for flag in flags), len(flags)) if flags else None


def _verdict(found: Sequence[Measured], row: str) -> Cell:
    counted = _collapsed(found, row)
    if counted is None:
        return cells.NOTHING
    some, of = counted
    share = f" ({some} of {of})" if of > 1 else ""
    text = "collapsed" + share if some else "no" + share
    return Cell(text, some / of, n=of, runs=tuple(m.run for m in _of(found, row)))


def _table(table: Table, found: Sequence[Measured], dataset: str) -> DataTable:
    rows = []
    for row in _rows(table, dataset):
        mine = _of(found, row)
        line = table.line(row, dataset)
        rows.append((
            cells.name(row),
            _verdict(found, row),
            cells.headline(line, words.state_of(table, row, dataset)),
            cells.number(table.line(row, dataset, _PROJECTION)),
            cells.number(table.line(row, dataset, "kNN, backbone")),
            cells.number(measured.number(mine, "mean_cosine"), 3),
            cells.number(measured.number(mine, "cosine"), 3),
            cells.number(measured.number(mine, "effective_rank"), 1),
            cells.count(line),
        ))  # fmt: skip
    return DataTable(
        f"terms-{dataset}",
        f"Encoders of {dataset} that were trained with some of the terms",
        (
            Column("Terms", numeric=False), Column("collapsed", numeric=False),
            Column("Linear probe", "%"), Column("projection", "%", rank=1),
            Column("kNN", "%", rank=3), Column("cos, different images"),
            Column("cos, f(x) and f(a(x))", rank=1), Column("effective rank", rank=4), Column("n"),
        ),
        tuple(rows),
        (
            "Cosines are means, of projections. Collapsed: the mean cosine of different images is "
            "above 0.9, so that all lie near one point; a network that was not trained counts as "
            "collapsed too. The probe reads the backbone, which can hold more than its projection.",
        ),
    )  # fmt: skip


def _told(table: Table, found: Sequence[Measured], dataset: str) -> list[str]:
    told = []
    for row in _rows(table, dataset):
        counted = _collapsed(found, row)
        spread = measured.number(_of(found, row), "mean_cosine")
        if counted is None or spread is None or spread.mean is None:
            continue
        some, of = counted
        near = f"the mean cosine of different images is {spread.mean:.3f} (n = {of})"
        if some:
            name = "equivariance alone" if row == _ALONE else row
            how = "collapses" if some == of else f"collapses in {some} of {of} runs"
            told.append(f"On {dataset} {name} {how}: {near}; 1 is one point, 0 a filled sphere.")
        elif row == _ALONE:
            told.append(f"On {dataset} equivariance alone did not collapse here: {near}.")
        elif "alignment" not in row and row != _WITH and "equivariance" in row:
            told.append(f"On {dataset} {row}, without any alignment, is not trivial: {near}.")
    for measure, places in ((HEADLINE, 1), (_PROJECTION, 1)):
        gap = summary.difference(*(table.line(row, dataset, measure) for row in (_WITH, _WITHOUT)))
        if gap is not None:
            probe = measure.replace(", ", " probe on the ") + ", points"
            gap = dataclasses.replace(gap, base=f"({_WITHOUT})", measure=probe)
            told.append(measured.sentence(gap, places, f" on {dataset}"))
    return told


def _shares(found: Sequence[Measured], row: str) -> tuple[list[float], list[float]] | None:
    """(edges, per cent in each bin) of cos(f(x), f(a(x))) over a row's encoders together."""
    kept = [c for m in _of(found, row) if isinstance(c := m.detail.get("cosines"), dict)]
    counts = [sum(bins) for bins in zip(*(c["counts"] for c in kept), strict=True)]
    if not kept or not sum(counts):
        return None
    edges, step = list(kept[0]["edges"]), max(1, len(counts) // _BINS)
    merged = [sum(counts[i : i + step]) for i in range(0, len(counts), step)]
    return [*edges[:-1:step], edges[-1]], [100 * count / sum(counts) for count in merged]


def _histograms(table: Table, found: Sequence[Measured], dataset: str) -> Figure:
    rows = _rows(table, dataset)
    shares = {row: _shares(found, row) for row in rows}

    def draw(png: Path, svg: Path) -> None:
        lines = -(-len(rows) // 2)
        with sheet(png, svg, height=0.7 + 2.0 * lines, layout="constrained") as figure:
            grid = figure.subplots(lines, 2, squeeze=False, sharex=True)
            for place, row in zip(grid.flat, rows, strict=False):
                _histogram(place, row, shares[row], found)
            for place in grid.flat[len(rows) :]:
                place.set_axis_off()
            for place in (grid[-1, 0], grid[-1, 1]):
                place.set_xlabel("cosine of two projections")

    return Figure(
        f"cosines-{dataset}",
        f"How an augmentation moves the projections of {dataset}: cos(f(x), f(a(x))) of every test "
        "image under every drawn augmentation. The dashed line is the mean cosine of different "
        "images; where it lies at 1 too, all projections are one point. Orange-red is what "
        "collapsed. Each panel has a vertical axis of its own.",
        f"Histograms of cosines on {dataset}: " + "; ".join(_seen(found, row) for row in rows),
        draw,
        {row: {"edges": s[0], "per cent": s[1]} for row, s in shares.items() if s},
    )  # fmt: skip


def _seen(found: Sequence[Measured], row: str) -> str:
    mine = _of(found, row)
    cosine, spread = (measured.number(mine, key) for key in ("cosine", "mean_cosine"))
    if cosine is None or spread is None:
        return f"{row} is not measured"
    counted = _collapsed(found, row)
    so = ", collapsed" if counted and counted[0] else ""
    return (
        f"{row} has a mean of {cosine.mean:.2f}, and {spread.mean:.2f} between different images{so}"
    )


def _histogram(
    axes: Axes, row: str, shares: tuple[list[float], list[float]] | None, found: Sequence[Measured]
) -> None:
    counted = _collapsed(found, row)
    collapsed = bool(counted and counted[0])
    axes.set_title(plain(row))
    axes.set(xlim=(-1.02, 1.02), xticks=(-1, -0.5, 0, 0.5, 1), ylabel="share of pairs, %")
    if shares is None:
        said(axes, "not measured")
        return
    axes.stairs(shares[1], shares[0], fill=True, color=RED if collapsed else BLUE)
    spread = measured.number(_of(found, row), "mean_cosine")
    if spread is not None and spread.mean is not None:
        axes.axvline(spread.mean, color=INK, linewidth=1.2, linestyle="--")
        left = spread.mean > 0
        axes.annotate(
            f"different images: {spread.mean:.2f}" + ("\ncollapsed" if collapsed else ""),
            (spread.mean, 0.97), xycoords=axes.get_xaxis_transform(),
            xytext=(-5 if left else 5, 0), textcoords="offset points", va="top",
            ha="right" if left else "left", fontsize=9, color=SOFT,
            weight="bold" if collapsed else "normal",
        )  # fmt: skip


def _accuracies(table: Table, dataset: str) -> Figure:
    rows = _rows(table, dataset)
    layers = (("backbone", HEADLINE, BLUE, "o"), ("projection", _PROJECTION, RED, "s"))

    def draw(png: Path, svg: Path) -> None:
        with sheet(png, svg, height=1.0 + 0.5 * len(rows), layout="constrained") as figure:
            axes = figure.subplots()
            for number, (name, measure, colour, marker) in enumerate(layers):
                for place, row in enumerate(rows):
                    line = table.line(row, dataset, measure)
                    _dot(axes, line, place + 0.24 * number - 0.12, colour, marker)
                axes.plot([], [], color=colour, marker=marker, linestyle="none", label=name)
            for place, row in enumerate(rows):
                if not (line := table.line(row, dataset)) or line.mean is None:
                    axes.text(0.01, place, words.state_of(table, row, dataset), va="center",
                              style="italic", color=SOFT,
                              transform=axes.get_yaxis_transform())  # fmt: skip
            axes.set_yticks(range(len(rows)), [plain(row) for row in rows])
            axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel="accuracy of a linear probe, %")
            axes.grid(visible=False, axis="y")
            axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.2)

    lines = [line for line in table.lines if line.dataset == dataset and line.n]
    told = [
        f"{line.row} {words.headline(line)}" for line in lines if line.measure == HEADLINE
    ]  # fmt: skip
    kinds = dict.fromkeys(
        line.interval for line in lines if line.interval and line.measure == HEADLINE
    )
    return Figure(
        f"accuracies-{dataset}",
        f"Linear-probe accuracy on {dataset} by the terms that an encoder was trained with, from "
        "the backbone and from the projection." + (f" Bars: {'; '.join(kinds)}." if kinds else ""),
        f"Dot plot of linear-probe accuracy in per cent on {dataset}, backbone: "
        + ("; ".join(told) or "nothing is measured"),
        draw,
        [summary.plain(line) for line in lines if line.measure in (HEADLINE, _PROJECTION)],
    )


def _dot(axes: Axes, line: Line | None, place: float, colour: str, marker: str) -> None:
    if line is None or line.mean is None:
        return
    if line.low is not None and line.high is not None:
        reach = [[line.mean - line.low], [line.high - line.mean]]
        axes.errorbar(line.mean, place, xerr=reach, fmt="none", ecolor=colour, elinewidth=1.2,
                      capsize=3)  # fmt: skip
    axes.plot(line.mean, place, color=colour, marker=marker, markersize=7, linestyle="none")
    if line.n > 1:
        axes.scatter(line.values, [place] * line.n, s=9, color=GREY, zorder=4, linewidths=0)
