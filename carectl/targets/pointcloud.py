"""Point clouds: how far off the principal axis is read, and where turning clouds lead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from care_core.files import read_json
from carectl.reports import cells, summary
from carectl.reports.document import Cell, Column, DataTable, Document
from carectl.reports.summary import HEADLINE, Line, Table
from carectl.targets import measured, trajectories
from carectl.targets.context import Answer, Context
from carectl.targets.measured import Measured
from carectl.targets.trajectories import GUESS, UNTRAINED

_STRUCTURE = "equivariance + uniformity"
_STILL, _NEAR = 0.5, 0.8  # a displacement, and a share of what R = I leaves: see `_rotates`

_AXIS = (
    Column("Method", numeric=False), Column("Axis error, projection", "°"), Column("R²"),
    Column("Axis error, backbone", "°"), Column("Wahba error, held out", "per √n", rank=1),
    Column("R = I", "per √n", rank=1), Column("held out / (R = I)"), Column("n"),
)  # fmt: skip
_BESIDE = (
    Column("Method", numeric=False), Column("median, projection", "°"),
    Column("median, backbone", "°", rank=2), Column("R², backbone", rank=1),
    Column("displacement"), Column("path radius"), Column("path length", rank=2),
    Column("in a plane", "%", rank=3), Column("effective rank", rank=3),
    Column("Linear probe", "%", rank=1), Column("kNN", "%", rank=4),
)  # fmt: skip


class View(NamedTuple):
    """What was measured on one dataset.

    `axis` and `shape` are the encoders by kind of measurement, `fresh` those without training (one
    a seed), `paths` artifacts/trajectories.json of each row's first seed that has one.
    """

    dataset: str
    rows: list[str]
    axis: list[Measured]
    shape: list[Measured]
    fresh: list[Measured]
    paths: dict[str, tuple[int, dict[str, Any]]]

    def error(self, row: str, layer: str, key: str = "angle") -> Line | None:
        """The axis error in degrees, or another of its numbers, over seeds."""
        mine = self.fresh if row == UNTRAINED else [m for m in self.axis if m.row == row]
        label = f"axis error of the {layer}, degrees"
        return measured.line(mine, label, lambda one: _within(one.numbers, key, layer))

    def path(self, row: str, key: str) -> Line | None:
        return measured.number([m for m in self.axis if m.row == row], key)

    def geometry(self, row: str, key: str) -> Line | None:
        return measured.number([m for m in self.shape if m.row == row], key)

    def share(self, row: str) -> Line | None:
        """What the rotation of one half leaves on the other, as a share of what R = I leaves."""
        mine = [m for m in self.shape if m.row == row]
        return measured.held_out_share(mine, "what a rotation leaves of R = I, held out")


def plan(context: Context) -> Sequence[Answer]:
    """The grid's cells."""
    return context.answers


def document(context: Context) -> Document:
    """Two tables, the errors and the paths a dataset, and what they show."""
    views = _views(context)
    table = summary.summarise(context.entries, context.grid.reference)
    return context.document(
        tables=[made for view in views for made in (_errors(view), _beside(view, table))],
        figures=[
            figure
            for view in views
            for figure in (trajectories.errors(view), trajectories.paths(view))
        ],
        findings=[
            *(text for view in views for text in _told(view)),
            *measured.missing(context),
        ],
        data=[
            {"row": m.row, "dataset": m.dataset, "seed": m.seed, "run": m.run, "axis": m.numbers,
             "geometry": next((s.numbers for s in view.shape if s.run == m.run), None)}
            for view in views
            for m in view.axis
        ],
    )  # fmt: skip


