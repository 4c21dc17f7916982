"""Table 1 in words: markdown, CSV, a terminal table, sentences."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from carectl.reports import intervals, marks
from carectl.reports.table1 import HEADLINE, Line, Table, is_accuracy

if TYPE_CHECKING:
    import rich.table

_CSV = (
    "dataset", "row", "measure", "n", "mean", "sd", "sd_classifier", "low", "high", "interval",
    "images", "measured_on", "paper", "paper_sd", "paper_note", "delta", "seeds", "pretrains",
    "probes", "fidelity", "marks",
)  # fmt: skip
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


def delta(line: Line | None) -> str:
    return "–" if line is None or line.delta is None else f"{line.delta:+.2f}"


def short(run_id: str) -> str:
    """The hash of a run id, by which `carectl status` finds it."""
    return run_id.rsplit("-", 1)[-1][:12]


def state_of(table: Table, row: str, dataset: str) -> str:
    """Why a cell has no number: the worst state of its seeds."""
    states = {c.state for c in table.cells if (c.row, c.dataset) == (row, dataset)}
    return next(state for state in ("failed", "not run", "measured") if state in states)


def notes(table: Table) -> list[str]:
    """How to read the numbers: what was averaged, what intervals are, on how many images."""
    lines = [line for line in table.lines if line.measure == HEADLINE and line.n]
    if not lines:
        return ["Nothing is measured yet.", *caveats(table)]
    counts = sorted({line.n for line in lines})
    n = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
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
    return [*found, *caveats(table)]


def caveats(table: Table) -> list[str]:
    """The preset, and settings that are not the recipes'. The warning stands above the table."""
    told = table.fidelity != "paper" or any(line.paper is not None for line in table.lines)
    preset = f"Fidelity preset: {table.fidelity}." if told else ""
    return [text for text in (preset, marks.changed(table.changes)) if text]


def sentences(table: Table) -> list[str]:
    """Differences and gaps in plain words; text without markup."""
    found = []
    several = len({cell.dataset for cell in table.cells}) > 1
    for gap in table.differences:
        if gap.measure in ("γ", "Wahba/√n"):
            continue  # neither is better for being larger or smaller by itself
        name = gap.measure.replace("linear, ", "linear probe on the ")
        name = name.replace("kNN, ", "kNN on the ").replace("R², ", "R² from the ")
        where = f" ({gap.dataset})" if several else ""
        places = 1 if gap.unit else 3
        size = f"{gap.mean:+.{places}f}" + (f" {gap.unit}" if gap.unit else "")
        start = f"{gap.row} − {gap.base}{where}, {name}: {size}"
        if gap.low is None or gap.high is None:
            found.append(f"{start} (n = 1: one seed is not evidence)")
            continue
        within = gap.low <= 0 <= gap.high
        found.append(
            f"{start} (n = {len(gap.seeds)} paired seeds, 95% t interval "
            f"{gap.low:+.{places}f} to {gap.high:+.{places}f}"
            f"{': no difference shown' if within else ''})"
        )
    for state in ("failed", "not run"):
        count = sum(cell.state == state for cell in table.cells)
        if count:
            found.append(f"{count} of {len(table.cells)} runs: {state}.")
    return found


def _escape(text: str) -> str:
    """Text that markdown shows as it is, on one line of a table."""
    return re.sub(r"([\\|\[\]<>*`_])", r"\\\1", " ".join(text.split()))


def _rows_of(cells: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in cells]


def markdown(table: Table) -> str:
    """The report: one table a dataset, differences, how to read it, and its runs."""
    parts = ["# Table 1", "", "![linear-probe accuracy](table1.png)", ""]
    if table.warning:
        parts[2:2] = [f"> **{MARK} {_escape(table.warning)}**", ""]
    for dataset in dict.fromkeys(dataset for dataset, _ in table.rows):
        parts += [f"## {_escape(dataset)}", ""]
        columns = _columns(table, dataset, wide=True)
        head = ["method", *(title.replace("\n", ", ") for title in columns), "n"]
        rows = [head, ["---"] + ["---:"] * (len(head) - 1)]
        for place, row in table.rows:
            if place != dataset:
                continue
            line = table.line(row, dataset)
            shown = [_escape(show(row, dataset)) for show in columns.values()]
            if line is None or not line.n:
                shown[0] = state_of(table, row, dataset)
            rows.append([_escape(row), *shown, str(line.n if line else 0)])
        parts += [*_rows_of(rows), ""]
    parts += [*(f"- {_escape(text)}" for text in sentences(table)), "", " ".join(notes(table)), ""]
    rows = [["method", "dataset", "seed", "pretrain", "probe", "state"], ["---"] * 6]
    for cell in table.cells:
        state = f"{cell.state}: {cell.reason}" if cell.reason else cell.state
        rows.append(
            [
                _escape(text)
                for text in (
                    cell.row,
                    cell.dataset,
                    str(cell.seed),
                    cell.pretrain,
                    cell.probe,
                    state,
                )
            ]
        )
    return "\n".join([*parts, "## Runs", "", *_rows_of(rows), ""])


