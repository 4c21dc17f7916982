"""A document in each of its forms: the same numbers, nothing lost, nothing that could do harm."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from carectl.reports import drawing, latex, markdown, page, sheets, terminal, writing
from carectl.reports.document import (
    Cell,
    Column,
    DataTable,
    Document,
    Figure,
    Mark,
    RunNote,
    plain,
)

HOSTILE = "a|b] [red]x[/blue] $\\frac{ <b onclick=1>\n*y* \" ' & </script><script>alert(1)</script>"


def draw(png: Path, svg: Path) -> None:
    with drawing.sheet(png, svg, height=3.0, layout="constrained") as figure:
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=drawing.BLUE)
        axes.imshow([[0, 1], [1, 0]], extent=(0, 1, 0, 1))
        axes.set_title(drawing.plain(HOSTILE))


def document(name: str = "CARE", runs: int = 2, **other: object) -> Document:
    ids = tuple(f"digits-care-s{n}-{n:012x}" for n in range(runs))
    table = DataTable(
        "main",
        "What came out",
        (Column("Method", numeric=False), Column("Linear probe", "%"), Column("Δ"),
         Column("a measure with a long name", rank=3), Column("another that is long", rank=5)),
        (
            (Cell(name, name), Cell("91.33 ± 2.52", 91.333333333333, spread=2.5166, n=3, runs=ids),
             Cell("−0.48", -0.48, mark=Mark.OUTSIDE, note="|Δ| 0.48 > 0.40"),
             Cell("0.500", 0.5), Cell("1.250", 1.25)),
            (Cell("SimCLR", "SimCLR"), Cell("not run", mark=Mark.NOT_RUN), Cell("–"), Cell("–"),
             Cell("+2.0 (+1.0 to +3.0)", 2.0, low=1.0, high=3.0, strong=True)),
        ),
        ("How to read it: γ ≤ 1.",),
    )  # fmt: skip
    notes = tuple(
        RunNote(run, "pretrain", "digits/care", name, n, state="done", fidelity="paper",
                commit="0123456789ab", dirty=True, seconds=51.5, mlflow="ab12",
                url="https://***@mlflow.example.org/#/experiments/1/runs/ab12", spec="seed: 0\n")
        for n, run in enumerate(ids)
    )  # fmt: skip
    fields = {
        "tables": (table,), "runs": notes,
        "figures": (Figure("bars", "Bars of it", "a bar a method", draw, {"x": float("nan")}),),
        "findings": ("It works.",), "setting": ("Frozen.",), "differs": ("The seeds.",),
    }  # fmt: skip
    return Document("table1", "digits", "Table 1", "Does it?", "the paper", **{**fields, **other})  # type: ignore[arg-type]


def printed(made: Document, width: int) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False)
    console.print(terminal.render(made, width))
    return out.getvalue()


class Elements(HTMLParser):
    """Every element of a page with its attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.words += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return writing.write(document(HOSTILE), tmp_path_factory.mktemp("report"))


def test_every_form_is_written_and_named(written: dict[str, Path]) -> None:
    assert set(written) == {"html", "json", "md", "tex", "main.csv", "bars.png", "bars.svg"}
    assert all(path.stat().st_size > 0 for path in written.values())


def test_the_json_holds_all_numbers_and_no_number_that_is_none(written: dict[str, Path]) -> None:
    found = json.loads(written["json"].read_text(), parse_constant=pytest.fail)
    cell = found["tables"][0]["rows"][0][1]
    assert (cell["value"], cell["spread"], cell["n"]) == (91.333333333333, 2.5166, 3)
    assert found["figures"][0] == {
        "key": "bars", "caption": "Bars of it", "alt": "a bar a method", "data": {"x": None},
    }  # fmt: skip
    assert found["runs"][0]["seconds"] == 51.5 and found["complete"] is True


def test_the_csv_gives_back_value_spread_mark_and_runs(written: dict[str, Path]) -> None:
    first, second = csv.DictReader(io.StringIO(written["main.csv"].read_bytes().decode()))
    assert first["Method"] == HOSTILE
    assert float(first["Linear probe, %"]) == 91.333333333333
    assert first["Linear probe, %: sd"] == "2.5166" and first["Δ: mark"] == "outside"
    assert first["runs"] == "digits-care-s0-000000000000 digits-care-s1-000000000001"
    assert second["Linear probe, %"] == "not run" and second["Δ"] == ""


def test_markdown_shows_hostile_names_in_a_table_of_its_width(written: dict[str, Path]) -> None:
    text = written["md"].read_text()
    rows = [row for row in text.splitlines() if row.startswith("| a")]
    assert len(rows) == 1
    assert rows[0].replace("\\\\", "").replace("\\|", "").count("|") == 6
    assert "<b" not in text.replace("\\<b", "") and "**+2.0 (+1.0 to +3.0)**" in text
    assert "−0.48 (outside)" in text


