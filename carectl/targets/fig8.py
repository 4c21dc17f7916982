"""Figure 8: γ_f and the invariance loss, epoch by epoch, with what γ_f must not be read without."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from carectl import runs
from carectl.reports import cells, summary
from carectl.reports.document import Cell, Column, DataTable, Document, Figure
from carectl.reports.drawing import plain, said, sheet
from carectl.reports.summary import Line
from carectl.targets import looks, measured
from carectl.targets.context import Answer, Context
from carectl.targets.measured import Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Curve(NamedTuple):
    """A measure over epochs: its key in result.json, and how it is called and drawn."""

    key: str
    title: str
    axis: str
    log: bool = False


CURVES = (
    Curve("gamma", "γ, mean over pairs", "γ (mean), log scale", True),
    Curve("gamma_median", "γ, median over pairs", "γ (median), log scale", True),
    Curve("invariance", "invariance loss", "mean ‖f(a(x)) − f(a'(x))‖"),
    Curve("displacement", "displacement", "mean ‖f(a(x)) − f(x)‖"),
)
_COLUMNS = {
    Column("γ, mean"): "gamma",
    Column("γ, median"): "gamma_median",
    Column("γ, shuffled", rank=2): "gamma_shuffled",
    Column("invariance loss"): "invariance",
    Column("displacement"): "displacement",
    Column("cosine of two images", rank=1): "mean_cosine",
    Column("pairs left out", rank=3): "gamma_excluded",
}
_TICKS = 12  # epochs that are all written below the axis
_NAMES = {
    "gamma": "mean γ", "gamma_median": "median γ", "invariance": "invariance loss",
    "displacement": "displacement",
}  # fmt: skip


def plan(context: Context) -> Sequence[Answer]:
    """The grid's cells, a probe an epoch."""
    return context.answers


def document(context: Context) -> Document:
    """The curves, a table of them, and at the last epoch CARE against its baseline."""
    found = measured.of(context, "geometry")
    places = measured.places(context)
    datasets = list(dict.fromkeys(dataset for _, dataset in places))
    return context.document(
        tables=[_table(found, dataset) for dataset in datasets],
        figures=[
            _figure([m for m in found if m.dataset == dataset], dataset) for dataset in datasets
        ],
        findings=[
            *(text for row, dataset in places for text in _course(found, row, dataset)),
            *(text for pair in measured.pairs(places) for text in _last(found, *pair)),
            *_warnings(found),
            *measured.collapsed(found),
            *measured.missing(context),
        ],
        warnings=lost(context),
        data=[
            {"row": m.row, "dataset": m.dataset, "seed": m.seed, "epoch": m.epoch, "run": m.run,
             "means": m.numbers}
            for m in found
        ],
    )  # fmt: skip


def lost(context: Context) -> list[str]:
    """Which runs are done without the checkpoints that are asked for, and how to get these.

    What is kept is no part of what a run is. So a run that was trained for another question, and
    kept its last checkpoints alone, is not trained again for this one.
    """
    told = []
    for answer in context.answers:
        run = context.run(answer.trained)
        if runs.status(run).state != "done":
            continue
        there = runs.epochs(run)
        gone = [
            epoch
            for epoch, planned in answer.probes.items()
            if epoch is not None and epoch not in there and context.run(planned).result is None
        ]
        if gone:
            told.append(
                f"{answer.cell.row} on {answer.cell.dataset}, seed {answer.cell.seed}: {run.id} "
                f"kept no checkpoint of epochs {', '.join(map(str, gone))}. Move its folder away "
                "and ask again: it is trained anew, the same, and keeps them "
                f"(checkpoint.keep: {answer.spec.checkpoint.keep})."
            )
    return told


def _at(found: Sequence[Measured], row: str, dataset: str, epoch: int) -> list[Measured]:
    return [m for m in measured.at(found, row, dataset) if m.epoch == epoch]


def _epochs(found: Sequence[Measured], row: str, dataset: str) -> list[int]:
    return sorted({m.epoch for m in measured.at(found, row, dataset)})


def _table(found: Sequence[Measured], dataset: str) -> DataTable:
    """A row a method and epoch."""
    rows = []
    for row in dict.fromkeys(m.row for m in found if m.dataset == dataset):
        for epoch in _epochs(found, row, dataset):
            mine = _at(found, row, dataset, epoch)
            numbers = [_number(measured.number(mine, key), key) for key in _COLUMNS.values()]
            rows.append((
                cells.name(row), Cell(str(epoch), epoch), *numbers,
                Cell(str(len(mine)), len(mine)),
            ))  # fmt: skip
    return DataTable(
        f"curves-{dataset}",
        f"Over training on {dataset}, means over augmentations",
        (Column("Method", numeric=False), Column("epoch"), *_COLUMNS, Column("n")),
        tuple(rows),
        (
            measured.seeds_said(m for m in found if m.dataset == dataset),
            "γ is 0 where an augmentation rotates all images alike, and grows without bound where "
            "it hardly moves them: read it beside the displacement. Shuffled: γ of images paired "
            "with those of others. Cosine of two images: near 1 the embedding has collapsed.",
        ),
    )


def _number(line: Line | None, key: str) -> Cell:
    """Three places, fewer of a count and of a large number."""
    if line is None or line.mean is None:
        return cells.NOTHING
    if key == "gamma_excluded":
        return cells.number(line, 0)
    return cells.number(line, 3 if abs(line.mean) < 10 else 1)


