"""A summary as a picture: a bar a method, its interval, its seeds, and the paper's figure."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from carectl.reports import words
from carectl.reports.drawing import (
    BLUE,
    DARK,
    GREY,
    INK,
    ORANGE,
    PAPER,
    SOFT,
    WARN,
    WHITE,
    WIDTH,
    plain,
    sheet,
)  # fmt: skip
from carectl.reports.summary import HEADLINE, Line, Table, is_accuracy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Panel(NamedTuple):
    """One axes: a measure on a dataset."""

    dataset: str
    measure: str
    title: str
    axis: str


def draw(table: Table, png: Path, svg: Path) -> None:
    """Draw the table's bars to both files."""
    bands = _bands(table)
    most = [max(len(_order(table, panel.dataset)) for panel in band) for band in bands]
    heights = [0.9 + 0.36 * count for count in most]
    caption = textwrap.wrap(plain(" ".join(_caption(table))), 150)
    warning = textwrap.wrap(plain(table.warning), 120)
    top, bottom = 0.95 + 0.2 * len(warning), 0.2 + 0.17 * len(caption)
    tall = top + bottom + sum(heights)
    with sheet(png, svg, height=tall) as figure:
        figure.text(0.02, 1 - 0.3 / tall, "Linear-probe accuracy of frozen encoders", fontsize=15,
                    weight="bold", va="center")  # fmt: skip
        figure.text(0.02, 1 - 0.5 / tall, "\n".join(warning), fontsize=10.5, weight="bold",
                    va="top", color=WARN)  # fmt: skip
        _legend(figure, table, 1 - (top - 0.29) / tall)
        upper = tall - top
        for band, height in zip(bands, heights, strict=True):
            _band(figure, table, band, upper - height + 0.55, height - 0.8)
            upper -= height
        figure.text(0.02, (bottom - 0.12) / tall, "\n".join(caption), fontsize=8.5, va="top",
                    color=SOFT, linespacing=1.35)  # fmt: skip


def _band(figure: Figure, table: Table, band: Sequence[Panel], foot: float, height: float) -> None:
    """A row of panels; all lengths in inches."""
    tall = figure.get_figheight()
    alone = len({panel.dataset for panel in band}) == 1
    slots = max(len(band), 2)  # a lone panel does not stretch
    left, right = 1.45, 0.3
    gap = 0.4 if alone and len(band) > 1 else left  # one dataset: the names stand once
    width = (WIDTH - left - right - gap * (slots - 1)) / slots
    for column, panel in enumerate(band):
        start = left + column * (width + gap)
        axes = figure.add_axes((start / WIDTH, foot / tall, width / WIDTH, height / tall))
        named = column == 0 or panel.dataset != band[column - 1].dataset
        _panel(axes, table, panel, named)


def _bands(table: Table) -> list[list[Panel]]:
    """The picture's rows: three panels of a set with hues, else two datasets side by side."""
    datasets = list(dict.fromkeys(dataset for dataset, _ in table.rows))
    coloured = {line.dataset for line in table.lines if line.measure.startswith("hue")}
    bands, plain = [], []
    for dataset in datasets:
        first = Panel(dataset, HEADLINE, f"{dataset}: linear probe, backbone", "accuracy, %")
        if dataset in coloured:
            bands.append([
                first,
                Panel(dataset, "linear, projection", "linear probe, projection", "accuracy, %"),
                Panel(dataset, "hue R², projection", "hue from the projection", "R²"),
            ])  # fmt: skip
        else:
            plain.append(first)
    return bands + [plain[i : i + 2] for i in range(0, len(plain), 2)]


def _family(row: str) -> str:
    return row.removeprefix("CARE-").removeprefix("EquiMod-").split(" ")[0]


def _order(table: Table, dataset: str) -> list[str]:
    """The dataset's rows, a method beside the variants of it."""
    rows = [row for place, row in table.rows if place == dataset]
    families = list(dict.fromkeys(map(_family, rows)))
    return sorted(rows, key=lambda row: families.index(_family(row)))


def _colour(row: str) -> str:
    return BLUE if row.startswith("CARE-") else ORANGE if row.startswith("EquiMod-") else GREY


def _scale(table: Table, panel: Panel) -> list[Line]:
    """The lines that share a panel's axis: both layers' accuracies, where both are drawn."""
    measures = {panel.measure}
    if any(
        line.dataset == panel.dataset and line.measure.startswith("hue") for line in table.lines
    ):
        layers = {HEADLINE, "linear, projection"}
        measures = layers if panel.measure in layers else measures
    return [x for x in table.lines if x.dataset == panel.dataset and x.measure in measures]


