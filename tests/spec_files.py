"""Spec files for tests: a good beginning, and the mistakes that reading one tells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from carectl import specs
from carectl.specs import SpecFileError

GOOD = "name: a\ndata: {name: digits}\n"
Write = Callable[[str | bytes], Path]


def mistakes(path: Path, *overrides: str) -> list[tuple[int, int, str, str]]:
    """(line, column, key, message) of every problem."""
    with pytest.raises(SpecFileError) as caught:
        specs.load(path, overrides)
    return [(p.line, p.column, p.key, p.message) for p in caught.value.problems]
