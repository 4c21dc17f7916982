"""A grid's numbers from run folders: each with its spread, its interval and its runs.

Nothing here trains or probes: each probe's result.json is read. Seeds are paired between methods.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from carectl import runs
from carectl.reports import intervals, marks
from carectl.runs import Run

HEADLINE = "linear, backbone"
# label → where it lies in result.json; accuracies are in per cent, the rest are plain numbers
MEASURES: dict[str, tuple[str, str]] = {
    HEADLINE: ("linear", "backbone"),
    "linear, projection": ("linear", "projection"),
    "kNN, backbone": ("knn", "backbone"),
    "hue R², backbone": ("hue_r2", "backbone"),
    "hue R², projection": ("hue_r2", "projection"),
}
ONE_SEED = "one seed: not evidence"

State = Literal["measured", "not run", "failed"]


class Reference(Protocol):
    """A published accuracy in per cent. `carectl.grid` has them."""

    @property
    def mean(self) -> float: ...
    @property
    def sd(self) -> float | None: ...
    @property
    def uncertain(self) -> bool: ...
    @property
    def cited(self) -> bool: ...


@dataclass(frozen=True)
class Entry:
    """One cell and seed of the grid, and the runs that answer it, whether they exist or not.

    `fidelity` is the preset that was asked for, `changes` in what the asked spec is not its recipe.
    """

    row: str
    dataset: str
    seed: int
    pretrain: Run
    probe: Run
    fidelity: str = "paper"
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """An entry's state, with the reason where it was not measured.

    `fidelity` is the preset of its runs' specs, `marks` what in them makes it not comparable.
    """

    row: str
    dataset: str
    seed: int
    state: State
    reason: str
    pretrain: str
    probe: str
    fidelity: str = "paper"
    marks: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    """One measure of one row on one dataset.

    `values` has one number a pretraining seed: the mean over its classifier seeds. `sd` is over
    pretraining seeds, `sd_classifier` the mean of the runs' own over classifier seeds. A line
    without values stands for a cell that was not measured.
    """

    row: str
    dataset: str
    measure: str
    values: tuple[float, ...] = ()
    seeds: tuple[int, ...] = ()
    mean: float | None = None
    sd: float | None = None
    sd_classifier: float | None = None
    classifiers: int = 0
    low: float | None = None
    high: float | None = None
    interval: str | None = None
    images: int | None = None
    measured_on: str = ""
    paper: float | None = None
    paper_sd: float | None = None
    paper_note: str = ""
    delta: float | None = None
    pretrains: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()
    fidelity: str = "paper"
    marks: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """How many pretraining seeds were measured."""
        return len(self.values)


@dataclass(frozen=True)
class Difference:
    """row − base on one dataset, paired by pretraining seed."""

    row: str
    base: str
    dataset: str
    measure: str
    seeds: tuple[int, ...]
    mean: float
    sd: float | None
    low: float | None
    high: float | None
    note: str

    @property
    def shown(self) -> bool:
        """Whether several seeds show a difference: whether its interval leaves zero out."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high

    @property
    def unit(self) -> str:
        return "points" if is_accuracy(self.measure) else ""


@dataclass(frozen=True)
class Table:
    """Everything the report says."""

    lines: tuple[Line, ...]
    differences: tuple[Difference, ...]
    cells: tuple[Cell, ...]
    fidelity: str = "paper"
    marks: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()

    @property
    def warning(self) -> str:
        """Why the table cannot be put beside other numbers; empty if it can."""
        return marks.warning(self.fidelity, self.marks)

    def line(self, row: str, dataset: str, measure: str = HEADLINE) -> Line | None:
        """The line of a measure, if there is one."""
        wanted = (row, dataset, measure)
        return next((x for x in self.lines if (x.row, x.dataset, x.measure) == wanted), None)

    @property
    def rows(self) -> list[tuple[str, str]]:
        """(dataset, row) in the grid's order, the datasets kept together, what is cited last."""
        pairs = dict.fromkeys((x.dataset, x.row) for x in self.lines if x.measure == HEADLINE)
        datasets = list(dict.fromkeys(dataset for dataset, _ in pairs))
        return sorted(pairs, key=lambda pair: datasets.index(pair[0]))


def is_accuracy(measure: str) -> bool:
    """Whether a measure is an accuracy in per cent."""
    return MEASURES[measure][0] in ("linear", "knn")


def summarise(
    entries: Sequence[Entry],
    reference: Callable[[str, str], Reference | None],
    quoted: Sequence[tuple[str, str]] = (),
) -> Table:
    """Read the runs of a grid. What is missing stays visible as a cell and an empty line.

    Args:
        entries: one a row, dataset and pretraining seed; a repeated one counts once.
        reference: the paper's linear-probe accuracy of (row, dataset), or None.
        quoted: (row, dataset) of published numbers that nothing is run for.
    """
    unique = list({(e.row, e.dataset, e.seed): e for e in entries}.values())
    results = {entry: _result(entry) for entry in unique}
    cells = tuple(_cell(entry, results[entry]) for entry in unique)
    lines: list[Line] = []
    for row, dataset in dict.fromkeys((e.row, e.dataset) for e in unique):
        mine = [(e, results[e]) for e in unique if (e.row, e.dataset) == (row, dataset)]
        here = [cell for cell in cells if (cell.row, cell.dataset) == (row, dataset)]
        for measure in MEASURES:
            line = dataclasses.replace(
                _line(row, dataset, measure, mine),
                fidelity=marks.joined(cell.fidelity for cell in here),
                marks=_all(cell.marks for cell in here),
            )
            if measure == HEADLINE:
                lines.append(_beside(line, reference(row, dataset)))
            elif line.n:
                lines.append(line)
    lines += [_beside(Line(*pair, HEADLINE), reference(*pair)) for pair in quoted]
    presets, changes = marks.joined(c.fidelity for c in cells), _all(c.changes for c in cells)
    gaps = tuple(_differences(lines))
    return Table(tuple(lines), gaps, cells, presets, _all(c.marks for c in cells), changes)