def _panel(axes: Axes, table: Table, panel: Panel, named: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    rows = _order(table, panel.dataset)
    lines = [table.line(row, panel.dataset, panel.measure) for row in rows]
    places, at = [], 0.0
    for index, row in enumerate(rows):
        at += 0.35 if index and _family(row) != _family(rows[index - 1]) else 0.0
        places.append(at)
        at += 1.0
    start, end = _limits(_scale(table, panel), is_accuracy(panel.measure))
    for row, place, line in zip(rows, places, lines, strict=True):
        if line is None or line.mean is None:
            state = words.state_of(table, row, panel.dataset)
            said = state if state != "measured" else "not measured"
            axes.text(start + 0.02 * (end - start), place, said, va="center", fontsize=9,
                      style="italic", color=SOFT)  # fmt: skip
        if line is not None:
            _bar(axes, line, place, start, end)
    axes.set(xlim=(start, end), ylim=(at - 0.35, -0.65))
    axes.set_yticks(places, [plain(row) for row in rows] if named else [""] * len(rows))
    axes.set_title(plain(panel.title), loc="left", fontsize=11, weight="bold", pad=7)
    note = f" (axis starts at {start:g}, not 0)" if start > 0 else ""
    axes.set_xlabel(panel.axis + note, fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", length=0, labelsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.grid(visible=False, axis="y")
    axes.spines["bottom"].set_visible(False)
    if start > 0:  # two strokes through the foot of the axis: it is cut
        axes.plot([0, 0], [0, 0], marker=[(-1, -0.6), (1, 0.6)], markersize=9, color=SOFT,
                  clip_on=False, transform=axes.transAxes, linestyle="none")  # fmt: skip


def _bar(axes: Axes, line: Line, place: float, start: float, end: float) -> None:
    if line.mean is not None:
        colour = _colour(line.row)
        axes.barh(place, line.mean - start, left=start, height=0.78, color=colour, zorder=2)
        inside = WHITE if colour == BLUE else DARK
        axes.text(start + 0.02 * (end - start), place, f"{line.mean:.{_places(line)}f}",
                  va="center", fontsize=9.5, weight="bold", color=inside, zorder=5)  # fmt: skip
        if line.low is not None and line.high is not None:
            reach = [[line.mean - line.low], [line.high - line.mean]]
            for colour, width, order in ((PAPER, 3.6, 3), (INK, 1.3, 4)):  # a halo: ink on blue
                axes.errorbar(line.mean, place, xerr=reach, fmt="none", ecolor=colour,
                              elinewidth=width, capsize=3.5, zorder=order)  # fmt: skip
        if line.n > 1:
            spots = [place + 0.2] * line.n
            axes.scatter(line.values, spots, s=11, color=PAPER, edgecolor=INK, linewidth=0.7,
                         zorder=6)  # fmt: skip
    if line.paper is not None:
        axes.plot(line.paper, place, marker="D", markersize=7, markerfacecolor="none",
                  markeredgecolor=INK, markeredgewidth=1.4, zorder=7, linestyle="none")  # fmt: skip


def _places(line: Line) -> int:
    return 1 if is_accuracy(line.measure) else 2


def _limits(lines: Sequence[Line], accuracy: bool) -> tuple[float, float]:
    """Round bounds that hold the bars, whiskers, seeds and the paper's figures."""
    shown = [x for line in lines for x in (*line.values, line.low, line.high, line.paper)
             if x is not None]  # fmt: skip
    if not accuracy:
        return max(min([0.0, *shown]), -1.0), max([1.0, *shown])
    if not shown:
        return 0.0, 100.0
    low, high = max(min(shown), 0.0), min(max(shown), 100.0)
    span = max(high - low, 4.0)
    step = 5 if span > 10 else 2
    start = max(0.0, math.floor((low - 0.45 * span) / step) * step)
    return float(start), min(100.6, high + 0.08 * span)


def _legend(figure: Figure, table: Table, height: float) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    rows = {row for _, row in table.rows}
    colours = {_colour(row) for row in rows}
    names = {GREY: "baseline", ORANGE: "EquiMod", BLUE: "CARE"}
    handles: list[Patch | Line2D] = [
        Patch(color=colour, label=word) for colour, word in names.items() if colour in colours
    ]
    if any(line.low is not None for line in table.lines):
        handles.append(Line2D([], [], color=INK, marker="|", markersize=8, label="95% interval"))
    if any(line.n > 1 for line in table.lines):
        handles.append(Line2D([], [], color=INK, marker="o", markersize=4, linestyle="none",
                              markerfacecolor=PAPER, label="one pretraining seed"))  # fmt: skip
    if any(line.paper is not None for line in table.lines):
        handles.append(Line2D([], [], color=INK, marker="D", markersize=6.5, linestyle="none",
                              markerfacecolor="none", label="the paper's figure"))  # fmt: skip
    figure.legend(
        handles=handles, loc="center left", bbox_to_anchor=(0.012, height), frameon=False,
        ncols=len(handles), fontsize=9.5, handlelength=1.4, columnspacing=1.6,
    )  # fmt: skip


def _caption(table: Table) -> list[str]:
    told = [
        note.split("; †")[0].rstrip(".") + "."  # the picture has neither ± nor the marks † ‡
        for note in [*words.notes(table), *words.caveats(table)]
        if not note.startswith("±")
    ]
    gaps = [gap for gap in table.differences if len(gap.seeds) == 1]
    return [*told, "A difference from one seed is not evidence."] if gaps else told