def _views(context: Context) -> list[View]:
    axis, shape = (measured.of(context, kind) for kind in ("axis", "geometry"))
    places = measured.places(context)
    views = []
    for dataset in dict.fromkeys(place for _, place in places):
        mine = [m for m in axis if m.dataset == dataset]
        fresh: dict[int, Measured] = {}  # the methods' networks begin alike
        for one in mine:
            numbers = one.numbers.get("untrained")
            if isinstance(numbers, dict):
                fresh.setdefault(one.seed, one._replace(row=UNTRAINED, numbers=numbers))
        paths: dict[str, tuple[int, dict[str, Any]]] = {}
        for answer in context.answers:
            told = read_json(context.run(answer.probed).path / "artifacts" / "trajectories.json")
            if answer.cell.dataset == dataset and isinstance(told, dict):
                paths.setdefault(answer.cell.row, (answer.cell.seed, told))
        views.append(
            View(
                dataset, [row for row, place in places if place == dataset], mine,
                [m for m in shape if m.dataset == dataset], list(fresh.values()), paths,
            )
        )  # fmt: skip
    return views


def _within(numbers: dict[str, Any], *keys: str) -> float | None:
    value: Any = numbers
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return measured.finite(value)


def _errors(view: View) -> DataTable:
    rows: list[tuple[Cell, ...]] = []
    for row in (*view.rows, UNTRAINED):
        known, share = view.error(row, "projection"), view.share(row)
        rows.append((
            cells.name(row), cells.number(known, 1),
            cells.number(view.error(row, "projection", "r2"), 2),
            cells.number(view.error(row, "backbone"), 1),
            cells.number(view.geometry(row, "wahba_held_out"), 3),
            cells.number(view.geometry(row, "wahba_identity"), 3),
            cells.number(share, 2), cells.count(known or share),
        ))  # fmt: skip
    blind = Cell(f"{GUESS:.1f}", GUESS, note="the mean of a guess")
    rows.append((
        cells.name("a guess"), blind, Cell("0.00", 0.0), blind, *[cells.NOTHING] * 4,
    ))  # fmt: skip
    return DataTable(
        f"axis-{view.dataset}",
        f"How far off the principal axis of test {view.dataset} is read, and what rotations leave",
        _AXIS,
        tuple(rows),
        (
            measured.seeds_said(view.axis),
            "R² is of v vᵀ, read from the projection. A small held-out error shows a rotation only "
            "where it is well below that of R = I: an embedding that hardly moves has both small.",
        ),
    )


def _beside(view: View, table: Table) -> DataTable:
    rows = []
    for row in (*view.rows, UNTRAINED):
        plane = measured.line(
            [m for m in view.axis if m.row == row], "in a plane",
            lambda one: None if (share := one.number("path_plane")) is None else 100 * share,
        )  # fmt: skip
        rows.append((
            cells.name(row),
            cells.number(view.error(row, "projection", "median"), 1),
            cells.number(view.error(row, "backbone", "median"), 1),
            cells.number(view.error(row, "backbone", "r2"), 2),
            cells.number(view.geometry(row, "displacement"), 2),
            cells.number(view.path(row, "path_radius"), 2),
            cells.number(view.path(row, "path_length"), 1), cells.number(plane, 0),
            cells.number(view.geometry(row, "effective_rank"), 1),
            cells.number(table.line(row, view.dataset, HEADLINE), 1),
            cells.number(table.line(row, view.dataset, "kNN, backbone"), 1),
        ))  # fmt: skip
    return DataTable(
        f"beside-{view.dataset}",
        f"What else was measured on {view.dataset}",
        _BESIDE,
        tuple(rows),
        (
            "Displacement is the mean ‖f(Rx) − f(x)‖ of unit vectors, at most 2. A path is the "
            "projection's while a cloud turns once about x, y or z: its root mean square distance "
            "from its middle (0: it stays; at most 1), its length, and its share of variance in "
            "its best plane. Linear probe and kNN tell classes, which need no orientation.",
        ),
    )


def _told(view: View) -> list[str]:
    rows = [text for row in view.rows for text in (_reads(view, row), _rotates(view, row)) if text]
    gaps = []
    for row, base in ((a, b) for b in view.rows for a in view.rows):
        if base == "SimCLR" and row != base:
            pair = (view.error(name, "projection") for name in (row, base))
            if gap := summary.difference(*pair):
                gaps.append(measured.sentence(gap, 1, f" on {view.dataset}"))
    return [*_contrast(view), *rows, *gaps]


