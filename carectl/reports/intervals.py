"""Spread and 95 % intervals: over pretraining seeds where there are several, else over images."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

WILSON = "95% Wilson interval over test images (one pretraining seed)"
STUDENT = "95% t interval over pretraining seeds"
_Z = 1.959963984540054  # 97.5 % point of the normal distribution


def wilson(percent: float, images: int) -> tuple[float, float]:
    """Wilson's score interval of an accuracy, both in per cent, measured on `images` images."""
    p, z2 = percent / 100, _Z * _Z
    centre = (p + z2 / (2 * images)) / (1 + z2 / images)
    half = _Z / (1 + z2 / images) * math.sqrt(p * (1 - p) / images + z2 / (4 * images**2))
    return 100 * max(centre - half, 0.0), 100 * min(centre + half, 1.0)


def student(values: Sequence[float]) -> tuple[float, float]:
    """The t interval of the mean of two or more values. Not clipped to a measure's range."""
    from scipy.special import stdtrit

    n, mean = len(values), statistics.fmean(values)
    half = float(stdtrit(n - 1, 0.975)) * statistics.stdev(values) / math.sqrt(n)
    return mean - half, mean + half


def spread(values: Sequence[float]) -> float | None:
    """The sample standard deviation; None for a single value, which has none."""
    return statistics.stdev(values) if len(values) > 1 else None
