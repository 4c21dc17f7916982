"""Figure 6: an encoder to the circle. Cosines of an image and its augmentations, and paths."""

from __future__ import annotations

import cmath
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from carectl.reports import cells
from carectl.reports.document import Cell, Column, DataTable, Document, Figure
from carectl.reports.summary import Line
from carectl.targets import circles, measured
from carectl.targets.context import Answer, Context
from carectl.targets.measured import Measured

if TYPE_CHECKING:
    from collections.abc import Callable

_COLUMNS = {
    Column("cosine of f(x), f(a(x))"): "cosine",
    Column("displacement", rank=1): "displacement",
    Column("Wahba error held out", "per √n", rank=2): "wahba_held_out",
    Column("R = I", "per √n", rank=2): "wahba_identity",
    Column("cosine of two images"): "mean_cosine",
}


class Turn(NamedTuple):
    """How images turn at the step of a path where they are farthest from where they began.

    `angle` is the middle of the turns in degrees, the direction of their mean; `agreement` the
    length of that mean, 1 where all images turn by one angle and 0 where they do not agree at all.
    `size` is the mean size of a turn, whatever its sense, in degrees.
    """

    angle: float
    size: float
    agreement: float


def plan(context: Context) -> Sequence[Answer]:
    """The grid's cells."""
    return context.answers


def document(context: Context) -> Document:
    """The cosines, the turns along paths, and both as pictures."""
    found = measured.of(context, "geometry")
    places = measured.places(context)
    datasets = list(dict.fromkeys(dataset for _, dataset in places))
    tables, figures = [], []
    for dataset in datasets:
        here = [m for m in found if m.dataset == dataset]
        tables += [_cosines(here, places, dataset), _turns(here, dataset)]
        figures += [_histograms(here, dataset), _paths(here, dataset)]

    def cosine(row: str, dataset: str) -> Line | None:
        return measured.number(measured.at(found, row, dataset), "cosine", "mean cosine")

    return context.document(
        tables=tables,
        figures=figures,
        findings=[
            *(text for row, dataset in places for text in _told(found, row, dataset)),
            *(measured.sentence(gap, 2) for gap in measured.gaps(places, cosine)),
            *measured.collapsed(found),
            *measured.missing(context),
        ],
        data=[
            {"row": m.row, "dataset": m.dataset, "seed": m.seed, "run": m.run, "means": m.numbers,
             "cosines": m.detail.get("cosines"), "paths": m.detail.get("paths")}
            for m in found
        ],
    )  # fmt: skip


def turn(path: dict[str, Any]) -> Turn | None:
    """Of one path of artifacts/geometry.json; None of an encoder that is not to the circle."""
    angles, moved = path.get("angles"), path.get("displacement")
    if not angles or not moved:
        return None
    step = max(range(len(moved)), key=lambda number: moved[number])
    turns = [row[step] - row[0] for row in angles]
    middle = statistics.fmean(math.cos(t) for t in turns) + 1j * statistics.fmean(
        math.sin(t) for t in turns
    )
    size = statistics.fmean(abs(cmath.phase(cmath.exp(1j * t))) for t in turns)
    return Turn(math.degrees(cmath.phase(middle)), math.degrees(size), abs(middle))


def shares(one: Measured) -> list[list[float]]:
    """For each augmentation, the percentage of images in each bin of the cosine."""
    each = (one.detail.get("cosines") or {}).get("each") or []
    return [[100 * count / sum(counts) for count in counts] for counts in each if sum(counts)]


def _near(one: Measured) -> float | None:
    """The percentage of pairs whose cosine is at least 0.9."""
    cosines = one.detail.get("cosines") or {}
    edges, counts = cosines.get("edges"), cosines.get("counts")
    if not edges or not counts or not sum(counts):
        return None
    near = sum(c for low, c in zip(edges, counts, strict=False) if low >= 0.9 - 1e-6)
    return 100 * near / sum(counts)


def _cosines(
    found: Sequence[Measured], places: Sequence[tuple[str, str]], dataset: str
) -> DataTable:
    rows = []
    for row in [name for name, place in places if place == dataset]:
        mine = measured.at(found, row, dataset)
        first, *rest = (measured.number(mine, key) for key in _COLUMNS.values())
        spread = measured.over_augmentations(mine, "cosine")
        near = measured.line(mine, "cosine at least 0.9", _near)
        wide = Cell(f"± {spread.mean:.3f}", spread.mean) if spread else cells.NOTHING
        rows.append((
            cells.name(row), cells.number(first, 3), wide, cells.number(near, 1),
            *(cells.number(line, 3) for line in rest), cells.count(first),
        ))  # fmt: skip
    head, *tail = _COLUMNS
    return DataTable(
        f"cosines-{dataset}",
        f"Encoders of {dataset} to the circle, means over augmentations",
        (Column("Method", numeric=False), head, Column("sd over augmentations", rank=3),
         Column("at least 0.9", "%"), *tail, Column("n")),
        tuple(rows),
        (
            measured.seeds_said(found),
            "Cosine of f(x), f(a(x)): 1 if an augmentation leaves an image in place. Cosine of two "
            "images: near 1 all images lie in one place, and nothing above says anything.",
        ),
    )  # fmt: skip


