"""Whatever is written after -o, it is a setting or a mistake that is told at its place."""

from __future__ import annotations

from pathlib import Path

from conftest import tiny
from hypothesis import example, given
from hypothesis import strategies as st

from care_core.spec import PretrainSpec
from carectl import specs
from carectl.specs import Resolved, SpecFileError
from properties.generating import JUNK, TEXTS, cases, nested
from properties.test_spec_values import KEYS, SECTIONS, flow, good, told
from properties.test_yaml_files import GOOD, resolved

OVERRIDES = st.one_of(
    TEXTS,
    st.tuples(st.sampled_from([*KEYS, *SECTIONS]), st.one_of(TEXTS, JUNK.map(flow))).map("=".join),
    st.tuples(TEXTS, TEXTS).map("=".join),
    st.lists(st.sampled_from(["a", "name", "data", "", " ", "0", "[0]", "official", "x" * 300]),
             min_size=1, max_size=50).map(lambda parts: ".".join(parts) + "=1"),
)  # fmt: skip


@cases(230)
@given(st.lists(OVERRIDES, min_size=1, max_size=3), st.booleans())
@example(["a" + ".a" * 3000 + "=1"], True)
@example(["data.\udcff=1"], True)
@example(["name=\udcff"], False)
@example(["fidelity=[1", "fidelity=official"], True)
@example(["launch.sbatch.name=x"], True)
@example(["probe.data.name=folder", "seed.name=1"], False)
def test_any_overrides_give_a_spec_or_mistakes_with_places(
    folder: Path, overrides: list[str], loaded: bool
) -> None:
    if not loaded:
        found = resolved(folder, GOOD.encode(), tuple(overrides))
        if isinstance(found, Resolved):
            good(found, folder)
        return
    try:
        assert isinstance(specs.override(tiny(), overrides), PretrainSpec)
    except SpecFileError as error:
        assert "-o " in told(error, ("-o ",))


def test_the_deepest_sections_that_are_read_are_told_and_not_run_into(folder: Path) -> None:
    deepest = "a" + ".a" * 38 + "=" + flow(nested(38))
    assert "unknown key" in str(resolved(folder, GOOD.encode(), (deepest,)))
