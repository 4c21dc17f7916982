"""Table 1: what a linear classifier makes of the frozen features, method by method."""

from __future__ import annotations

from collections.abc import Sequence

from carectl.reports.document import Document
from carectl.targets.context import Answer, Context


def plan(context: Context) -> Sequence[Answer]:
    """The grid's cells."""
    return context.answers


def document(context: Context) -> Document:
    """Tables and bars."""
    return context.document()
