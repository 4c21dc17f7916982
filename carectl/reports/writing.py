"""A document becomes files: a page, tables as CSV, Markdown and LaTeX, figures, and all as JSON."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from care_core.files import write_bytes, write_json
from carectl.reports import latex, markdown, page, sheets
from carectl.reports.document import Document, plain

VERSION = 2


def write(document: Document, folder: Path) -> dict[str, Path]:
    """Write all forms of a document to a folder; returns them by what they are.

    Raises:
        StorageError: the folder cannot be written to.
    """
    name = document.target
    paths = {
        "html": folder / "index.html",
        "json": folder / f"{name}.json",
        "md": folder / f"{name}.md",
        "tex": folder / f"{name}.tex",
    }
    pictures = {}
    for figure in document.figures:
        png, svg = folder / f"{figure.key}.png", folder / f"{figure.key}.svg"
        folder.mkdir(parents=True, exist_ok=True)
        figure.draw(png, svg)
        pictures[figure.key] = svg
        paths |= {f"{figure.key}.png": png, f"{figure.key}.svg": svg}
    for table in document.tables:
        paths[f"{table.key}.csv"] = folder / f"{table.key}.csv"
        write_bytes(paths[f"{table.key}.csv"], sheets.text(table).encode())
    write_json(paths["json"], {"version": VERSION, **plain(document)})
    write_bytes(paths["md"], markdown.text(document).encode())
    write_bytes(paths["tex"], latex.text(document).encode())
    write_bytes(paths["html"], page.text([(document, pictures)]).encode())
    return paths


def write_page(documents: Sequence[Document], path: Path, title: str) -> Path:
    """One page of several documents, its figures drawn for it alone.

    Raises:
        StorageError: it cannot be written.
    """
    with tempfile.TemporaryDirectory() as folder:
        drawn = []
        for document in documents:
            pictures = {}
            for figure in document.figures:
                svg = Path(folder) / f"{document.target}-{figure.key}.svg"
                figure.draw(svg.with_suffix(".png"), svg)
                pictures[figure.key] = svg
            drawn.append((document, pictures))
        write_bytes(path, page.text(drawn, title).encode())
    return path
