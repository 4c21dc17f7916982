"""How a method looks in these targets' pictures: colours and markers, told apart in grey too."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from carectl.reports.drawing import BLUE, DASHES, GREEN, PAPER, RED, SOFT, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Look(NamedTuple):
    """Of a row: CARE is blue, EquiMod red, terms by themselves green, a baseline dark grey."""

    colour: str
    marker: str
    dash: str


def of(row: str) -> Look:
    if row.startswith("CARE-"):
        return Look(BLUE, "o", DASHES[0])
    if row.startswith("EquiMod-"):
        return Look(RED, "^", DASHES[2])
    if " + " in row:
        return Look(GREEN, "D", DASHES[3])
    return Look(SOFT, "s", DASHES[1])


def lane(axes: Axes, place: float, values: Sequence[float], colour: str, marker: str,
         **how: Any) -> None:  # fmt: skip
    """A box of the quartiles with its median, and every value as a point beside the others."""
    axes.boxplot(
        [list(values)], positions=[place], orientation="horizontal", widths=0.62, showfliers=False,
        whis=(0, 100), manage_ticks=False,
        boxprops={"color": colour, "linewidth": 0.9}, capprops={"visible": False},
        whiskerprops={"color": colour, "linewidth": 0.9},
        medianprops={"color": colour, "linewidth": 2.2}, zorder=2,
    )  # fmt: skip
    apart = random.Random(0)  # the same picture of the same values
    heights = [place + apart.uniform(-0.2, 0.2) for _ in values]
    axes.scatter(values, heights, s=16, marker=marker, color=colour, alpha=0.75, linewidths=0.6,
                 zorder=3, **how)  # fmt: skip


def lanes(axes: Axes, rows: Mapping[str, Sequence[tuple[str, Sequence[float], bool]]]) -> bool:
    """A band a method, of its lanes (label, values, whether it is a control: those are hollow).

    Returns whether there is any lane.
    """
    ticks: dict[float, str] = {}
    at = 0.0
    for row, those in rows.items():
        look = of(row)
        axes.text(0.0, at - 0.62, plain(row), weight="bold", fontsize=9.5, color=look.colour,
                  transform=axes.get_yaxis_transform(), va="center")  # fmt: skip
        for label, values, control in those:
            if values:
                hollow = {"facecolors": PAPER, "edgecolors": look.colour} if control else {}
                lane(axes, at, values, look.colour, look.marker, **hollow)
            ticks[at] = label
            at += 1.0
        at += 1.1
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=9)
    axes.set_ylim(at - 1.4, -1.2)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    return bool(ticks)


def beside(axes: Axes, columns: int = 1) -> None:
    """A legend right of the axes, where it hides nothing."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), fontsize=9, ncols=columns,
                borderaxespad=0.0)  # fmt: skip