def _course(found: Sequence[Measured], row: str, dataset: str) -> list[str]:
    """From the first epoch that is measured to the last, in a sentence."""
    epochs = _epochs(found, row, dataset)
    if len(epochs) < 2:
        return []
    first, last = (_at(found, row, dataset, epoch) for epoch in (epochs[0], epochs[-1]))
    told = []
    for key, name in _NAMES.items():
        start, end = measured.number(first, key), measured.number(last, key)
        if start and end:
            told.append(f"{name} {start.mean:.3g} to {end.mean:.3g}")
    return [f"{row} on {dataset}, epoch {epochs[0]} to {epochs[-1]}: {', '.join(told)}."]


def _last(found: Sequence[Measured], care: str, base: str, dataset: str) -> list[str]:
    """CARE against its baseline at the last epoch that both have."""
    both = set(_epochs(found, care, dataset)) & set(_epochs(found, base, dataset))
    if not both:
        return []
    epoch = max(both)
    told = []
    for key in ("gamma_median", "displacement"):
        name = f"{_NAMES[key]} at epoch {epoch}"
        lines = [
            measured.number(_at(found, row, dataset, epoch), key, name) for row in (care, base)
        ]
        if gap := summary.difference(*lines):
            told.append(measured.sentence(gap, where=f" on {dataset}"))
    return told


def _warnings(found: Sequence[Measured]) -> list[str]:
    """What γ is not: it is told with the numbers that were measured."""
    told = []
    if found:
        told.append(
            "γ alone proves nothing: it is small wherever all images move alike, as they do in one "
            "place, and large where they hardly move. A smaller γ tells of better rotations only "
            "beside a like displacement."
        )
    for row, dataset in dict.fromkeys(m.place for m in found):
        mine = _at(found, row, dataset, _epochs(found, row, dataset)[-1])
        own, other = (measured.number(mine, key) for key in ("gamma", "gamma_shuffled"))
        if own and other and (other.mean or 0.0) < (own.mean or 0.0):
            told.append(
                f"So it is here: {row} on {dataset} has a mean γ of {own.mean:.3g}, and of "
                f"{other.mean:.3g} where images are paired with those of others, which no "
                "rotation joins but which lie far apart."
            )
    return told


def _figure(found: Sequence[Measured], dataset: str) -> Figure:
    rows = list(dict.fromkeys(m.row for m in found))

    def draw(png: Path, svg: Path) -> None:
        with sheet(png, svg, height=5.6, layout="constrained") as figure:
            grid = figure.subplots(2, 2, sharex=True)
            for axes, curve in zip(grid.flat, CURVES, strict=True):
                _panel(axes, curve, found, rows, dataset)
            for axes in grid[1]:
                axes.set_xlabel("epoch")
            if rows:
                handles, names = grid.flat[0].get_legend_handles_labels()
                figure.legend(handles, names, loc="outside upper left", ncols=len(rows))

    told = [_course(found, row, dataset) for row in rows]
    many = max((len({m.seed for m in found if m.row == row}) for row in rows), default=1)
    return Figure(
        f"training-{dataset}",
        f"γ and the invariance loss over training on {dataset}, with the displacement"
        + (f"; thin lines are single seeds ({many}), thick ones their mean." if many > 1 else "."),
        f"Four plots over epochs on {dataset}: mean γ and median γ on a log scale, the invariance "
        "loss and the displacement. "
        + (" ".join(x for t in told for x in t) or "Nothing is there."),
        draw,
        {
            curve.key: {row: _points(found, curve.key, row, dataset) for row in rows}
            for curve in CURVES
        },
    )


def _points(
    found: Sequence[Measured], key: str, row: str, dataset: str, seed: int | None = None
) -> list[tuple[int, float]]:
    """(epoch, mean over seeds, or one seed's number)."""
    points = []
    for epoch in _epochs(found, row, dataset):
        numbers = [
            value
            for m in _at(found, row, dataset, epoch)
            if (value := m.number(key)) is not None and seed in (None, m.seed)
        ]
        if numbers:
            points.append((epoch, statistics.fmean(numbers)))
    return points


def _panel(
    axes: Axes, curve: Curve, found: Sequence[Measured], rows: Sequence[str], dataset: str
) -> None:
    drawn = False
    for row in rows:
        look = looks.of(row)
        seeds = {m.seed for m in found if m.row == row}
        for seed in sorted(seeds) if len(seeds) > 1 else []:
            own = _points(found, curve.key, row, dataset, seed)
            axes.plot(*zip(*own, strict=True), color=look.colour, linewidth=0.8, alpha=0.4)
        mean = _points(found, curve.key, row, dataset)
        if mean:
            axes.plot(*zip(*mean, strict=True), color=look.colour, linestyle=look.dash,
                      marker=look.marker, markersize=5, linewidth=2, label=plain(row))  # fmt: skip
            drawn = True
    epochs = sorted({m.epoch for m in found})
    if len(epochs) <= _TICKS:
        axes.set_xticks(epochs)
    axes.set_title(curve.title)
    axes.set_ylabel(curve.axis)
    if not drawn:
        said(axes, "nothing is measured yet")
        return
    if curve.log and all(y > 0 for row in rows for _, y in _points(found, curve.key, row, dataset)):
        axes.set_yscale("log")
        _plain_ticks(axes)
    else:
        axes.set_ylim(bottom=0)


def _plain_ticks(axes: Axes) -> None:
    """0.5, 1, 2: numbers that are read at a glance, and not 5 × 10⁻¹."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="y", which="minor", length=0)
