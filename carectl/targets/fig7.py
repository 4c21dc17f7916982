"""Figure 7: what a probe reads of encoders that were trained at several weights λ of the term."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from carectl.reports import cells, summary, words
from carectl.reports.document import Cell, Column, DataTable, Document, Figure
from carectl.reports.drawing import BLUE, PALE, RED, SOFT, plain, said, sheet
from carectl.reports.summary import HEADLINE, Line, Table
from carectl.targets import measured
from carectl.targets.context import Answer, Context

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BEST = (0.01, 0.1)  # the paper: the best weights on CIFAR10 lie between
_ON = "cifar10"
_PROJECTION = "linear, projection"
_HUES = ("hue R², backbone", "hue R², projection")
_COLUMNS = (
    (_PROJECTION, Column("projection", "%"), 2),
    ("kNN, backbone", Column("kNN", "%", rank=2), 2),
    (_HUES[0], Column("hue R², backbone", rank=3), 3),
    (_HUES[1], Column("hue R², projection", rank=1), 3),
)

Weights = dict[str, float]  # row → λ, rising


def plan(context: Context) -> Sequence[Answer]:
    """The grid's cells."""
    return context.answers


def document(context: Context) -> Document:
    """A table, a picture and what they show, a dataset each."""
    table = summary.summarise(context.entries, context.grid.reference)
    datasets = {dataset: _weights(context, dataset) for dataset, _ in table.rows}
    return context.document(
        tables=[_table(table, dataset, weights) for dataset, weights in datasets.items()],
        figures=[_figure(table, dataset, weights) for dataset, weights in datasets.items()],
        findings=[
            *(text for name, weights in datasets.items() for text in _told(table, name, weights)),
            *(text for text in words.sentences(table) if "cells and seeds" in text),
        ],
        setting=words.notes(table),
        data=summary.values(table) | {"weights": datasets},
    )


def _weights(context: Context, dataset: str) -> Weights:
    found = {
        answer.cell.row: answer.spec.equivariance.weight
        for answer in context.answers
        if answer.cell.dataset == dataset
    }
    return dict(sorted(found.items(), key=lambda pair: pair[1]))


def _zero(weights: Weights) -> str | None:
    """The row of λ = 0, if it is asked for."""
    return next((row for row, weight in weights.items() if weight == 0), None)


def _gap(table: Table, row: str, dataset: str, weights: Weights, measure: str = HEADLINE,
         ) -> summary.Difference | None:  # fmt: skip
    """A row − λ = 0, paired by seed."""
    zero = _zero(weights)
    if zero is None or zero == row:
        return None
    return summary.difference(table.line(row, dataset, measure), table.line(zero, dataset, measure))


def _table(table: Table, dataset: str, weights: Weights) -> DataTable:
    lines = [line for line in table.lines if line.dataset == dataset and line.n]
    more = [entry for entry in _COLUMNS if entry[0] in {line.measure for line in lines}]
    paired = _zero(weights) is not None
    rows = []
    for row, weight in weights.items():
        line = table.line(row, dataset)
        fields = [
            Cell(f"{weight:g}", weight),
            cells.headline(line, words.state_of(table, row, dataset)),
            cells.count(line),
        ]
        if paired:
            fields.append(cells.difference(_gap(table, row, dataset, weights)))
        fields += [cells.number(table.line(row, dataset, name), at) for name, _, at in more]
        rows.append(tuple(fields))
    note = (
        "Differences are paired by pretraining seed; bold is one whose 95 % interval leaves zero "
        "out, without a correction for so many comparisons."
    )
    return DataTable(
        f"weights-{dataset}",
        f"What is read of frozen encoders on {dataset}, by the weight λ of the equivariance term",
        (
            Column("λ"), Column("Linear probe", "%"), Column("n"),
            *([Column("− (λ = 0)", "points", rank=1)] if paired else []),
            *(column for _, column, _ in more),
        ),
        tuple(rows),
        (note,) if paired else (),
    )  # fmt: skip


