"""What the properties share: how many cases a test tries, and junk of every kind."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar
from unittest import mock

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

T = TypeVar("T", bound=Callable[..., None])

#: A long run: CARE_EXAMPLES=20 tries twenty times as many cases.
TIMES = float(os.environ.get("CARE_EXAMPLES", "1"))

TRIED: Counter[str] = Counter()  #: by test: how often its property was looked at


def cases(count: int) -> Callable[[T], T]:
    """Try so many generated cases, the same in each run, and count them."""

    def of(test: T) -> T:
        inner = test.hypothesis.inner_test  # type: ignore[attr-defined]

        def counted(*args: Any, **kwargs: Any) -> None:
            TRIED[test.__name__] += 1
            inner(*args, **kwargs)

        test.hypothesis.inner_test = counted  # type: ignore[attr-defined]
        return settings(
            max_examples=max(1, round(count * TIMES)), derandomize=True, deadline=None,
            database=None, suppress_health_check=list(HealthCheck),
        )(test)  # fmt: skip

    return of


# ── junk ────────────────────────────────────────────────────────────────────────────────────────

WILD_NUMBERS = st.one_of(
    st.sampled_from(
        [0, -1, 1, 2, 2**31 - 1, 2**31, 2**63, -(2**64), 10**30, 10**400, float("nan"),
         float("inf"), float("-inf"), 1e308, 5e-324, -0.0, 0.5, 1.5]
    ),
    st.integers(),
    st.floats(),
)  # fmt: skip

#: Any text at all, and what often means more than itself to somebody.
TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["", " ", ".", "..", "../..", "/", "~", "-", "--", "*", "?", "[a-z]", "{a,b}", "null", "no",
         "true", "1e3", "1e400", "0x10", "=", "a=b", "a: b", "'", '"', "`id`", "$HOME", "%s", "{0}",
         "[bold]x[/]", "\\", "\n", "\t", "\r\n", "\x00", "\x1b[31m", "\ufeff", "\u2028", "\ud800",
         "é", "ß", "İ", "１", "²", "\U0001f600", "#", "# x", "!!python/object:x", "&a", "*a"]
    ),
    st.sampled_from([100, 1000, 100_000]).map(lambda n: "x" * n),
)  # fmt: skip

SCALARS = st.one_of(st.none(), st.booleans(), WILD_NUMBERS, TEXTS)

JUNK = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)


def nested(depth: int, leaf: Any = 1, *, lists: bool = False) -> Any:
    """Sections in sections, or lists in lists."""
    for _ in range(depth):
        leaf = [leaf] if lists else {"a": leaf}
    return leaf


# ── the command line, in this process ───────────────────────────────────────────────────────────


class Done(NamedTuple):
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


def carectl(*arguments: str) -> Done:
    """A command as a shell would start it; what is no foreseen error comes out as it is."""
    from carectl.app import main

    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    err = io.TextIOWrapper(
        io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True
    )
    code = 0
    with (
        mock.patch.object(sys, "argv", ["carectl", *arguments]),
        contextlib.redirect_stdout(out), contextlib.redirect_stderr(err),
    ):  # fmt: skip
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    told = (stream.buffer.getvalue().decode() for stream in (out, err))  # type: ignore[attr-defined]
    return Done(code, *told)
