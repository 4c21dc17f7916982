"""Whatever is written on a command line, the answer is a result or a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import finished
import pytest
import yaml
from conftest import tiny
from hypothesis import example, given
from hypothesis import strategies as st

from carectl import runs, specs
from carectl.errors import CommandError
from carectl.flow import parse_tags
from carectl.grid import Grid
from carectl.plan import Planner
from carectl.specs import SpecFileError
from properties.generating import JUNK, TEXTS, carectl, cases
from properties.test_spec_values import flow, told

#: What a shell could pass on: no argument holds a NUL.
WORDS = TEXTS.filter(lambda text: "\x00" not in text and len(text) < 50_000)


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run that is done."""
    folder = tmp_path_factory.mktemp("project") / "runs"
    planned = Planner(folder, folder.parent / "data").pretrain(tiny(name="one"))
    finished.finish(planned, folder, {"kind": "pretrain", "metrics": {}})
    return folder


NAMES = st.one_of(
    TEXTS,
    st.sampled_from(["one", "one-", "one-s0", "tiny", "a/b", "../runs/one", "o*", "one?", "-one",
                     "one/", "x.pt", "a" * 300 + ".pt", "/dev/null", "/proc/self/mem", "runs/\x00",
                     "digits/care-simclr", "digits/", "table1.yaml", "/"]),
)  # fmt: skip


@cases(160)
@given(NAMES)
@example("")
@example("a/\x00")
@example("x" * 5000 + "/y")
def test_any_text_finds_a_run_and_a_spec_or_says_that_there_is_none(
    runs_dir: Path, text: str
) -> None:
    (only,) = runs.listing(runs_dir)
    try:
        found = runs.find(runs_dir, text)
        assert found == only
        assert text
        assert found.id.startswith(Path(text).name) or text in ("one", found.id.rsplit("-", 1)[-1])
    except CommandError as error:
        assert "no run" in str(error) or "which run" in str(error)
    try:
        assert specs.find(text).exists()
    except CommandError as error:
        assert len(str(error)) < 5000


def test_a_link_that_leads_to_itself_is_no_run(runs_dir: Path, tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(CommandError, match="no run"):
        runs.find(runs_dir, str(loop))


COMMANDS = [
    ["status"], ["status", "--state"], ["logs"], ["cancel"], ["retry", "--dry-run"],
    ["eval", "--dry-run"], ["export"], ["spec", "check"], ["spec", "diff", "one"],
    ["pretrain", "--dry-run"], ["report"], ["reproduce", "--dry-run"], ["data", "prepare"],
    ["data", "verify"], ["import"], ["eval", "one", "--dry-run", "--probe"],
    ["eval", "one", "--dry-run", "--epoch"], ["pretrain", "digits/simclr", "--dry-run", "--tag"],
    ["pretrain", "digits/simclr", "--dry-run", "--devices"],
    ["pretrain", "digits/simclr", "--dry-run", "--gpus"],
    ["pretrain", "digits/simclr", "--dry-run", "--backend"],
    ["pretrain", "digits/simclr", "--dry-run", "-o"],
]  # fmt: skip
#: What would read, or begin to fetch, what is really there.
REAL = ("cifar10", "cifar100", "stl10", "flowers102", "all", "table1", "imagenet100")


@cases(80)
@given(
    st.sampled_from(COMMANDS),
    st.one_of(WORDS, NAMES.filter(lambda text: "\x00" not in text and len(text) < 9999)),
)
@example(["cancel"], "")
@example(["pretrain", "digits/simclr", "--dry-run", "--tag"], "x")
@example(["pretrain", "digits/simclr", "--dry-run", "--tag"], "a\nb=1")
@example(["pretrain", "digits/simclr", "--dry-run", "--devices"], "cpu:１")
def test_any_word_gives_a_result_or_a_sentence(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], word: str
) -> None:
    monkeypatch.chdir(runs_dir.parent)
    heavy = command[0] in ("import", "export", "eval") and word.endswith(".pt")
    if word in REAL or (heavy and Path(word).is_file()) or (command == ["import"] and word):
        return
    done = carectl(*command, word)
    assert done.code in (0, 2, 3), done.err
    if done.code:
        assert done.err.strip()
        assert len(done.err) < 200_000
    assert (runs_dir / next(runs.listing(runs_dir)).id / "result.json").exists()