def _told(table: Table, dataset: str, weights: Weights) -> list[str]:
    """Where the probe reads most, whether that is beyond the noise, and what becomes of the hue."""
    lines = [line for row in weights if (line := table.line(row, dataset)) and line.mean]
    if len(lines) < 2:
        return []
    best = max(lines, key=lambda line: line.mean or 0.0)
    at, zero = weights[best.row], _zero(weights)
    few = min(line.n for line in lines) == 1
    told = [
        f"On {dataset} the linear probe reads most at {best.row}: {words.headline(best)} % "
        f"(n = {best.n})"
        + (
            ". At one seed that is no evidence of a best λ."
            if few
            else f", {_beyond(table, dataset, weights)}."
        )
    ]  # fmt: skip
    if at > 0:
        inside = "within" if BEST[0] <= at <= BEST[1] else "outside"
        told.append(
            f"That is {inside} the range that the paper calls best on CIFAR10, "
            f"{BEST[0]:g} ≤ λ ≤ {BEST[1]:g}"
            + ("." if dataset == _ON else "; with other images and splits λ is another scale.")
        )
    elif zero is not None:
        told.append(
            f"That is without the term; the paper has its best on CIFAR10 at "
            f"{BEST[0]:g} ≤ λ ≤ {BEST[1]:g}."
        )
    last = list(weights)[-1]
    for measure in (_PROJECTION, _HUES[1]):
        gap = _gap(table, last, dataset, weights, measure)
        if gap is not None:
            hues = measure in _HUES
            named = dataclasses.replace(
                gap, row=f"({gap.row})", base=f"({gap.base})",
                measure=measure if hues else measure.replace(", ", " probe on the ") + ", points",
            )  # fmt: skip
            told.append(measured.sentence(named, 3 if hues else 1, f" on {dataset}"))
    return told


def _beyond(table: Table, dataset: str, weights: Weights) -> str:
    """At which weights the paired difference from λ = 0 leaves zero out."""
    if _zero(weights) is None:
        return "with λ = 0 not asked for"
    gaps = [gap for row in weights if (gap := _gap(table, row, dataset, weights))]
    shown = [f"{gap.row} ({words.signed(gap.mean, 1)})" for gap in gaps if gap.shown]
    if not shown:
        return f"and at none of {len(gaps)} weights a difference from λ = 0 is shown"
    return (
        f"and paired by seed the difference from λ = 0 leaves zero out at {', '.join(shown)} "
        f"(in points; {len(gaps)} comparisons, not corrected for that)"
    )


def _figure(table: Table, dataset: str, weights: Weights) -> Figure:
    lines = [line for line in table.lines if line.dataset == dataset and line.n]
    present = {line.measure for line in lines}

    def picked(measure: str) -> dict[float, Line]:
        return {
            weights[line.row]: line for line in lines if line.measure == measure
        }  # fmt: skip

    panels = [("accuracy, %", "linear probe", HEADLINE, _PROJECTION)]
    if present & set(_HUES):
        panels.append(("R² on test images", "reading the hue", *_HUES))

    def draw(png: Path, svg: Path) -> None:
        with sheet(png, svg, height=3.9, layout="constrained") as figure:
            row = figure.subplots(1, 2, squeeze=False)[0]
            for axes, (axis, title, backbone, projection) in zip(row, panels, strict=False):
                _panel(axes, sorted(set(weights.values())), picked(backbone), picked(projection))
                axes.set(ylabel=axis, title=title)
            for axes in row[len(panels) :]:
                axes.set_axis_off()

    told = []
    for _, title, *measures in panels:
        for measure in measures:
            layer = measure.rsplit(", ", 1)[-1]
            values = [
                f"{line.mean:.3g} at λ = {at:g}" for at, line in sorted(picked(measure).items())
            ]
            told += [f"{title}, {layer}: {', '.join(values)}"] if values else []
    kinds = dict.fromkeys(line.interval for line in lines if line.interval)
    return Figure(
        f"accuracy-over-weight-{dataset}",
        f"What is read of encoders on {dataset} over the weight λ, on a logarithmic axis; λ = 0, "
        "SimCLR, stands apart at the left, and the thin dashed lines go on from it."
        + (f" Bars: {'; '.join(kinds)}." if kinds else "")
        + " Shaded: the range that the paper calls best on CIFAR10"
        + ("." if dataset == _ON else ", not on these images."),
        f"Curves over the weight of the equivariance term on {dataset}. "
        + ("; ".join(told) or "Nothing is measured"),
        draw,
        [summary.plain(line) for line in lines],
    )  # fmt: skip


