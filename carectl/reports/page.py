"""Documents as one self-contained HTML page: nothing is fetched from anywhere, figures lie in it.

Everything that is said is escaped; the one script is known to the page's policy by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path

from carectl.console.tables import duration
from carectl.reports import pictures
from carectl.reports.document import Cell, Column, DataTable, Document, Figure, Mark, RunNote

_SIGNS = {Mark.WITHIN: "✓", Mark.OUTSIDE: "✗", Mark.UNCERTAIN: "†", Mark.OTHER: "§"}


def text(drawn: Sequence[tuple[Document, Mapping[str, Path]]], title: str = "") -> str:
    """The page.

    Args:
        drawn: each document with its figures' SVG files by key.
        title: of the page, if it has several documents.
    """
    documents = [document for document, _ in drawn]
    alone = len(documents) == 1
    name = title or documents[0].title
    style, script = _asset("page.css"), _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    runs = list({run.id: run for document in documents for run in document.runs}.values())
    body = [_contents(documents)] if not alone else []
    body += [_document(document, figures, alone) for document, figures in drawn]
    return "\n".join([
        "<!DOCTYPE html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{escape(name)}</title>", f"<style>{style}</style>", "</head>", "<body>",
        "<main>", _header(documents, name), *body, _runs(runs), "</main>",
        f"<script>{script}</script>", "</body>", "</html>", "",
    ])  # fmt: skip


def _asset(name: str) -> str:
    return resources.files("carectl.reports").joinpath(name).read_text(encoding="utf-8")


def _header(documents: Sequence[Document], name: str) -> str:
    profiles = ", ".join(dict.fromkeys(document.profile for document in documents))
    targets = ", ".join(document.target for document in documents)
    runs = {run.id: run for document in documents for run in document.runs}
    done = sum(run.state == "done" for run in runs.values())
    source = _common([document.source for document in documents])
    question = documents[0].question if len(documents) == 1 else ""
    return "\n".join([
        "<header>", f'<p class="kicker">{escape(source)}</p>' if source else "",
        f"<h1>{escape(name)}</h1>",
        f'<p class="question">{escape(question)}</p>' if question else "",
        f'<p class="meta"><span>{escape(targets)}</span> <span>profile {escape(profiles)}</span> '
        f'<span><a href="#runs">{done} of {len(runs)} runs done</a></span></p>', "</header>",
    ])  # fmt: skip


def _common(sources: Sequence[str]) -> str:
    """What all sources begin with, such as the paper without the number of a figure."""
    parts = zip(*(source.split(", ") for source in sources), strict=False)
    shared = itertools.takewhile(lambda part: len(set(part)) == 1, parts)
    return ", ".join(part[0] for part in shared)


def _contents(documents: Sequence[Document]) -> str:
    rows = []
    for document in documents:
        missing = len(document.missing)
        mark = f' <span class="mark">{missing} runs missing</span>' if missing else ""
        link = f'<a href="#{escape(document.target)}">{escape(document.title)}</a>'
        rows.append(f"<li>{link}{mark}</li>")
    return f'<nav aria-label="Contents"><ol>{"".join(rows)}</ol></nav>'


def _document(document: Document, figures: Mapping[str, Path], alone: bool) -> str:
    parts = [f'<section class="document" id="{escape(document.target)}">']
    level = 2 if alone else 3
    if not alone:
        parts.append(f"<h2>{escape(document.title)}</h2>")
        parts.append(f'<p class="question">{escape(document.question)}</p>')
    parts += [
        f'<p class="warning" role="note"><strong>§</strong> {escape(told)}</p>'
        for told in document.warnings
    ]
    if document.missing:
        count = len(document.missing)
        parts.append(
            f'<p class="warning" role="note"><strong>Incomplete.</strong> {count} of '
            f"{len(document.runs)} runs {'has' if count == 1 else 'have'} no result.</p>"
        )
    if document.findings:
        parts.append(f'<div class="findings">{_list(document.findings)}</div>')
    prefix = "" if alone else f"{document.target}-"
    parts += [_figure(figure, figures[figure.key], prefix) for figure in document.figures]
    parts += [_table(table, prefix) for table in document.tables]
    notes = [
        f"<div><h{level}>{title}</h{level}>{_list(lines)}</div>"
        for title, lines in (
            ("How it was measured", document.setting),
            ("What differs from the paper", document.differs),
        )
        if lines
    ]
    parts.append(f'<div class="notes">{"".join(notes)}</div></section>')
    return "\n".join(parts)


def _list(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _figure(figure: Figure, svg: Path, prefix: str) -> str:
    key = f"{prefix}{figure.key}"
    return (
        f'<figure id="figure-{escape(key)}"><div class="scroll" role="region" tabindex="0" '
        f'aria-label="{escape(figure.caption)}">{pictures.inline(svg, key, figure.alt)}</div>'
        f"<figcaption>{escape(figure.caption)}</figcaption></figure>"
    )


def _table(table: DataTable, prefix: str) -> str:
    rows = ["".join(_cell(c, row[i]) for i, c in enumerate(table.columns)) for row in table.rows]
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in table.notes)
    marks = dict.fromkeys(cell.mark for row in table.rows for cell in row if cell.mark in _SIGNS)
    legend = ", ".join(f"{_SIGNS[mark]} {escape(mark)}" for mark in marks)
    notes += f'<p class="note">{legend}</p>' if legend else ""
    return _tabular(f"table-{prefix}{table.key}", table.caption, table.columns, rows) + notes


def _tabular(key: str, caption: str, columns: Sequence[Column], rows: Sequence[str]) -> str:
    heads = "".join(
        f'<th scope="col" class="{"number" if column.numeric else "text"}" aria-sort="none">'
        f'<button type="button">{escape(column.head)}</button></th>'
        for column in columns
    )
    body = "".join(f"<tr>{row}</tr>" if row[:3] != "<tr" else row for row in rows)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}">'
        f'<table id="{escape(key)}" class="sortable">'
        f"<caption><span>{escape(caption)}</span></caption>"
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(column: Column, cell: Cell) -> str:
    shown = escape(cell.text)
    if cell.runs:
        shown = (
            f'<a href="#run-{escape(cell.runs[0])}" data-runs="{escape(" ".join(cell.runs))}">'
            f"{shown}</a>"
        )
    if cell.strong:
        shown = f"<strong>{shown}</strong>"
    if cell.mark and cell.mark != cell.text:
        kind = cell.mark.replace(" ", "-")
        shown += (
            f' <span class="mark {kind}">{_SIGNS.get(cell.mark, "")} {escape(cell.mark)}</span>'
        )
    value = "" if cell.value is None else escape(str(cell.value))
    note = f' title="{escape(cell.note)}"' if cell.note else ""
    missing = "" if cell.value is not None else " missing"
    if not column.numeric:
        return f'<th scope="row" class="text" data-value="{value}"{note}>{shown}</th>'
    return f'<td class="number{missing}" data-value="{value}"{note}>{shown}</td>'


_RUN_COLUMNS = tuple(
    Column(title, numeric=title in ("seed", "epoch", "time"))
    for title in ("run", "of", "what", "seed", "epoch", "state", "preset", "code", "time", "MLflow")
)


def _runs(runs: Sequence[RunNote]) -> str:
    rows = [_run(run) for run in runs]
    specs = "".join(
        f'<details id="spec-{escape(run.id)}"><summary>{escape(run.id)}</summary>'
        f"<pre>{escape(run.spec)}</pre></details>"
        for run in runs
        if run.spec
    )
    specs = f'<h3>Their specs</h3><div class="specs">{specs}</div>' if specs else ""
    note = (
        '<p class="note">A run is a folder of its id; carectl status ID shows it. Code is the '
        "git commit, + with uncommitted changes that the folder holds.</p>"
    )
    table = _tabular("table-runs", "Every run behind these numbers", _RUN_COLUMNS, rows)
    return f'<section id="runs"><h2>Runs</h2>{table}{note}{specs}</section>'


def _run(run: RunNote) -> str:
    name = f'<a href="#spec-{escape(run.id)}">{escape(run.id)}</a>' if run.spec else escape(run.id)
    state = escape(run.state) + (f": {escape(run.reason)}" if run.reason else "")
    tracked = escape(run.mlflow[:12])
    if run.url.startswith(("http://", "https://")):  # any other address could be a script
        tracked = f'<a href="{escape(run.url)}" rel="noreferrer">{tracked}</a>'
    fields = [
        ("text id", run.id, name), ("text", run.label, escape(run.label)),
        ("text", run.role, escape(run.role)), *(
            ("number", "" if x is None else str(x), "" if x is None else str(x))
            for x in (run.seed, run.epoch)
        ),
        (f"text state {escape(run.state)}", run.state, state),
        ("text", run.fidelity, escape(run.fidelity)),
        ("text id", run.commit, escape(run.commit + ("+" if run.dirty else ""))),
        ("number", "" if run.seconds is None else str(run.seconds),
         "" if run.seconds is None else escape(duration(run.seconds))),
        ("text id", run.mlflow, tracked),
    ]  # fmt: skip
    (kind, value, shown), *rest = fields
    first = f'<th scope="row" class="{kind}" data-value="{escape(value)}">{shown}</th>'
    cells = "".join(f'<td class="{k}" data-value="{escape(v)}">{s}</td>' for k, v, s in rest)
    return f'<tr id="run-{escape(run.id)}">{first}{cells}</tr>'
