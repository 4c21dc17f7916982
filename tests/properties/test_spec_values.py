"""Whatever a spec says, it is a spec or a list of mistakes with their places."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from conftest import tiny
from hypothesis import example, given
from hypothesis import strategies as st

from carectl import identity, specs
from carectl.specs import Resolved, SpecFileError
from carectl.tracking import flatten
from properties.generating import JUNK, SCALARS, TEXTS, cases, nested

METHODS: tuple[dict[str, Any], ...] = (
    {"name": "simclr"}, {"name": "moco", "queue": 1280}, {"name": "barlow"}, {"name": "byol"},
    {"name": "equimod", "base": {"name": "byol"}},
)  # fmt: skip
WHOLE = [tiny(method=method, probe={"data": {"name": "cifar10"}}) for method in METHODS]
#: Every dotted key that any spec has.
KEYS = sorted({key for spec in WHOLE for key in flatten(spec.model_dump(mode="json"))})
SECTIONS = sorted({key.rpartition(".")[0] for key in KEYS if "." in key})


def read(values: Any, folder: Path, overrides: tuple[str, ...] = ()) -> Resolved | str:
    """A spec from a file with these values, or the text of what is wrong with it."""
    path = folder / "spec.yaml"
    path.write_bytes(flow(values).encode("utf-8", "surrogatepass"))
    try:
        return specs.resolve(path, overrides)
    except SpecFileError as error:
        return told(error, ("-o ", str(path)))


def flow(value: Any) -> str:
    """As YAML on one line, whatever it is: YAML's own writer refuses some of it."""
    if isinstance(value, dict):
        inner = (f"{json.dumps(k, ensure_ascii=False)}: {flow(v)}" for k, v in value.items())
        return f"{{{', '.join(inner)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(flow, value))}]"
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else "-.inf" if value < 0 else ".inf"
    return json.dumps(value, ensure_ascii=False)


def told(error: SpecFileError, files: tuple[str, ...]) -> str:
    """The text of a refusal: each mistake has a place and says something, and it is no book."""
    assert error.problems
    for problem in error.problems:
        assert problem.file.startswith(files)
        assert problem.line >= 1
        assert problem.column >= 1
        assert len(problem.message) > 5
        assert len(str(problem)) < 200_000
    text = str(error)
    assert "pydantic" not in text
    assert "Traceback" not in text
    return text


def good(found: Resolved, folder: Path) -> None:
    """A spec that was accepted can be written, read again, and asked for."""
    path = folder / "again.yaml"
    path.write_text(specs.dump(found.spec), "utf-8")
    again = specs.resolve(path)
    assert again.spec == found.spec
    mark = identity.of_pretrain(found.spec, "0" * 64)
    assert identity.of_pretrain(again.spec, "0" * 64) == mark
    json.dumps(found.values)
    assert found.comments()


def put(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        if not isinstance(values.get(section), dict):
            values[section] = {}
        values = values[section]
    values[last] = value


@st.composite
def almost_specs(draw: st.DrawFn) -> dict[str, Any]:
    """A spec of which some settings were replaced by junk, some added, some taken away."""
    method = draw(st.sampled_from(METHODS))
    values: dict[str, Any] = {
        "name": "a/b", "data": {"name": draw(st.sampled_from(["digits", "cifar10", "chains"]))},
        "method": dict(method), "fidelity": draw(st.sampled_from(["paper", "official"])),
    }  # fmt: skip
    for key in draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=4)):
        put(values, key, draw(st.one_of(SCALARS, SCALARS, JUNK)))
    for section in draw(st.lists(st.sampled_from(["", *SECTIONS]), max_size=2)):
        name = draw(st.one_of(TEXTS, st.sampled_from(KEYS).map(lambda key: key.split(".")[-1])))
        if "." not in name:
            put(values, f"{section}.{name}".lstrip(".") or "x", draw(JUNK))
    if draw(st.booleans()):
        official: dict[str, Any] = {}
        put(official, draw(st.sampled_from([*KEYS, "fidelity", "x", "data.x"])), draw(SCALARS))
        values["official"] = draw(st.sampled_from([official, official, None, [], "x"]))
    return values


@cases(260)
@given(almost_specs())
@example({"name": "a", "data": {"name": "digits", "mean": [math.nan, 0.5, 0.5]}})
@example({"name": "a", "data": {"name": "digits", "std": [math.inf, 1.0, 1.0]}})
def test_a_spec_with_junk_in_it_is_a_spec_or_mistakes_with_places(
    folder: Path, values: dict[str, Any]
) -> None:
    found = read(values, folder)
    if isinstance(found, Resolved):
        good(found, folder)


@cases(60)
@given(st.one_of(JUNK, st.dictionaries(st.sampled_from([*SECTIONS, "name", "seed"]), JUNK)))
@example(nested(39))
@example(nested(200))
@example(nested(39, lists=True))
def test_junk_is_no_spec(folder: Path, values: Any) -> None:
    assert isinstance(read(values, folder), str)


def test_the_properties_promise_thousands_of_cases() -> None:
    """Each that tries fewer than it promises fails (conftest); this is what they promise."""
    sources = Path(__file__).parent.glob("test_*.py")
    promised = [
        int(n) for path in sources for n in re.findall(r"^@cases\((\d+)\)", path.read_text(), re.M)
    ]
    assert len(promised) > 20
    assert sum(promised) >= 2300