def _panel(
    axes: Axes, weights: Sequence[float], backbone: dict[float, Line], projection: dict[float, Line]
) -> None:
    """Both layers over log₁₀ λ; λ = 0 has a place of its own, left of a gap in the axis."""
    above = [weight for weight in weights if weight > 0]
    first = math.log10(above[0]) if above else 0.0
    places = {0.0: first - 0.75} | {weight: math.log10(weight) for weight in above}
    styles = (("backbone", BLUE, "o", "-", backbone), ("projection", RED, "s", "--", projection))
    for number, (name, colour, marker, dash, lines) in enumerate(styles):
        shift = 0.018 * (2 * number - 1)  # so that bars do not hide each other
        if 0.0 in lines:
            axes.axhline(lines[0.0].mean or 0.0, color=colour, linewidth=0.9, linestyle=(0, (2, 3)))
        for part, label in (([0.0], ""), (above, name)):
            kept = [(places[at] + shift, lines[at]) for at in part if at in lines]
            if kept:
                _curve(axes, kept, plain(label or name), colour, marker, dash, bool(label))
    if not backbone and not projection:
        said(axes, "nothing is measured yet")
    low, high = max(math.log10(BEST[0]), first - 0.15), math.log10(BEST[1])
    axes.axvspan(low, high, color=PALE, alpha=0.6, zorder=0, linewidth=0)
    axes.text((low + high) / 2, 0.02, "the paper's best,\non CIFAR10", ha="center", va="bottom",
              fontsize=8.5, color=SOFT, transform=axes.get_xaxis_transform())  # fmt: skip
    shown = [at for at in places if at > 0 or 0.0 in weights]
    axes.set_xticks([places[at] for at in shown], [f"{at:g}" for at in shown])
    axes.set_xlim(places[0.0] - 0.25, max(places.values()) + 0.2)
    axes.set_xlabel("weight λ of the equivariance term")
    axes.grid(visible=False, axis="x")
    axes.margins(y=0.14)
    middle = first - 0.37  # the axis is cut between 0 and the least weight
    axes.plot(
        [middle - 0.04, middle + 0.04], [0, 0], marker=[(-1, -1.5), (1, 1.5)], markersize=10,
        color=SOFT, linestyle="none", clip_on=False, transform=axes.get_xaxis_transform(),
    )  # fmt: skip


def _curve(
    axes: Axes, kept: Sequence[tuple[float, Line]], label: str, colour: str, marker: str, dash: str,
    named: bool,
) -> None:  # fmt: skip
    x = [at for at, _ in kept]
    y = [line.mean or 0.0 for _, line in kept]
    bars = [
        [(line.mean or 0.0) - line.low if line.low is not None else 0.0 for _, line in kept],
        [line.high - (line.mean or 0.0) if line.high is not None else 0.0 for _, line in kept],
    ]
    if any(bars[0]):
        axes.errorbar(x, y, yerr=bars, fmt="none", ecolor=colour, elinewidth=1.1, capsize=3)
    axes.plot(x, y, color=colour, marker=marker, linestyle=dash, linewidth=1.7, markersize=6,
              label=label if named else "_")  # fmt: skip
    for at, line in kept:
        if line.n > 1:
            axes.scatter([at] * line.n, line.values, s=9, color=colour, alpha=0.5, linewidths=0)
    if named:
        axes.legend(  # above, where it hides nothing
            fontsize=9, loc="lower right", bbox_to_anchor=(1.01, 0.99), ncols=2, borderaxespad=0.2
        )
