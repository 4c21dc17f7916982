"""What a report says, apart from how it looks: the one model that every writer reads.

Frozen values and a function a figure; nothing here knows of terminals, HTML or drawing.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class Mark(enum.StrEnum):
    """What a cell is, beside its number. Only `OUTSIDE` changes an exit code."""

    NONE = ""
    WITHIN = "within"  # the tolerance of the published number
    OUTSIDE = "outside"
    UNCERTAIN = "uncertain"  # there is a published number, which cannot be relied on
    CITED = "cited"  # a published number alone: nothing is run for it
    FEW = "too few seeds"  # to be judged
    OTHER = "not comparable"
    FAILED = "failed"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Cell:
    """One field of a table.

    `text` is what is shown; `value` is the number in full precision, `spread` its standard
    deviation over `n` pretraining seeds, `low` and `high` its 95 % interval. `strong` is for a
    difference that is outside the noise, and for nothing else. `note` explains; `runs` are the ids
    of what was measured.
    """

    text: str
    value: float | str | None = None
    spread: float | None = None
    n: int | None = None
    low: float | None = None
    high: float | None = None
    mark: Mark = Mark.NONE
    note: str = ""
    runs: tuple[str, ...] = ()
    strong: bool = False


@dataclass(frozen=True)
class Column:
    """A column's title and unit; the higher its `rank`, the sooner a narrow terminal leaves it out.

    Numbers stand right and are sorted as numbers.
    """

    title: str
    unit: str = ""
    numeric: bool = True
    rank: int = 0

    @property
    def head(self) -> str:
        return f"{self.title}, {self.unit}" if self.unit else self.title


@dataclass(frozen=True)
class DataTable:
    """A table. The first column names its rows; `notes` say how to read it."""

    key: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.key}: {len(row)} cells, {len(self.columns)} columns")


@dataclass(frozen=True)
class Figure:
    """A picture: `draw(png, svg)` makes both files; `alt` says in words what is to be seen there.

    `data` are the plain values that are drawn.
    """

    key: str
    caption: str
    alt: str
    draw: Callable[[Path, Path], None]
    data: Any = None


@dataclass(frozen=True)
class RunNote:
    """What a report says of a run. `url` is its page at an MLflow server, if there is one."""

    id: str
    role: str
    name: str = ""
    label: str = ""
    seed: int | None = None
    epoch: int | None = None
    state: str = "not run"
    reason: str = ""
    fidelity: str = ""
    commit: str = ""
    dirty: bool = False
    seconds: float | None = None
    mlflow: str = ""
    url: str = ""
    folder: str = ""
    spec: str = ""

    @property
    def short(self) -> str:
        """The hash of the id, by which `carectl status` finds the run."""
        return self.id.rsplit("-", 1)[-1][:12]

    @property
    def failed(self) -> bool:
        return self.state in ("failed", "lost", "cancelled", "blocked", "stale")


@dataclass(frozen=True)
class Document:
    """One target's report. `findings` are sentences; `data` holds all numbers as plain values."""

    target: str
    profile: str
    title: str
    question: str = ""
    source: str = ""
    findings: tuple[str, ...] = ()
    setting: tuple[str, ...] = ()
    tables: tuple[DataTable, ...] = ()
    figures: tuple[Figure, ...] = ()
    runs: tuple[RunNote, ...] = ()
    differs: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    data: Any = None

    @property
    def failed(self) -> list[RunNote]:
        """Runs that were asked for and ended badly."""
        return [run for run in self.runs if run.failed]

    @property
    def missing(self) -> list[RunNote]:
        """Runs that were asked for and have no result."""
        return [run for run in self.runs if run.state != "done"]

    @property
    def complete(self) -> bool:
        return not self.missing

    @property
    def outside(self) -> list[Cell]:
        """Numbers that are not the published ones within their tolerance, each told once."""
        cells = (cell for table in self.tables for row in table.rows for cell in row)
        return list({c.runs or c: c for c in cells if c.mark is Mark.OUTSIDE}.values())


def plain(document: Document) -> dict[str, Any]:
    """A document as values for JSON, without its drawing functions; what is not finite is null."""
    found = {
        field.name: getattr(document, field.name)
        for field in dataclasses.fields(document)
        if field.name not in ("figures", "tables", "runs")
    }
    found["tables"] = [dataclasses.asdict(table) for table in document.tables]
    found["runs"] = [dataclasses.asdict(run) for run in document.runs]
    found["figures"] = [
        {"key": figure.key, "caption": figure.caption, "alt": figure.alt, "data": figure.data}
        for figure in document.figures
    ]
    return {"complete": document.complete, **_finite(found)}


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
