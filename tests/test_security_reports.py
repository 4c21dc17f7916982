"""What a report shows of somebody's names and words is text in every form of it."""

from __future__ import annotations

import csv
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import tiny

from care_core.files import write_json
from care_core.interchange.export import loading
from carectl.reports import markdown, notes, page, pictures, sheets
from carectl.reports.document import Cell, Column, DataTable, Document, Figure, RunNote
from carectl.runs import Run

BREAKS = (
    "\"' onmouseover=alert(1) x=`</title></style></pre><script>alert(1)</script><img src=x>&quot;"
)


class Elements(HTMLParser):
    """Every element with its attributes, and the text in between."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def svg(path: Path, words: str) -> Path:
    """A picture as a drawing library may leave it, with what must not come into a page."""
    path.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
        f"<style>* {{ fill: red }}</style><script>alert(1)</script><text>{words}</text>"
        '<a xlink:href="javascript:alert(1)"><text>x</text></a>'
        '<image href="https://evil.example/x.png"/><use href="#a"/>'
        '<rect onclick="alert(1)" style="fill:url(https://evil.example)"/>'
        "<foreignObject><b>x</b></foreignObject></svg>"
    )
    return path


def document(told: str) -> Document:
    cell = Cell(told, told, note=told, runs=(told,), strong=True)
    table = DataTable(
        "t", told, (Column(told, told, False), Column(told)), ((cell, cell),), (told,)
    )
    run = RunNote(
        told, told, told, told, 1, 2, told, told, told, told, True, 1.0, told, told, told, told
    )
    return Document(
        "table1", told, told, told, told, (told,), (told,), (table,),
        (Figure("f", told, told, lambda png, svg: None),), (run,), (told,), (told,),
    )  # fmt: skip


def test_no_value_gets_out_of_its_place_in_the_page(tmp_path: Path) -> None:
    made = document(BREAKS)
    text = page.text([(made, {"f": svg(tmp_path / "f.svg", "x")})], BREAKS)
    text += page.text([(made, {"f": svg(tmp_path / "f.svg", "x")}), (document("b"), {
        "f": svg(tmp_path / "g.svg", "x")})], BREAKS)  # fmt: skip
    elements = Elements(text)
    tags = {tag for tag, _ in elements.found}
    assert not tags & {"img", "b", "iframe", "object", "base", "form", "foreignobject"}
    assert sum(tag == "script" for tag, _ in elements.found) == 2  # its own, a page
    for tag, attributes in elements.found:
        assert not any(name.startswith("on") for name in attributes), tag
        for name in ("href", "src", "xlink:href"):
            if name in attributes:
                assert (attributes[name] or "").startswith("#"), (tag, attributes)
        assert "evil" not in str(attributes)
    assert text.count("default-src 'none'") + text.count("default-src &#x27;none&#x27;") == 2


def test_only_an_http_address_is_a_link(tmp_path: Path) -> None:
    for address, kept in (("javascript:alert(1)//http://x", ""), ("data:text/html,x", ""),
                          ("https://me:hunter2@x.example", "https://***@x.example/")):  # fmt: skip
        run = Run(tmp_path / "x-0")
        write_json(run.path / "job.json", {"tracking": {"uri": address, "run_id": "a"}})
        url = notes.of(run, "pretrain").url
        assert url.startswith(kept) if kept else url == ""
        assert "hunter2" not in url
    made = Document("t", "p", "t", runs=(RunNote("x", "r", mlflow="m", url="javascript:alert(1)"),))
    assert "javascript:" not in page.text([(made, {})])


def test_a_specs_text_that_is_a_link_to_a_file_of_this_machine_is_not_shown(tmp_path: Path) -> None:
    run = Run(tmp_path / "x-0")
    run.path.mkdir()
    (tmp_path / "private").write_text("secret")
    (run.path / "spec.yaml").symlink_to(tmp_path / "private")
    assert notes.of(run, "pretrain").spec == ""


def test_a_picture_brings_neither_scripts_nor_addresses_into_the_page(tmp_path: Path) -> None:
    inline = pictures.inline(svg(tmp_path / "f.svg", "&lt;script&gt;"), "k", BREAKS)
    elements = Elements(inline)
    assert {tag for tag, _ in elements.found} <= {"svg", "text", "a", "use", "rect", "image"}
    assert "evil.example" not in inline and "javascript:" not in inline and "onclick" not in inline


@pytest.mark.parametrize("first", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "|x", "%x"])
def test_a_csv_holds_no_formula(first: str) -> None:
    cells = (Cell(first, first, note=first, runs=(first,)), Cell("−0.5", -0.5), Cell(first))
    table = DataTable("t", "c", (Column(first, numeric=False), Column("n"), Column("m")), (cells,))
    (head, row) = csv.reader(io.StringIO(sheets.text(table)))
    assert not [field for field in (*head, *row) if re.match(r"\s*[=+@|%]|\s*-(?!0\.5$)", field)]
    assert "-0.5" in row and f"'{first}" in row


def test_markdown_shows_a_line_as_it_is() -> None:
    for words in ("# x", "- x", "+ x", "1. x", "2) x", "a ~~b~~ &lt; $x$ [a](b) <b> `c` *d* _e_ |"):
        shown = markdown._escape(words)
        assert re.sub(r"\\(?=[^A-Za-z0-9\s])", "", shown) == words  # backslashes, and nothing else
        assert re.match(r"\\|\d+\\|a ", shown)
        assert not re.search(r"(?<!\\)[~&$\[\]<>`*_|]", shown)


def test_lines_that_load_an_export_are_those_lines_whatever_the_file_is_called() -> None:
    for name in ('a"); import os; os.system("id', "a\nb", "a\\"):
        for lines in loading(tiny(), f"{name}.safetensors").values():
            (load,) = [line for line in lines.splitlines() if "load_state_dict" in line]
            given: list[str] = []
            model = SimpleNamespace(load_state_dict=lambda state: None)
            exec(load, {"model": model, "load_file": given.append, "__builtins__": {}})
            assert given == [f"{name}.safetensors"]