def _means(*lines: Line | None) -> list[float] | None:
    """The lines' means; None where one is missing."""
    found = [line.mean for line in lines if line is not None and line.mean is not None]
    return found if len(found) == len(lines) else None


def _reads(view: View, row: str) -> str:
    """How well the axis is read, between the untrained network and a guess."""
    layers = ("projection", "backbone")
    numbers = _means(
        *(view.error(name, layer) for name in (row, UNTRAINED) for layer in layers),
        view.error(row, "projection", "r2"),
    )
    if numbers is None:
        return ""
    off, below, fresh, fresh_below, r2 = numbers
    if off <= fresh:
        so = "training has brought the projection nearer to it than random features are"
    elif fresh < GUESS <= off:
        so = "the projection tells no more than a guess"
    else:
        way = 100 * (off - fresh) / (GUESS - fresh)
        so = f"training has led the projection {way:.0f} % of the way from there to a guess"
    return (
        f"{row} on {view.dataset}: the axis is read {off:.1f}° off from the projection (R² "
        f"{r2:.2f}) and {below:.1f}° from the backbone; not trained, {fresh:.1f}° and "
        f"{fresh_below:.1f}°; guessed, {GUESS:.1f}°: {so}."
    )


def _rotates(view: View, row: str) -> str:
    """Whether a rotation of clouds is one of their embeddings, beside doing nothing."""
    keys = ("wahba_held_out", "wahba_identity", "wahba_shuffled", "displacement")
    numbers = _means(*(view.geometry(row, key) for key in keys))
    if numbers is None:
        return ""
    held, still, shuffled, moved = numbers
    flat = [m for m in view.shape if m.row == row and m.number("collapsed")]
    if flat:
        so = "it has collapsed: all clouds lie in one place, of which no geometry says anything"
    else:
        so = measured.rotation_said(held, still, shuffled, "clouds")
        if held < min(still, shuffled) and _invariant(view, row):
            so += ", so that it is nearly invariant"
    return (
        f"{row} on {view.dataset}: fitted on half of the clouds the best rotation leaves "
        f"{held:.3f} per √n on the other half, R = I {still:.3f}, shuffled pairs {shuffled:.3f}: "
        f"{so}. Mean displacement {moved:.2f}."
    )


def _invariant(view: View, row: str) -> bool:
    """Whether doing nothing is nearly as good as the best rotation, as clouds hardly move."""
    found = _means(view.share(row), view.geometry(row, "displacement"))
    return found is not None and found[0] > _NEAR and found[1] < _STILL


def _contrast(view: View) -> list[str]:
    """What equivariance gives with and without the wish for invariance, if that is to be seen."""
    care = next((row for row in view.rows if row.startswith("CARE-")), "")
    found = _means(
        view.share(_STRUCTURE), view.error(_STRUCTURE, "projection"),
        view.error(UNTRAINED, "projection"),
    )  # fmt: skip
    if found is None:
        return []
    share, off, fresh = found
    seeds = view.error(_STRUCTURE, "projection")
    n = f"n = {seeds.n if seeds else 0}"
    if share >= 1 - _STILL or off >= fresh:
        return [
            f"On {view.dataset} {_STRUCTURE} did not make the structure here ({n}): a rotation "
            f"leaves {share:.2f} of what doing nothing leaves."
        ]
    told = (
        f"On {view.dataset} the structure appears where invariance is not asked for ({n}): with "
        f"{_STRUCTURE} a rotation leaves {share:.2f} of what doing nothing leaves, and the axis is "
        f"read {off:.1f}° off instead of {fresh:.1f}° without training."
    )
    if _invariant(view, care):
        told += (
            f" {care}, whose InfoNCE asks for invariance to all of SO(3), stays nearly invariant: "
            "an invariant embedding has no equivariance loss either."
        )
    return [told]
