"""A property that tried fewer cases than it promises has shown nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from properties.generating import TRIED


@pytest.fixture(autouse=True)
def as_many_cases_as_promised(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    test = request.function
    if hasattr(test, "hypothesis"):
        promised = test._hypothesis_internal_use_settings.max_examples
        assert TRIED[test.__name__] >= promised, f"only {TRIED[test.__name__]} of {promised} cases"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all cases: a case may not ask for a folder of its own."""
    return tmp_path_factory.mktemp("cases")