def test_latex_is_ascii_with_everything_escaped(written: dict[str, Path]) -> None:
    text = written["tex"].read_text()
    assert text.isascii()
    assert "\\toprule" in text and "\\bottomrule" in text and "91.33 $\\pm$ 2.52" in text
    assert "\\textbackslash{}frac\\{" in text and "$\\leq$" in text
    assert "\\textbf{+2.0 (+1.0 to +3.0)}" in text
    for row in [row for row in text.splitlines() if row.endswith("\\\\")]:
        assert len(re.findall(r"(?<!\\)&", row)) == 4
    assert latex.escape("5 % of_it") == "5 \\% of\\_it"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_terminal_of_any_width_shows_the_first_columns_and_says_what_it_left(width: int) -> None:
    shown = printed(document(), width)
    assert max(map(len, shown.splitlines())) <= width and "…" not in shown
    assert "91.33 ± 2.52" in shown and "−0.48 ✗" in shown and "000000000001" in shown
    left = "Not shown for want of width" in shown
    assert left is (width < 80) and ("1.250" in shown) is not left


def test_hostile_names_break_no_terminal() -> None:
    assert "[red]x[/blue]" in printed(document(HOSTILE), 120).replace("\n", "")


def test_the_page_fetches_nothing_and_runs_one_script_known_by_its_hash(
    written: dict[str, Path],
) -> None:
    text = written["html"].read_text()
    elements = Elements(text)
    policy = elements.all("meta")[1]["content"]
    assert policy.startswith("default-src 'none'") and "sha256-" in policy
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]
    assert len(elements.all("script")) == 1 and not elements.all("b")
    for tag in ("link", "iframe", "object", "embed", "base", "form"):
        assert not elements.all(tag)
    for _, attributes in elements.found:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href"):
            address = attributes.get(name, "#")
            told = address.startswith("https://***@mlflow.example.org/")  # a link, not a fetch
            assert address.startswith(("#", "data:image/")) or told
    bare = text.replace("https://***@mlflow.example.org", "")
    assert "http://" not in bare and "https://" not in bare and "@import" not in bare
    assert "alert(1)" in elements.words  # as text


def test_a_cell_leads_to_its_run_and_that_to_its_spec_and_to_mlflow(
    written: dict[str, Path],
) -> None:
    elements = Elements(written["html"].read_text())
    ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    aims = [a["href"][1:] for a in elements.all("a") if a["href"].startswith("#")]
    assert "run-digits-care-s0-000000000000" in aims and set(aims) <= set(ids)
    assert any(a["href"].startswith("https://***@mlflow") for a in elements.all("a"))
    (cell,) = [a for a in elements.all("a") if "data-runs" in a]
    assert len(cell["data-runs"].split()) == 2


def test_figures_have_words_and_colours_that_follow_the_page(written: dict[str, Path]) -> None:
    elements = Elements(written["html"].read_text())
    (picture,) = elements.all("svg")
    assert picture["role"] == "img" and picture["aria-label"] == "a bar a method"
    assert "width" not in picture and elements.all("figcaption")
    styles = " ".join(attributes.get("style", "") for _, attributes in elements.found)
    assert "var(--fig-ink)" in styles and drawing.INK.lower() not in styles.lower()
    assert drawing.BLUE.lower() in styles.lower()


def test_a_page_of_several_documents_has_each_run_and_each_name_once(tmp_path: Path) -> None:
    svg = tmp_path / "bars.svg"
    draw(tmp_path / "bars.png", svg)
    other = Document("fig5", "digits", "Figure 5", figures=document().figures, runs=document().runs)
    elements = Elements(page.text([(document(), {"bars": svg}), (other, {"bars": svg})], "All"))
    ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert sum(name.startswith("run-") for name in ids) == 2
    assert {"table1", "fig5"} <= {a["href"][1:] for a in elements.all("a")}


def test_a_page_of_several_documents_names_the_source_that_they_share() -> None:
    made = [Document(name, "digits", name, source=f"A, B, 2024, {name}") for name in ("x", "y")]
    assert "A, B, 2024</p>" in page.text([(each, {}) for each in made], "All")
    assert "A, B, 2024, x</p>" in page.text([(made[0], {})])


def test_the_same_document_is_the_same_bytes(tmp_path: Path) -> None:
    one, two = (writing.write(document(), tmp_path / name) for name in ("one", "two"))
    for name in one:
        assert one[name].read_bytes() == two[name].read_bytes(), name


def test_a_document_of_nothing_is_written(tmp_path: Path) -> None:
    empty = Document("table1", "digits", "Table 1")
    paths = writing.write(empty, tmp_path)
    assert "0 of 0 runs" in paths["html"].read_text() and plain(empty)["complete"] is True
    assert markdown.text(empty).startswith("# Table 1")


def test_a_row_of_the_wrong_width_is_refused_when_it_is_made() -> None:
    with pytest.raises(ValueError, match="table t: 1 cells, 2 columns"):
        DataTable("t", "c", (Column("a"), Column("b")), ((Cell("x"),),))


def test_a_warning_stands_above_everything_in_every_form(tmp_path: Path) -> None:
    told = "official preset: selected on the test set (11): not comparable"
    made = document(warnings=(told,))
    paths = writing.write(made, tmp_path)
    assert printed(made, 80).replace("\n", " ").startswith(f"§ {told}")
    assert paths["md"].read_text().splitlines()[2].replace("\\", "") == f"> **§ {told}**"
    words = Elements(paths["html"].read_text()).words
    assert words.index(told) < words.index("What came out")
    assert told in paths["tex"].read_text() and told in paths["json"].read_text()


def test_sheets_have_no_empty_columns() -> None:
    head = sheets.text(document().tables[0]).splitlines()[0]
    assert "Method: " not in head and "a measure with a long name: sd" not in head
