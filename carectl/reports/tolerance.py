"""Whether a measured accuracy is the published one."""

from __future__ import annotations

import math

from carectl.reports.document import Mark
from carectl.reports.summary import Line

POINTS, SEEDS = 1.0, 3  # allowed at least; pretraining seeds needed for a judgement
RULE = (
    f"Tolerance: |Δ| ≤ max({POINTS:.1f} point, 2 combined standard deviations), judged from "
    f"{SEEDS} pretraining seeds on, against published numbers that are certain."
)


def judge(line: Line, changed: bool) -> tuple[Mark, str]:
    """The mark of a measured line beside its published number, and how it was come to.

    Args:
        line: the linear probe on the backbone.
        changed: whether settings are not the recipe's, so that nothing follows from a Δ.
    """
    if line.paper is None or line.delta is None:
        return Mark.NONE, ""
    if line.marks or changed:
        return Mark.OTHER, "; ".join(line.marks) or "settings are not the recipe's"
    if "uncertain" in line.paper_note:
        return Mark.UNCERTAIN, "the published number is uncertain"
    if line.n < SEEDS:
        return Mark.FEW, f"n = {line.n}"
    allowed = max(POINTS, 2 * math.hypot(line.sd or 0.0, line.paper_sd or 0.0))
    good = abs(line.delta) <= allowed
    mark, sign = (Mark.WITHIN, "≤") if good else (Mark.OUTSIDE, ">")
    return mark, f"|Δ| {abs(line.delta):.2f} {sign} {allowed:.2f}"
