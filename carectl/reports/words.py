"""A summary in words: how a number is shown, how to read it, what it shows and what not."""

from __future__ import annotations

from collections.abc import Sequence

from carectl.reports import intervals, marks
from carectl.reports.summary import HEADLINE, Difference, Line, Table

MARK = "§"  # beside a number that is not comparable


def number(line: Line | None, places: int = 2) -> str:
    """mean ± sd over pretraining seeds; the mean alone for one seed; a dash for none."""
    if line is None or line.mean is None:
        return "–"
    mean = f"{line.mean:.{places}f}"
    return mean if line.sd is None else f"{mean} ± {line.sd:.{places}f}"


def headline(line: Line | None) -> str:
    """mean ± sd over seeds, or for one seed the mean and its interval over images."""
    if line is None or line.mean is None:
        return "–"
    if line.sd is None and line.low is not None:
        return f"{line.mean:.1f} [{line.low:.1f}, {line.high:.1f}]{_mark(line)}"
    return f"{number(line)}{_mark(line)}"


def _mark(line: Line) -> str:
    return MARK if line.marks else ""


def paper(line: Line | None) -> str:
    """The published figure; † marks one that is uncertain, ‡ one cited from elsewhere."""
    if line is None or line.paper is None:
        return "–"
    marks = ("†" if "uncertain" in line.paper_note else "") + (
        "‡" if "cited" in line.paper_note else ""
    )
    spread = "" if line.paper_sd is None else f" ± {line.paper_sd:.2f}"
    return f"{line.paper:.2f}{spread}{marks}"


def signed(value: float, places: int) -> str:
    """A number with its sign, the minus as it is set in print."""
    return f"{round(value, places) + 0.0:+.{places}f}".replace("-", "−")  # + 0.0: no minus zero


def seed_count(counts: Sequence[int]) -> str:
    """On how many seeds numbers stand, where not all stand on as many; `counts` rise."""
    return f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"


def state_of(table: Table, row: str, dataset: str) -> str:
    """Why a cell has no number: the worst state of its seeds, or that nothing is run for it."""
    states = {c.state for c in table.cells if (c.row, c.dataset) == (row, dataset)}
    return next((state for state in ("failed", "not run", "measured") if state in states), "cited")


def notes(table: Table) -> list[str]:
    """How to read the numbers: what was averaged, what intervals are, on how many images."""
    lines = [line for line in table.lines if line.measure == HEADLINE and line.n]
    if not lines:
        return ["Nothing is measured yet."]
    counts = sorted({line.n for line in lines})
    n = seed_count(counts)
    classifiers = sorted({line.classifiers for line in lines})
    heads = " or ".join(map(str, classifiers))
    plural = "s" if counts[-1] > 1 else ""
    found = [
        f"Mean over {n} pretraining seed{plural}, each of {heads} classifier "
        f"seed{'s' if classifiers[-1] > 1 else ''} on frozen features."
    ]
    kinds = {line.interval for line in lines}
    if intervals.STUDENT in kinds:
        found.append("± is the standard deviation over pretraining seeds.")
    named = [kind for kind in (intervals.STUDENT, intervals.WILSON) if kind in kinds]
    if named:
        found.append(f"Intervals: {'; '.join(named)}.")
    where = []
    for line in lines:
        on = "test images" if line.measured_on == "test" else f"images, {line.measured_on}"
        place = f"{line.dataset} ({line.images} {on})"
        if place not in where:
            where.append(place)
    found.append(f"Measured on {'; '.join(where)}.")
    if any(line.paper is not None for line in table.lines):
        found.append("Paper: arXiv 2306.13924, ResNet-50; † uncertain, ‡ cited from elsewhere.")
    return found


def caveats(table: Table) -> list[str]:
    """The preset, and settings that are not the recipes'."""
    return [t for t in (marks.preset(table.fidelity), marks.changed(table.changes)) if t]


def sentences(table: Table) -> list[str]:
    """What the table shows, in plain and honest words: the headline, and what is beyond the noise.

    Plain text, no markup. Gaps are told too.
    """
    found, quiet = list[str](), dict[int, list[str]]()
    several = len({cell.dataset for cell in table.cells}) > 1
    for gap in table.differences:
        if several and gap.measure != HEADLINE:
            continue  # of many datasets the headline is told
        if several and not gap.shown:
            quiet.setdefault(len(gap.seeds), []).append(f"{gap.row} on {gap.dataset}")
        elif gap.measure == HEADLINE or gap.shown:
            found.append(_sentence(gap, several))
    for n, names in quiet.items():
        why = (
            "n = 1: one seed is not evidence" if n == 1 else f"n = {n} paired seeds, 95% t interval"
        )
        found.append(f"No difference to its baseline shown ({why}): {', '.join(names)}.")
    for state in ("failed", "not run"):
        count = sum(cell.state == state for cell in table.cells)
        if count:
            found.append(f"{count} of {len(table.cells)} cells and seeds: {state}.")
    return found


def _sentence(gap: Difference, several: bool) -> str:
    name = gap.measure.replace("linear, ", "linear probe on the ")
    name = name.replace("kNN, ", "kNN on the ").replace("R², ", "R² from the ")
    where = f" ({gap.dataset})" if several else ""
    places = 1 if gap.unit else 3
    size = signed(gap.mean, places) + (f" {gap.unit}" if gap.unit else "")
    return f"{gap.row} − {gap.base}{where}, {name}: {size} {evidence(gap, places)}"


def evidence(gap: Difference, places: int) -> str:
    """On what a difference stands, in brackets: its seeds, its interval, whether it is shown."""
    if gap.low is None or gap.high is None:
        return "(n = 1: one seed is not evidence)"
    return (
        f"(n = {len(gap.seeds)} paired seeds, 95% t interval "
        f"{signed(gap.low, places)} to {signed(gap.high, places)}"
        f"{'' if gap.shown else ': no difference shown'})"
    )
