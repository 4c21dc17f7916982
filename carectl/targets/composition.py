"""Do the fitted rotations compose? The error with its controls, pair of augmentations by pair."""

from __future__ import annotations

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

KIND = "composition"
IDENTITY = 1.0  # the error of R = I, by definition
_COLUMNS = {
    Column("error"): "error",
    Column("median"): "error_median",
    Column("shuffled"): "shuffled",
    Column("displacement"): "displacement",
    Column("rank"): "rank",
    Column("held", rank=2): "held",
}
# lane of the picture: label, which encoder, which key, whether it is a control
_LANES = (
    ("trained", "trained", "error", False),
    ("shuffled pairs", "trained", "shuffled", True),
    ("without training", "untrained", "error", True),
)
_LITTLE = 0.1  # a mean displacement of unit vectors below which there is little to compose


def plan(context: Context) -> Sequence[Answer]:
    """The grid's cells."""
    return context.answers


def document(context: Context) -> Document:
    """A table a dataset, CARE against its baseline, and the errors of all pairs as a picture."""
    found = measured.of(context, KIND)
    places = measured.places(context)
    datasets = list(dict.fromkeys(dataset for _, dataset in places))

    def median(row: str, dataset: str) -> Line | None:
        return measured.number(measured.at(found, row, dataset), "error_median", "median error")

    return context.document(
        tables=[_table(found, places, dataset) for dataset in datasets],
        figures=[
            _figure([m for m in found if m.dataset == dataset], dataset) for dataset in datasets
        ],
        findings=[
            *(text for row, dataset in places for text in _told(found, row, dataset)),
            *(measured.sentence(gap, 2) for gap in measured.gaps(places, median)),
            *measured.missing(context),
        ],
        data=[
            {"row": m.row, "dataset": m.dataset, "seed": m.seed, "run": m.run, "means": m.numbers,
             "pairs": {which: m.detail.get(which, []) for which in ("trained", "untrained")}}
            for m in found
        ],
    )  # fmt: skip


def _each(one: Measured, which: str, key: str) -> list[float]:
    """One number a pair of augmentations."""
    rows = one.detail.get(which) or []
    return [value for row in rows if (value := measured.finite(row.get(key))) is not None]


def _table(found: Sequence[Measured], places: Sequence[tuple[str, str]], dataset: str) -> DataTable:
    """A row an encoder, then the networks without training, the identity last."""
    trained: list[tuple[Cell, ...]] = []
    fresh: dict[tuple[str, ...], tuple[Cell, ...]] = {}
    for row in [name for name, place in places if place == dataset]:
        mine = measured.at(found, row, dataset)
        trained.append(_row(row, mine, ""))
        if mine:
            new = _row(f"{row}, without training", mine, "untrained_")
            fresh.setdefault(tuple(cell.text for cell in new[1:]), new)
    if len(fresh) == 1:  # one network, that all began as
        fresh = {key: (cells.name("without training"), *new[1:]) for key, new in fresh.items()}
    rows = [*trained, *fresh.values()]
    rest = (cells.NOTHING,) * (len(_COLUMNS) - 2)
    still = Cell(f"{IDENTITY:.3f}", IDENTITY, note="by definition")
    rows.append((cells.name("R = I"), still, still, *rest, cells.NOTHING))
    return DataTable(
        f"composition-{dataset}",
        f"‖(R_a'∘a − R_a' R_a) f‖ / ‖(R_a'∘a − I) f‖ on {dataset}, over pairs of augmentations",
        (Column("Encoder", numeric=False), *_COLUMNS, Column("n")),
        tuple(rows),
        (
            measured.seeds_said(m for m in found if m.dataset == dataset),
            "error: mean over pairs; one pair that moves little can outweigh the rest, so read the "
            "median. displacement: mean ‖(R_a'∘a − I) f‖ of unit vectors. rank: dimensions in "
            "which the rotations are fitted. held: share of the test embeddings' squared length "
            "within these.",
        ),
    )


def _row(label: str, mine: Sequence[Measured], prefix: str) -> tuple[Cell, ...]:
    fields = [
        cells.number(measured.number(mine, prefix + key), 1 if key == "rank" else 3)
        for key in _COLUMNS.values()
    ]
    return cells.name(label), *fields, Cell(str(len(mine)), len(mine))