GRID_WORDS = st.one_of(
    TEXTS, st.sampled_from(["0", "1", "0,1", "0,0", "-1", "0,,1", "1.5", "digits", "smoke", "paper",
                            "SimCLR", "care", "cifar10", "cpu:2", "cpu:0", "0-3", "9" * 5000,
                            str(2**31)]),
).filter(lambda text: "\x00" not in text)  # fmt: skip


@cases(50)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["--only", "--seeds", "--tag", "--devices", "--profile", "-o",
                             "--experiment"]),
            GRID_WORDS,
        ),
        min_size=1, max_size=3,
    ),
    st.booleans(),
)  # fmt: skip
def test_any_choice_of_a_grid_is_planned_or_refused_with_a_sentence(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch, options: list[tuple[str, str]], as_json: bool
) -> None:
    monkeypatch.chdir(runs_dir.parent)
    profile = [] if any(option == "--profile" for option, _ in options) else ["--profile", "digits"]
    words = [f"{option}={word}" if option[1] == "-" else option + word for option, word in options]
    asked = ["reproduce", "table1", "--dry-run", *profile, *words]
    done = carectl(*asked, *(["--json"] if as_json else []))
    assert done.code in (0, 2, 3), done.err
    assert done.code == 0 or done.err.strip()
    if as_json and done.out:
        assert json.loads(done.out)["version"] == 1


@cases(100)
@given(st.lists(WORDS, min_size=1, max_size=3))
@example(["=x"])
@example(["a\x1bb=x"])
@example(["x" * 300 + "=x"])
@example(["a=" + "x" * 9000])
def test_tags_are_what_mlflow_takes_or_are_refused(tags: list[str]) -> None:
    from mlflow.utils.validation import _validate_tag

    try:
        found = parse_tags(tags)
    except CommandError as error:
        assert str(error).startswith("--tag ")
        return
    for key, value in found.items():
        _validate_tag(key, value)


# ── grids ───────────────────────────────────────────────────────────────────────────────────────


def _table1() -> dict[str, Any]:
    return dict(yaml.safe_load(specs.find("table1").read_text()))


KEYS = ["title", "source", "setting", "probes", "epochs", "columns", "profiles", "rows", "differs",
        "question", "profiles.digits", "profiles.digits.seeds", "profiles.digits.rows",
        "profiles.digits.datasets", "profiles.digits.overrides", "profiles.digits.probes",
        "profiles.digits.epochs", "rows.SimCLR", "rows.SimCLR.digits", "rows.SimCLR.digits.recipe",
        "rows.SimCLR.digits.mean", "rows.SimCLR.digits.sd", "rows.SimCLR.digits.overrides",
        "rows.SimCLR.nowhere", "x", "rows.x"]  # fmt: skip


@cases(50)
@given(st.lists(st.tuples(st.sampled_from(KEYS), JUNK), min_size=1, max_size=3))
@example([("rows.SimCLR.digits.mean", float("nan"))])
@example([("profiles.digits.datasets", [])])
@example([("rows", {})])
def test_any_grid_has_cells_or_mistakes_with_places(
    folder: Path, changes: list[tuple[str, Any]]
) -> None:
    values = _table1()
    for key, value in changes:
        *parts, last = key.split(".")
        inside = values
        for part in parts:
            if not isinstance(inside.get(part), dict):
                inside[part] = {}
            inside = inside[part]
        inside[last] = value
    path = folder / "grid.yaml"
    path.write_bytes(flow(values).encode("utf-8", "surrogatepass"))
    try:
        grid = specs.load_grid(path)
    except SpecFileError as error:
        told(error, (str(path),))
        return
    assert isinstance(grid, Grid)
    for profile in grid.profiles:
        try:
            assert grid.cells(profile)
            grid.quoted(profile)
        except CommandError as error:
            assert profile in str(error)
