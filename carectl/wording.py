"""Numbers in sentences."""

from __future__ import annotations


def number(hours: float) -> str:
    """Two digits that count, and no exponent: 0.042, 3.4, 18, 1,900."""
    return f"{hours:.2g}" if hours < 99.5 else f"{float(f'{hours:.2g}'):,.0f}"


def counted(count: int, thing: str) -> str:
    """1 thread, 2 threads."""
    return f"{count} {thing}{'' if count == 1 else 's'}"
