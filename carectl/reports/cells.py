"""The usual cells of a table, from a summary's lines: numbers with their spread, n and runs."""

from __future__ import annotations

from collections.abc import Sequence

from carectl.reports import words
from carectl.reports.document import Cell, Mark
from carectl.reports.summary import Difference, Line

NOTHING = Cell("–")


def name(text: str) -> Cell:
    """The cell that names its row."""
    return Cell(text, text)


def number(line: Line | None, places: int = 2) -> Cell:
    """mean ± sd over pretraining seeds; for one seed the mean alone."""
    return NOTHING if line is None or line.mean is None else _of(line, words.number(line, places))


def headline(line: Line | None, state: str = "not run") -> Cell:
    """mean ± sd, or for one seed the mean with its interval over images; else why there is none."""
    if line is None or line.mean is None:
        marks = {"not run": Mark.NOT_RUN, "failed": Mark.FAILED, "cited": Mark.CITED}
        return Cell(state, mark=marks.get(state, Mark.NONE))
    return _of(line, words.headline(line))


def count(line: Line | None) -> Cell:
    """How many pretraining seeds a number stands on."""
    n = line.n if line else 0
    return Cell(str(n), n, note="one seed is not evidence" if n == 1 else "")


def classifiers(line: Line | None) -> Cell:
    """The spread over the linear classifier's own seeds, apart from that over pretrainings."""
    if line is None or line.sd_classifier is None:
        return NOTHING
    return Cell(f"± {line.sd_classifier:.2f}", line.sd_classifier, n=line.classifiers)


def paper(line: Line | None) -> Cell:
    """The published number; † is uncertain, ‡ cited from elsewhere."""
    if line is None or line.paper is None:
        return NOTHING
    return Cell(words.paper(line), line.paper, spread=line.paper_sd, note=line.paper_note)


def delta(line: Line | None, mark: Mark, why: str) -> Cell:
    """Measured − published, with what the tolerance says of it."""
    if line is None or line.delta is None:
        return NOTHING
    return Cell(words.signed(line.delta, 2), line.delta, mark=mark, note=why, runs=line.probes)


def difference(gap: Difference | None, places: int = 1) -> Cell:
    """A difference paired by seed with its 95 % interval; strong only if that leaves zero out."""
    if gap is None:
        return NOTHING
    if gap.low is None or gap.high is None:
        return Cell(f"{words.signed(gap.mean, places)} (n = 1)", gap.mean, n=1, note=gap.note)
    reach = f"{words.signed(gap.low, places)} to {words.signed(gap.high, places)}"
    return Cell(
        f"{words.signed(gap.mean, places)} ({reach})", gap.mean, spread=gap.sd, n=len(gap.seeds),
        low=gap.low, high=gap.high, note=gap.note, strong=gap.shown,
    )  # fmt: skip


def runs_of(lines: Sequence[Line]) -> tuple[str, ...]:
    """The probes of several lines, each once."""
    return tuple(dict.fromkeys(run for line in lines for run in line.probes))


def _of(line: Line, text: str) -> Cell:
    return Cell(
        text, line.mean, spread=line.sd, n=line.n, low=line.low, high=line.high,
        mark=Mark.OTHER if line.marks else Mark.NONE, note="; ".join(line.marks), runs=line.probes,
    )  # fmt: skip