def _all(parts: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """Every text once, in order."""
    return tuple(dict.fromkeys(text for part in parts for text in part))


def _result(entry: Entry) -> dict[str, Any]:
    found = entry.probe.result or {}
    return found if any(_scores(found, measure) for measure in MEASURES) else {}


def _scores(result: dict[str, Any], measure: str) -> list[float]:
    """A measure's numbers, one a classifier seed; none where it is missing or not finite."""
    section, key = MEASURES[measure]
    part = result.get(section)
    value = part.get(key) if isinstance(part, dict) else None
    values = value if isinstance(value, list) else [value]
    numbers = [float(x) for x in values if isinstance(x, int | float) and math.isfinite(x)]
    return numbers if len(numbers) == len(values) else []


def _cell(entry: Entry, result: dict[str, Any]) -> Cell:
    state: State = "measured"
    reason = ""
    if not result:
        found = [("pretrain", runs.status(entry.pretrain)), ("probe", runs.status(entry.probe))]
        bad = [(what, s) for what, s in found if s.state in ("failed", "lost", "cancelled")]
        if bad:
            what, status = bad[0]
            state, reason = "failed", f"{what} {status.state}: {status.reason}".rstrip(": ")
        elif found[1][1].state == "done":
            state, reason = "failed", "the probe's result.json holds no measurement"
        else:
            waiting = [f"{what} {s.state}" for what, s in found if s.state not in ("new", "done")]
            state, reason = "not run", ", ".join(waiting)
    return Cell(
        entry.row, entry.dataset, entry.seed, state, reason, entry.pretrain.id, entry.probe.id,
        *marks.of_runs(entry.pretrain, entry.probe, entry.fidelity), entry.changes,
    )  # fmt: skip


def _line(
    row: str, dataset: str, measure: str, mine: Sequence[tuple[Entry, dict[str, Any]]]
) -> Line:
    scored = [(e, r, scores) for e, r in mine if (scores := _scores(r, measure))]
    if not scored:
        return Line(row, dataset, measure)
    values = tuple(statistics.fmean(scores) for _, _, scores in scored)
    own = [sd for _, _, scores in scored if (sd := intervals.spread(scores)) is not None]
    images: int | None = scored[0][1].get("images")
    low = high = kind = None
    if len(values) > 1:
        (low, high), kind = intervals.student(values), intervals.STUDENT
    elif is_accuracy(measure) and images:
        (low, high), kind = intervals.wilson(values[0], images), intervals.WILSON
    return Line(
        row, dataset, measure, values,
        seeds=tuple(e.seed for e, _, _ in scored),
        mean=statistics.fmean(values),
        sd=intervals.spread(values),
        sd_classifier=statistics.fmean(own) if own else None,
        classifiers=min(len(scores) for _, _, scores in scored),
        low=low, high=high, interval=kind, images=images,
        measured_on=str(scored[0][1].get("measured_on", "")),
        pretrains=tuple(e.pretrain.id for e, _, _ in scored),
        probes=tuple(e.probe.id for e, _, _ in scored),
    )  # fmt: skip


def _beside(line: Line, paper: Reference | None) -> Line:
    if paper is None:
        return line
    words = [word for word in ("cited", "uncertain") if getattr(paper, word)]
    return dataclasses.replace(
        line,
        paper=paper.mean,
        paper_sd=paper.sd,
        paper_note=", ".join(words),
        delta=None if line.mean is None else line.mean - paper.mean,
    )


def base_of(row: str, rows: Sequence[str]) -> str | None:
    """The row that a CARE row adds its term to: 'CARE-Barlow' → 'Barlow Twins'."""
    if not row.startswith("CARE-"):
        return None
    name = row.removeprefix("CARE-")
    return next((r for r in rows if r == name or r.startswith(f"{name} ")), None)


def _differences(lines: Sequence[Line]) -> list[Difference]:
    found = []
    for line in lines:
        peers = [x for x in lines if (x.dataset, x.measure) == (line.dataset, line.measure)]
        base = base_of(line.row, [peer.row for peer in peers])
        gap = difference(line, next((peer for peer in peers if peer.row == base), None))
        if gap is not None:
            found.append(gap)
    return found


def difference(line: Line | None, base: Line | None) -> Difference | None:
    """line − base, paired by pretraining seed; None where no seed has both."""
    if line is None or base is None:
        return None
    other = dict(zip(base.seeds, base.values, strict=True))
    pairs = {s: v - other[s] for s, v in zip(line.seeds, line.values, strict=True) if s in other}
    if not pairs:
        return None
    gaps = list(pairs.values())
    low, high = intervals.student(gaps) if len(gaps) > 1 else (None, None)
    return Difference(
        line.row, base.row, line.dataset, line.measure, tuple(pairs), statistics.fmean(gaps),
        intervals.spread(gaps), low, high, intervals.STUDENT if low is not None else ONE_SEED,
    )  # fmt: skip


def values(table: Table) -> dict[str, Any]:
    """The table as plain values, with its warning first."""
    return {"warning": table.warning, **dataclasses.asdict(table)}


def plain(line: Line) -> dict[str, Any]:
    """A line as plain values."""
    return dataclasses.asdict(line)