def _told(found: Sequence[Measured], row: str, dataset: str) -> list[str]:
    """An encoder's error beside its controls, and whether it says anything."""
    mine = measured.at(found, row, dataset)
    keys = ("error_median", "shuffled", "untrained_error_median", "displacement", "rank")
    means = [line.mean for key in keys if (line := measured.number(mine, key)) and line.mean]
    if not mine:
        return []
    if len(means) < len(keys):
        return [f"{row} on {dataset}: no pair of augmentations moves anything, so none composes."]
    error, shuffled, fresh, moved, rank = means
    if moved < _LITTLE:
        so = "the images hardly move, so that there is little to compose and the error says little"
    elif error >= IDENTITY:
        so = "the product of rotations predicts two augmentations in a row no better than R = I"
    else:
        so = (
            f"the product of rotations leaves {100 * error:.0f} % of the way that the images go, "
            f"without training {100 * fresh:.0f} %"
        )
    return [
        f"{row} on {dataset}: median error {error:.2f} (R = I 1, shuffled pairs {shuffled:.2f}, "
        f"the same network without training {fresh:.2f}), rank {rank:.0f}, displacement "
        f"{moved:.2f}: {so}."
    ]


def _figure(found: Sequence[Measured], dataset: str) -> Figure:
    rows = list(dict.fromkeys(m.row for m in found))
    pooled = {
        row: {
            label: [x for m in found if m.row == row for x in _each(m, which, key)]
            for label, which, key, _ in _LANES
        }
        for row in rows
    }
    points = {
        row: [
            (moved, error)
            for m in found
            if m.row == row
            for pair in m.detail.get("trained") or []
            if (moved := measured.finite(pair.get("displacement"))) is not None
            and (error := measured.finite(pair.get("error"))) is not None
        ]
        for row in rows
    }

    def draw(png: Path, svg: Path) -> None:
        with sheet(png, svg, height=1.3 + 0.95 * max(len(rows), 2), layout="constrained") as figure:
            left, right = figure.subplots(1, 2, width_ratios=(1.4, 1))
            _lanes(left, pooled)
            _moves(right, points)

    told = [
        f"{row}: "
        + ", ".join(
            f"{label} {statistics.median(x):.2f} ({min(x):.2f} to {max(x):.2f})"
            for label, x in each.items()
            if x
        )
        for row, each in pooled.items()
    ]
    seeds = len({m.seed for m in found})
    return Figure(
        f"composition-errors-{dataset}",
        f"Composition errors on {dataset}, a point a pair of augmentations"
        + (f" and pretraining seed ({seeds})" if seeds > 1 else "")
        + ". R = I has error 1. Right: the same against how far a pair moves the images; near 0 an "
        "error says nothing.",
        f"Two plots of composition errors on {dataset}, a point a pair of augmentations; medians "
        "and ranges are " + ("; ".join(told) or "not measured"),
        draw,
        {"errors": pooled, "displacements": points},
    )


def _lanes(axes: Axes, pooled: dict[str, dict[str, list[float]]]) -> None:
    """Each method's errors, its controls below, hollow."""
    lanes = {
        row: [(label, each[label], control) for label, _, _, control in _LANES]
        for row, each in pooled.items()
    }
    drawn = looks.lanes(axes, lanes)
    axes.set_xlabel("composition error (no unit)")
    axes.axvline(IDENTITY, color=SOFT, linewidth=1, linestyle="--", zorder=1)
    axes.annotate("R = I", (IDENTITY, 0.0), xycoords=axes.get_xaxis_transform(), xytext=(3, 3),
                  textcoords="offset points", fontsize=9, color=SOFT)  # fmt: skip
    axes.set_xlim(left=0)
    axes.set_title("a pair of augmentations a point")
    if not drawn:
        said(axes, "nothing is measured yet")


def _moves(axes: Axes, points: dict[str, list[tuple[float, float]]]) -> None:
    """The trained encoders' errors against the displacement."""
    axes.axhline(IDENTITY, color=SOFT, linewidth=1, linestyle="--", zorder=1)
    for row, pairs in points.items():
        look = looks.of(row)
        if pairs:
            moved, errors = zip(*pairs, strict=True)
            axes.scatter(moved, errors, s=28, marker=look.marker, color=look.colour, alpha=0.8,
                         linewidths=0, label=plain(row), zorder=3)  # fmt: skip
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set(xlabel="displacement, mean ‖(R_a'∘a − I) f‖", ylabel="composition error")
    axes.set_title("against how far the images move")
    if any(points.values()):
        axes.legend(fontsize=9, loc="best", handletextpad=0.2)
    else:
        said(axes, "nothing is measured yet")