def _turns(found: Sequence[Measured], dataset: str) -> DataTable:
    """A row a method and path, where the images are farthest from where they began."""
    rows = []
    for row in dict.fromkeys(m.row for m in found):
        mine = measured.at(found, row, dataset)
        for name in circles.names(mine):

            def of(part: str, name: str = name) -> Callable[[Measured], float | None]:
                def read(one: Measured) -> float | None:
                    here = turn((one.detail.get("paths") or {}).get(name) or {})
                    return getattr(here, part) if here else None

                return read

            size, agreement = (measured.line(mine, x, of(x)) for x in ("size", "agreement"))
            rows.append((
                cells.name(row), Cell(name, name), cells.number(size, 1),
                cells.number(agreement, 2), cells.count(size),
            ))  # fmt: skip
    return DataTable(
        f"turns-{dataset}",
        f"Paths on the circle, {dataset}: where images are farthest from where they began",
        (Column("Method", numeric=False), Column("path", numeric=False),
         Column("mean turn", "degrees"), Column("agreement"), Column("n")),
        tuple(rows),
        (
            "Agreement: length of the mean of unit vectors at the turns' angles, 1 if all images "
            "turn by one angle, as under a rotation. Where the turns are small it is near 1 as a "
            "matter of course.",
        ),
    )  # fmt: skip


def _told(found: Sequence[Measured], row: str, dataset: str) -> list[str]:
    mine = measured.at(found, row, dataset)
    cosine, apart = measured.number(mine, "cosine"), measured.number(mine, "mean_cosine")
    if cosine is None or cosine.mean is None:
        return []
    told = f"{row} on {dataset}: mean cosine of f(x) and f(a(x)) {cosine.mean:.2f}"
    if apart is not None and apart.mean is not None:
        told += f", of two different images {apart.mean:.2f}"
    parts = []
    for name in circles.names(mine):
        turns = [t for m in mine if (t := turn((m.detail.get("paths") or {}).get(name) or {}))]
        if turns:
            size = statistics.fmean(t.size for t in turns)
            agreement = statistics.fmean(t.agreement for t in turns)
            parts.append(f"{name} {size:.0f}° (agreement {agreement:.2f})")
    return [f"{told}. Mean turn along a path: {', '.join(parts)}." if parts else f"{told}."]


def _histograms(found: Sequence[Measured], dataset: str) -> Figure:
    rows = list(dict.fromkeys(m.row for m in found))
    each = {row: [s for m in found if m.row == row for s in shares(m)] for row in rows}

    def draw(png: Path, svg: Path) -> None:
        circles.draw_histograms(each, png, svg)

    told = []
    for row in rows:
        cosine = measured.number(measured.at(found, row, dataset), "cosine")
        near = measured.line(measured.at(found, row, dataset), "near", _near)
        if cosine and near:
            told.append(f"{row}: mean {cosine.mean:.2f}, {near.mean:.0f} % at 0.9 and above")
    counts = sorted({len(one) for one in each.values()})
    return Figure(
        f"cosines-of-pairs-{dataset}",
        f"Cosines of f(x) and f(a(x)) for encoders of {dataset} to the circle. Thin lines: one "
        f"augmentation each ({', '.join(map(str, counts)) or 'none'} a method); thick lines: all "
        "together. Dotted: turns that are uniform over the circle.",
        f"Histograms of the cosine of an image's and its augmentation's embedding, {dataset}, a "
        "panel a method. " + ("; ".join(told) or "Nothing is measured"),
        draw,
        each,
    )


def _paths(found: Sequence[Measured], dataset: str) -> Figure:
    """The first seed's encoders: paths of several would hide each other."""
    seed = min((m.seed for m in found), default=0)
    paths = {m.row: m.detail["paths"] for m in found if m.seed == seed and m.detail.get("paths")}

    def draw(png: Path, svg: Path) -> None:
        circles.draw_paths(paths, png, svg)

    told = []
    for row, those in paths.items():
        for name, path in those.items():
            if found_turn := turn(path):
                told.append(
                    f"{row}, {name}: mean turn {found_turn.size:.0f} degrees, agreement "
                    f"{found_turn.agreement:.2f}"
                )
    return Figure(
        f"paths-{dataset}",
        f"Images of {dataset} on the circle as an augmentation grows (seed {seed}). Above: from "
        "the inner circle (none of it) to the outer one (all of it), a line an image. Below: by "
        "how much each has turned, on one scale for all methods. Under a rotation all lines "
        "below would be one.",
        f"Paths on the circle, {dataset}, a column a path and a band a method. "
        + ("; ".join(told) or "Nothing is measured"),
        draw,
        paths,
    )
