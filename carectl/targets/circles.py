"""The pictures of Figure 6: histograms of cosines, and paths of images on the circle."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carectl.reports.drawing import PALE, SOFT, plain, said, sheet
from carectl.targets import looks
from carectl.targets.measured import Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INNER = 0.45  # radius of a path's begin, where its end has 1
_TOGETHER = 5  # bins of the histogram that are drawn as one


def names(found: Sequence[Measured]) -> list[str]:
    """The paths that any of the encoders was led along."""
    return list(dict.fromkeys(name for m in found for name in m.detail.get("paths") or {}))


def draw_histograms(each: dict[str, list[list[float]]], png: Path, svg: Path) -> None:
    """Draw a panel a method; `each` has the percentages in bins of the cosine, by augmentation."""
    count = max(len(each), 1)
    with sheet(png, svg, height=3.4, layout="constrained") as figure:
        panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
        for axes, (row, shares) in zip(panels, each.items(), strict=False):
            _histogram(axes, row, shares)
        panels[0].set_ylabel("pairs a bin, %, log scale")
        if not any(each.values()):
            said(panels[0], "nothing is measured yet")


def _histogram(axes: Axes, row: str, shares: list[list[float]]) -> None:
    look = looks.of(row)
    wide = [[sum(one[i : i + _TOGETHER]) for i in range(0, len(one), _TOGETHER)] for one in shares]
    if wide:
        bins = len(wide[0])
        edges = [2 * number / bins - 1 for number in range(bins + 1)]
        for one in wide:
            axes.stairs(one, edges, color=look.colour, alpha=0.3, linewidth=0.7)
        mean = [sum(column) / len(wide) for column in zip(*wide, strict=True)]
        axes.stairs(mean, edges, color=look.colour, linewidth=2.4, label="all augmentations")
        even = [100 * (math.acos(low) - math.acos(high)) / math.pi
                for low, high in itertools.pairwise(edges)]  # fmt: skip
        axes.stairs(even, edges, color=SOFT, linestyle=":", linewidth=1.4, label="uniform turns")
        axes.set_yscale("log")
        axes.set_ylim(0.05, 130)
        axes.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
        axes.minorticks_off()
        axes.legend(fontsize=9, loc="upper left")
    axes.set(xlim=(-1, 1), xlabel="cosine of f(x) and f(a(x))", xticks=(-1, -0.5, 0, 0.5, 1))
    axes.set_title(plain(row), color=look.colour)


def draw_paths(paths: dict[str, dict[str, Any]], png: Path, svg: Path) -> None:
    """Draw, for each method, a circle a path and below it the turns; by row, what `paths` has."""
    kinds = list(dict.fromkeys(name for those in paths.values() for name in those))
    reach = {name: _reach(those.get(name) or {} for those in paths.values()) for name in kinds}
    lines, columns = max(len(paths), 1), max(len(kinds), 1)
    with sheet(png, svg, height=0.4 + 4.4 * lines, layout="constrained") as figure:
        bands = figure.subfigures(lines, 1, squeeze=False)[:, 0]
        for band, (row, those) in zip(bands, paths.items(), strict=False):
            look = looks.of(row)
            band.suptitle(plain(row), x=0.01, ha="left", fontsize=12, weight="bold",
                          color=look.colour)  # fmt: skip
            grid = band.subplots(2, columns, height_ratios=(1.65, 1), squeeze=False)
            for column, name in enumerate(kinds):
                path = those.get(name) or {}
                _circle(grid[0][column], name, path, look.colour)
                _turns(grid[1][column], name, path, look.colour, first=column == 0)
                grid[1][column].set_ylim(-reach[name], reach[name])
        if not paths:
            said(bands[0].subplots(1, 1), "nothing is measured yet")


def _circle(axes: Axes, name: str, path: dict[str, Any], colour: str) -> None:
    from matplotlib.patches import Circle

    for radius in (INNER, 1.0):
        axes.add_patch(Circle((0, 0), radius, fill=False, color=SOFT, linewidth=0.9))
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set(xlim=(-1.06, 1.06), ylim=(-1.06, 1.06))
    axes.set_title(plain(name), loc="center")
    if not path.get("angles"):
        said(axes, "not measured")
        return
    radii = [INNER + (1 - INNER) * s for s in path["strength"]]
    for angles in path["angles"]:
        x, y = _smooth(radii, unwrapped(angles))
        axes.plot(x, y, color=colour, linewidth=0.9, alpha=0.65)
        axes.plot(x[0], y[0], "o", color=colour, markersize=3)


def _smooth(radii: Sequence[float], angles: Sequence[float]) -> tuple[list[float], list[float]]:
    """Points along a spiral: between two steps the angle goes evenly, and not as a chord."""
    x, y = [], []
    for (r0, a0), (r1, a1) in itertools.pairwise(zip(radii, angles, strict=True)):
        for part in (0.0, 0.5):
            r, a = r0 + part * (r1 - r0), a0 + part * (a1 - a0)
            x.append(r * math.cos(a))
            y.append(r * math.sin(a))
    x.append(radii[-1] * math.cos(angles[-1]))
    y.append(radii[-1] * math.sin(angles[-1]))
    return x, y


def unwrapped(angles: Sequence[float]) -> list[float]:
    """Radians without the jumps at ±π: each step goes the shorter way."""
    found = [angles[0]]
    for angle in angles[1:]:
        step = (angle - found[-1] + math.pi) % (2 * math.pi) - math.pi
        found.append(found[-1] + step)
    return found


def _reach(paths: Iterable[dict[str, Any]]) -> float:
    """Degrees to draw either way: the same for all methods, and a tremble is drawn as one."""
    turns = [
        abs(math.degrees(angle - angles[0]))
        for path in paths
        for angles in path.get("angles") or []
        for angle in unwrapped(angles)
    ]
    return 1.08 * max([10.0, *turns])


def _turns(axes: Axes, name: str, path: dict[str, Any], colour: str, first: bool) -> None:
    axes.set_xlabel(f"{plain(name)}: {path.get('unit', 'strength')}", fontsize=9)
    if first:
        axes.set_ylabel("turned by, degrees", fontsize=9)
    axes.tick_params(labelsize=9)
    if not path.get("angles"):
        said(axes, "not measured")
        return
    axes.axhline(0, color=SOFT, linewidth=0.9, zorder=1)
    for angles in path["angles"]:
        whole = unwrapped(angles)
        axes.plot(path["value"], [math.degrees(a - whole[0]) for a in whole], color=colour,
                  linewidth=0.9, alpha=0.65)  # fmt: skip
    if path["value"][0] > path["value"][-1]:
        axes.invert_xaxis()  # the path goes from left to right
    axes.grid(color=PALE)
