"""Figure 5: what the best rotation leaves, augmentation by augmentation, beside its controls."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from carectl.reports import cells
from carectl.reports.document import Cell, Column, DataTable, Document, Figure
from carectl.reports.drawing import SOFT, plain, said, sheet
from carectl.reports.summary import Line
from carectl.targets import looks, measured
from carectl.targets.context import Answer, Context
from carectl.targets.measured import Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# column → key of result.json's geometry; all per √n but the raw one and the displacement
_COLUMNS = {
    Column("Wahba error", "per √n"): "wahba",
    Column("Wahba error, raw", rank=3): "wahba_raw",
    Column("held out", "per √n"): "wahba_held_out",
    Column("R = I", "per √n"): "wahba_identity",
    Column("shuffled", "per √n", rank=2): "wahba_shuffled",
    Column("displacement", rank=1): "displacement",
}
# what an augmentation's points are in the picture: label, key, whether it is a control
_LANES = (
    ("best rotation", "wahba", False),
    ("…held out", "wahba_held_out", False),
    ("R = I", "wahba_identity", True),
    ("shuffled pairs", "wahba_shuffled", True),
)
_SHARE = "what a rotation leaves of R = I, held out"


def plan(context: Context) -> Sequence[Answer]:
    """The grid's cells."""
    return context.answers


def document(context: Context) -> Document:
    """The errors with their controls, CARE against its baseline, and a picture a dataset."""
    found = measured.of(context, "geometry")
    places = measured.places(context)
    datasets = list(dict.fromkeys(dataset for _, dataset in places))
    tables = [_errors(found, places, dataset) for dataset in datasets]
    return context.document(
        tables=tables,
        figures=[
            _figure([m for m in found if m.dataset == dataset], dataset) for dataset in datasets
        ],
        findings=[
            *(text for row, dataset in places for text in _told(found, row, dataset)),
            *_paired(found, places),
            *(
                measured.sentence(gap)
                for gap in measured.gaps(places, lambda *place: _share(found, *place))
            ),
            *measured.collapsed(found),
            *measured.missing(context),
        ],
        data=[
            {"row": m.row, "dataset": m.dataset, "seed": m.seed, "run": m.run, "means": m.numbers,
             "augmentations": m.detail.get("augmentations", [])}
            for m in found
        ],
    )  # fmt: skip


def _share(found: Sequence[Measured], row: str, dataset: str) -> Line | None:
    return measured.held_out_share(measured.at(found, row, dataset), _SHARE)


def _errors(
    found: Sequence[Measured], places: Sequence[tuple[str, str]], dataset: str
) -> DataTable:
    rows = []
    for row in [name for name, place in places if place == dataset]:
        mine = measured.at(found, row, dataset)
        fields = []
        for key in _COLUMNS.values():
            fields.append(cells.number(measured.number(mine, key), 2 if key == "wahba_raw" else 3))
        spread = measured.over_augmentations(mine, "wahba")
        share = _share(found, row, dataset)
        rows.append((
            cells.name(row), fields[0],
            cells.NOTHING if spread is None else _plus_minus(spread),
            *fields[1:], cells.number(share, 2), cells.count(share),
        ))  # fmt: skip
    first, *rest = _COLUMNS
    return DataTable(
        f"wahba-{dataset}",
        f"Wahba errors on {dataset}, means over {_drawn(found, dataset)}augmentations",
        (
            Column("Method", numeric=False), first, Column("sd over augmentations", rank=4),
            *rest, Column("held out / (R = I)"), Column("n"),
        ),
        tuple(rows),
        (
            measured.seeds_said(m for m in found if m.dataset == dataset),
            "held out / (R = I) below 1: a rotation predicts where an augmentation moves images "
            "that it was not fitted on; at 1 or above it does no better than doing nothing."
            + _fitted(found, dataset),
        ),
    )  # fmt: skip