def csv_text(table: Table) -> str:
    """One row a line of the table, full precision; lists are joined by spaces."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*_CSV, "state"])
    for line in table.lines:
        values = [getattr(line, name) for name in _CSV]
        flat = [
            ("; " if name == "marks" else " ").join(map(str, v)) if isinstance(v, tuple) else v
            for name, v in zip(_CSV, values, strict=True)
        ]
        writer.writerow([*flat, "measured" if line.n else state_of(table, line.row, line.dataset)])
    return out.getvalue()


def _columns(
    table: Table, dataset: str | None = None, *, wide: bool = False
) -> dict[str, Callable[[str, str], str]]:
    """Title → how to show it, for the measures that occur; `wide` leaves nothing out."""
    lines = [line for line in table.lines if dataset in (None, line.dataset)]
    present = {line.measure for line in lines}
    published = any(line.paper is not None for line in lines)
    colours = "hue R², backbone" in present or "hue R², projection" in present

    def of(measure: str, places: int) -> Callable[[str, str], str]:
        def show(row: str, place: str) -> str:
            text = number(table.line(row, place, measure), places)
            return text if wide or is_accuracy(measure) else text.split(" ± ")[0]

        return show

    def hue(row: str, place: str) -> str:
        both = [of(f"hue R², {layer}", 2)(row, place) for layer in ("backbone", "projection")]
        return "/".join(both)

    columns = {"linear\nbackbone": lambda row, place: headline(table.line(row, place))}
    columns["linear\nprojection"] = (
        of("linear, projection", 2)
        if wide
        else lambda row, place: of("linear, projection", 2)(row, place).replace(" ± ", "±")
    )
    columns["kNN"] = (
        of("kNN, backbone", 2)
        if wide
        else lambda row, place: of("kNN, backbone", 1)(row, place).split(" ± ")[0]
    )
    if wide and colours:
        columns["hue R²\nbackbone"] = of("hue R², backbone", 3)
        columns["hue R²\nprojection"] = of("hue R², projection", 3)
    elif colours:
        columns["hue R²\nback/proj"] = hue
    if wide or not (colours and published):  # there is no room for both in 80 columns
        columns["γ"] = of("γ", 3)
    if wide:
        columns["Wahba/√n"] = of("Wahba/√n", 3)
    if published:
        columns["paper"] = lambda row, place: paper(table.line(row, place))
        columns["Δ"] = lambda row, place: delta(table.line(row, place))
    return columns


def render(table: Table) -> rich.table.Table:
    """The table above its runs; names are text, never markup."""
    from rich.table import Table as Rich
    from rich.text import Text

    columns = _columns(table)
    top = Rich(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    top.add_column("method", overflow="fold")
    for title in columns:
        top.add_column(title, justify="right", no_wrap=True)
    seen = None
    several = len({dataset for dataset, _ in table.rows}) > 1
    for dataset, row in table.rows:
        if several and dataset != seen:
            top.add_row(Text(dataset, style="italic"))
            seen = dataset
        shown = [show(row, dataset) for show in columns.values()]
        line = table.line(row, dataset)
        if line is None or not line.n:
            shown[0] = state_of(table, row, dataset)
        top.add_row(Text(row), *map(Text, shown))
    below = Rich(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for title in ("runs of", "dataset", "seed", "pretrain", "probe", "state"):
        below.add_column(title, overflow="fold")
    for cell in table.cells:
        below.add_row(
            Text(cell.row), Text(cell.dataset), str(cell.seed), Text(short(cell.pretrain)),
            Text(short(cell.probe)), cell.state,
        )  # fmt: skip
    grid = Rich.grid()
    grid.add_column()
    if table.warning:
        grid.add_row(Text(f"{MARK} {table.warning}", style="bold yellow"))
    grid.add_row(top)
    grid.add_row(Text(" ".join(notes(table)), style="dim"))
    grid.add_row("")
    grid.add_row(below)
    return grid
