"""The page in a real browser: no complaint, tables that sort, cells that lead to their runs."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import finished
import pytest
from browser import CHROMIUM, Browser
from PIL import Image

from carectl.reports import writing
from carectl.targets import table1
from carectl.targets.context import Answer

pytestmark = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("CARE_REQUIRE_BROWSER"),
    reason="no chromium here (.ci/browser installs it)",
)
TRACKED = {
    "uri": "https://me:hunter2@mlflow.example.org", "experiment_id": "3", "run_id": "ab12cd34ef56",
}  # fmt: skip
MAIN = "#table-table1-digits"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("browser"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a page of 4 methods and 3 seeds, one of them not run."""
    folder, draw = tmp_path_factory.mktemp("report"), random.Random(0)

    def measure(answer: Answer) -> dict[str, object] | None:
        if answer.cell.row == "CARE-MoCo-v2" and answer.cell.seed:
            return None
        return finished.probe_result([draw.uniform(94, 98) for _ in range(3)])

    context = finished.table1(folder / "runs", measure, tracking=TRACKED, seeds=(0, 1, 2))
    return writing.write(table1.document(context), folder)["html"].as_uri()


def column(browser: Browser, number: int) -> list[str]:
    cells = f"document.querySelectorAll('{MAIN} tbody tr')"
    return list(browser.value(f"[...{cells}].map(r => r.children[{number}].dataset.value)"))


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 800, 1600])
def test_it_opens_without_a_complaint_and_never_wider_than_the_window(
    browser: Browser, report: str, width: int, dark: bool
) -> None:
    browser.open(report, width, dark=dark)
    assert browser.console == []
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value("document.querySelectorAll('figure svg').length") == 1


def test_a_policy_that_is_broken_would_be_seen(browser: Browser, report: str) -> None:
    browser.open(report)
    browser.value("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/x'}))")
    browser.value("new Promise(go => setTimeout(go, 200))")
    browser.call("Page.getLayoutMetrics")
    assert any("Content Security Policy" in told for told in browser.console)


def test_tables_sort_up_and_down_by_number_and_by_name(browser: Browser, report: str) -> None:
    browser.open(report)
    head = f"document.querySelectorAll('{MAIN} thead th')"

    def press(number: int) -> str:
        browser.value(f"{head}[{number}].querySelector('button').click()")
        return str(browser.value(f"{head}[{number}].ariaSort"))

    assert press(1) == "descending"
    values = [float(value) for value in column(browser, 1)]
    assert values == sorted(values, reverse=True) and len(set(values)) == 4
    assert press(1) == "ascending"
    assert [float(value) for value in column(browser, 1)] == sorted(values)
    assert press(0) == "ascending"
    assert column(browser, 0) == sorted(column(browser, 0))
    assert browser.value(f"{head}[1].ariaSort") == "none"
    browser.value(f"{head}[0].querySelector('button').focus()")
    assert browser.value("document.activeElement.tagName") == "BUTTON"


def test_rows_without_a_value_come_last_in_either_direction(browser: Browser, report: str) -> None:
    browser.open(report)
    rows = "[...document.querySelectorAll('#table-runs tbody tr')]"
    seconds = f"{rows}.map(r => r.children[8].dataset.value)"
    press = "document.querySelectorAll('#table-runs thead button')[8].click()"
    for _ in range(2):
        browser.value(press)
        found = browser.value(seconds)
        assert found[-4:] == ["", "", "", ""] and "" not in found[:-4]


def test_a_cell_leads_to_its_runs_and_a_run_to_its_spec(browser: Browser, report: str) -> None:
    browser.open(report)
    link = f"document.querySelector('{MAIN} tbody td a')"
    asked = browser.value(f"{link}.dataset.runs").split()
    browser.value(f"{link}.click()")
    assert browser.value("location.hash") == f"#run-{asked[0]}"
    top = browser.value("document.querySelector(':target').getBoundingClientRect().top")
    assert 0 <= top < 900
    chosen = browser.value("[...document.querySelectorAll('tr.chosen')].map(r => r.id)")
    assert chosen == [f"run-{run}" for run in asked] and len(asked) == 3
    browser.value("document.querySelector(':target a').click()")
    browser.value("new Promise(go => setTimeout(go, 50))")
    browser.value("0")
    opened = browser.value("document.querySelector('details:target')?.open")
    assert opened is True
    assert "numerics" not in browser.value("document.querySelector('details:target pre').innerText")
    tracked = browser.value(
        f"document.getElementById('run-{asked[0]}').querySelector('[rel]').href"
    )
    assert tracked.startswith("https://***@mlflow.example.org/#/experiments/3/runs/ab12cd34ef56")
    assert "hunter2" not in browser.value("document.documentElement.outerHTML")


def luminance(colour: str) -> float:
    """Of an rgb(...) text, by WCAG."""
    parts = [float(x) / 255 for x in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(
    ("what", "property_"),
    [("body", "color"), (".note", "color"), ("figcaption", "color"), ("thead button", "color"),
     ("figure svg text", "fill"), (".meta a", "color")],
)  # fmt: skip
def test_words_stand_out_from_the_ground_in_both_modes(
    browser: Browser, report: str, dark: bool, what: str, property_: str
) -> None:
    browser.open(report, dark=dark)
    ground = luminance(browser.value("getComputedStyle(document.body).backgroundColor"))
    assert (ground < 0.1) is dark
    style = f"getComputedStyle(document.querySelector('{what}')).{property_}"
    ink = luminance(browser.value(style))
    light, low = max(ground, ink), min(ground, ink)
    assert (light + 0.05) / (low + 0.05) >= 4.5


def test_a_picture_of_it_is_no_blank_sheet(browser: Browser, report: str, tmp_path: Path) -> None:
    for dark in (False, True):
        browser.open(report, 1600, dark=dark)
        with Image.open(browser.picture(tmp_path / "page.png")) as image:
            assert image.width == 1600 and image.height > 900
            shades = image.convert("L").histogram()
            most = shades.index(max(shades))
            assert (most < 60) is dark
            assert len([count for count in shades if count]) > 50