def _fitted(found: Sequence[Measured], dataset: str) -> str:
    """On how much the held-out rotation stands: few images leave a large one undetermined."""
    sizes = {
        (m.images // 2, (m.detail.get("embedding") or {}).get("dimensions"))
        for m in found
        if m.dataset == dataset and m.images
    }
    if len(sizes) != 1:
        return ""
    count, dimensions = sizes.pop()
    return f" It is fitted on {count:,} images in {dimensions} dimensions."


def _drawn(found: Sequence[Measured], dataset: str) -> str:
    """How many augmentations, where all encoders saw as many."""
    counts = {len(measured.each(m, "wahba")) for m in found if m.dataset == dataset} - {0}
    return f"{counts.pop()} " if len(counts) == 1 else ""


def _plus_minus(line: Line) -> Cell:
    return Cell(f"± {line.mean:.3f}", line.mean, n=line.n, runs=line.probes)


def _told(found: Sequence[Measured], row: str, dataset: str) -> list[str]:
    """One encoder's errors beside R = I, in a sentence."""
    mine = measured.at(found, row, dataset)
    keys = ("wahba", "wahba_held_out", "wahba_identity", "wahba_shuffled", "displacement")
    means = [line.mean for key in keys if (line := measured.number(mine, key)) and line.mean]
    if len(means) < len(keys):
        return []
    fitted, held, still, shuffled, moved = means
    so = measured.rotation_said(held, still, shuffled)
    return [
        f"{row} on {dataset}: the best rotation leaves {fitted:.3f} per √n. Fitted on half of the "
        f"images it leaves {held:.3f} on the other half, R = I {still:.3f}, shuffled pairs "
        f"{shuffled:.3f}: {so}. Mean displacement {moved:.3f}."
    ]


def _paired(found: Sequence[Measured], places: Sequence[tuple[str, str]]) -> list[str]:
    """In how many augmentations CARE's error is the smaller, encoder by encoder of a seed."""
    told = []
    for care, base, dataset in measured.pairs(places):
        others = {m.seed: m for m in measured.at(found, base, dataset)}
        less = count = 0
        for mine in measured.at(found, care, dataset):
            other = measured.each(others[mine.seed], "wahba") if mine.seed in others else []
            here = measured.each(mine, "wahba")
            if len(here) == len(other):
                less += sum(a < b for a, b in zip(here, other, strict=True))
                count += len(here)
        if count:
            seeds = " of all seeds" if len(others) > 1 else ""
            told.append(
                f"On {dataset} the best rotation leaves less of {care} than of {base} under {less} "
                f"of {count} augmentations{seeds}. That alone does not tell rotating from hardly "
                "moving: compare R = I."
            )
    return told


def _figure(found: Sequence[Measured], dataset: str) -> Figure:
    rows = list(dict.fromkeys(m.row for m in found))
    pooled = {
        row: {
            key: [x for m in found if m.row == row for x in measured.each(m, key)]
            for _, key, _ in _LANES
        }
        for row in rows
    }

    def draw(png: Path, svg: Path) -> None:
        with sheet(png, svg, height=1.5 + 1.05 * max(len(rows), 2), layout="constrained") as figure:
            left, right = figure.subplots(1, 2, width_ratios=(1.55, 1))
            _lanes(left, pooled, found)
            _plane(right, pooled)

    told = [
        f"{row}: best rotation {_range(each['wahba'])}, held out {_range(each['wahba_held_out'])}, "
        f"R = I {_range(each['wahba_identity'])}, shuffled {_range(each['wahba_shuffled'])}"
        for row, each in pooled.items()
        if each["wahba"]
    ]
    seeds = len({m.seed for m in found})
    return Figure(
        f"wahba-errors-{dataset}",
        f"Wahba errors on {dataset}. Left: a point an augmentation"
        + (f" and pretraining seed ({seeds})" if seeds > 1 else "")
        + ", boxes of quartiles, whiskers to the extremes. Right: the error of the best rotation "
        "against that of R = I; below the dashed line a rotation explains something.",
        f"Two plots of Wahba errors per root n on {dataset}, a point an augmentation; medians and "
        "ranges are " + ("; ".join(told) or "not measured"),
        draw,
        pooled,
    )


def _range(values: Sequence[float]) -> str:
    if not values:
        return "not measured"
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def _lanes(
    axes: Axes, pooled: dict[str, dict[str, list[float]]], found: Sequence[Measured]
) -> None:
    """Each method's errors with those of its controls below, the controls hollow."""
    lanes = {
        row: [(label, each[key], control) for label, key, control in _LANES]
        for row, each in pooled.items()
    }
    drawn = looks.lanes(axes, lanes)
    axes.set_xlabel("error per √n (unit vectors: length of a chord)")
    axes.set_xlim(left=0)
    axes.set_title("what is left, an augmentation a point")
    if not drawn:
        said(axes, "nothing is measured yet")
        return
    import numpy as np

    images = {m.images for m in found} - {None}
    if len(images) == 1:  # all encoders saw the same ones
        root = math.sqrt(images.pop() or 1)
        below = axes.secondary_xaxis(
            -0.5 / max(len(pooled), 2),
            functions=(lambda x: np.asarray(x) * root, lambda x: np.asarray(x) / root),
        )
        below.set_xlabel(f"the same, raw: ‖F Rᵀ − F_a‖ of n = {root**2:,.0f} images", fontsize=9)
        below.tick_params(labelsize=9)


def _plane(axes: Axes, pooled: dict[str, dict[str, list[float]]]) -> None:
    """What the best rotation leaves against what doing nothing leaves, the same scale on both."""
    most = max((x for each in pooled.values() for x in each["wahba_identity"]), default=1.0) * 1.08
    axes.plot([0, most], [0, most], color=SOFT, linewidth=1, linestyle="--", zorder=1)
    axes.annotate("no better than R = I", (most * 0.56, most * 0.56), xytext=(-4, 4),
                  textcoords="offset points", ha="right", color=SOFT, fontsize=9)  # fmt: skip
    for row, each in pooled.items():
        look = looks.of(row)
        if each["wahba"]:
            axes.scatter(each["wahba_identity"], each["wahba"], s=26, marker=look.marker,
                         color=look.colour, alpha=0.8, linewidths=0, label=plain(row),
                         zorder=3)  # fmt: skip
    axes.set(xlim=(0, most), ylim=(0, most), xlabel="error of R = I, per √n",
             ylabel="error of the best rotation, per √n")  # fmt: skip
    axes.set_title("against doing nothing")
    if any(each["wahba"] for each in pooled.values()):
        axes.legend(fontsize=9, loc="upper left", handletextpad=0.2)
