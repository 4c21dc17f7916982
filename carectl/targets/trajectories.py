"""The pictures of point clouds: axis errors with their controls, and paths of turning clouds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carectl.reports import summary, words
from carectl.reports.document import Figure
from carectl.reports.drawing import (
    BLUE,
    GREEN,
    GREY,
    INK,
    PALE,
    PAPER,
    PURPLE,
    RED,
    SOFT,
    plain,
    said,
    sheet,
)
from carectl.targets import looks
from carectl.targets.measured import finite

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from carectl.targets.pointcloud import View

GUESS = math.degrees(1)  # the mean angle between an axis and one that knows nothing of it
UNTRAINED = "not trained"  # the row of networks without training

# by layer: colour, marker, its fill, and the dashes of the line of the untrained network
_LAYERS = {"projection": (BLUE, "o", BLUE, "--"), "backbone": (RED, "s", PAPER, ":")}
_CLOUDS = ((BLUE, "o"), (RED, "s"), (GREEN, "^"), (PURPLE, "D"))  # as many are drawn
_TICKS = (-1.0, -0.5, 0.0, 0.5, 1.0)  # of projections, which are unit vectors


def errors(view: View) -> Figure:
    """The axis error by method and layer, between the untrained network and a guess."""
    lines = {(r, y): view.error(r, y) for r in (*view.rows, UNTRAINED) for y in _LAYERS}

    def draw(png: Path, svg: Path) -> None:
        with sheet(png, svg, height=1.4 + 0.6 * len(view.rows), layout="constrained") as figure:
            _errors(figure.subplots(), view)

    told = [
        f"{row} {words.number(lines[row, 'projection'], 1)} from the projection and "
        f"{words.number(lines[row, 'backbone'], 1)} from the backbone"
        for row in (*view.rows, UNTRAINED)
        if lines[row, "projection"]
    ]
    several = any(line.n > 1 for line in lines.values() if line)
    return Figure(
        f"axis-errors-{view.dataset}",
        f"How far off a cloud's principal axis is read from frozen features of test "
        f"{view.dataset}, by method, and (lines) without training and by a guess."
        + (" Bars: 95 % t intervals over pretraining seeds; grey: single seeds." if several else "")
        + ("" if several or not told else " n = 1: no spread over pretraining seeds."),
        f"Dot plot of the axis error in degrees on {view.dataset}: "
        + ("; ".join([*told, f"a guess {GUESS:.1f}"]) if told else "nothing is measured")
        + ".",
        draw,
        [summary.plain(line) for line in lines.values() if line],
    )


def _errors(axes: Axes, view: View) -> None:
    lowest = len(view.rows) - 0.5
    for number, (layer, (colour, marker, fill, dash)) in enumerate(_LAYERS.items()):
        for place, row in enumerate(view.rows):
            line, at = view.error(row, layer), place + 0.3 * number - 0.15
            if line is None or line.mean is None:
                continue
            if line.low is not None and line.high is not None:
                reach = [[line.mean - line.low], [line.high - line.mean]]
                axes.errorbar(line.mean, at, xerr=reach, fmt="none", ecolor=colour, capsize=3)
                axes.scatter(line.values, [at] * line.n, s=9, color=GREY, zorder=4, linewidths=0)
            axes.plot(line.mean, at, color=colour, marker=marker, markerfacecolor=fill,
                      markeredgewidth=1.5, markersize=7.5, zorder=3)  # fmt: skip
            axes.annotate(f"{line.mean:.1f}°", (line.mean, at), xytext=(8, 0), va="center",
                          textcoords="offset points", fontsize=9, color=SOFT,
                          bbox={"facecolor": PAPER, "linewidth": 0, "pad": 1.0})  # fmt: skip
        axes.plot([], [], color=colour, marker=marker, markerfacecolor=fill, markeredgewidth=1.5,
                  linestyle="none", label=layer)  # fmt: skip
        fresh = view.error(UNTRAINED, layer)
        if fresh is not None and fresh.mean is not None:
            axes.axvline(fresh.mean, color=colour, linestyle=dash, linewidth=1.4, zorder=1,
                         label=f"not trained, {layer} ({fresh.mean:.1f}°)")  # fmt: skip
    axes.axvline(GUESS, color=INK, linewidth=1.2, zorder=1,
                 label=f"a guess ({GUESS:.1f}°)")  # fmt: skip
    for place, row in enumerate(view.rows):
        if not view.error(row, "projection") and view.axis:
            axes.text(0.01, place, "not measured", va="center", style="italic", color=SOFT,
                      transform=axes.get_yaxis_transform())  # fmt: skip
    if not view.axis:
        said(axes, "nothing is measured yet")
    axes.set_yticks(range(len(view.rows)), [plain(row) for row in view.rows])
    axes.set(ylim=(lowest, -0.5), xlim=(0, 65), xlabel="axis error on test clouds, degrees")
    axes.grid(visible=False, axis="y")
    looks.beside(axes)


def paths(view: View) -> Figure:
    """Where a few test clouds lead while they turn once about x, y and z."""
    drawn = {row: told for row, (_, told) in view.paths.items()}
    reach = 1.08 * max(
        (
            abs(value)
            for told in drawn.values()
            for cloud in told["clouds"]
            for path in cloud.values()
            for place in path["plane"]
            for value in place
        ),
        default=1.0,
    )
    reach = reach or 1.0  # all stay in one place

    def draw(png: Path, svg: Path) -> None:
        height = 0.5 + 2.55 * len(view.rows)
        with sheet(png, svg, height=height, layout="constrained") as figure:
            grid = figure.subplots(len(view.rows), 4, squeeze=False, width_ratios=(0.78, 1, 1, 1))
            for places, row in zip(grid, view.rows, strict=True):
                _named(places[0], view, row)
                for axes, name in zip(places[1:], "xyz", strict=True):
                    _paths(axes, drawn.get(row), name, reach)
            for axes, name in zip(grid[0, 1:], "xyz", strict=True):
                axes.set_title(f"about {name}", loc="center")

    told = []
    for row in view.rows:
        radius = view.path(row, "path_radius")
        if row in drawn and radius is not None:
            told.append(f"{row}, paths of mean radius {words.number(radius, 2)}")
    count = max((len(told["clouds"][: len(_CLOUDS)]) for told in drawn.values()), default=0)
    turns = max((len(told["angles"]) for told in drawn.values()), default=0)
    seeds = sorted({seed for seed, _ in view.paths.values()})
    return Figure(
        f"trajectories-{view.dataset}",
        f"Paths of projections of test {view.dataset} while the clouds turn once about x, y and z"
        + (
            f": {count} clouds (a colour each; the marker is where a turn begins) under {turns} "
            "rotations an axis, in the plane of the two principal components of all of an "
            "encoder's places. All panels have the same scale, lines 0.5 apart; a point is an "
            f"embedding that forgets the rotation. Pretraining seed {', '.join(map(str, seeds))}."
            if drawn
            else "."
        ),
        f"Small multiples of closed paths on {view.dataset}, rows methods, columns axes of "
        "rotation: " + ("; ".join(told) or "nothing is measured") + ".",
        draw,
        {row: {"seed": seed, "share": told.get("share"), "angles": told["angles"],
               "clouds": [{axis: path["plane"] for axis, path in cloud.items()}
                          for cloud in told["clouds"]]}
         for row, (seed, told) in view.paths.items()},
    )  # fmt: skip


def _named(axes: Axes, view: View, row: str) -> None:
    """A row's method, and how its paths are to be taken."""
    axes.set_axis_off()
    axes.text(0, 0.6, plain(row).replace(" + ", "\n+ "), weight="bold", color=looks.of(row).colour,
              fontsize=11, va="bottom", transform=axes.transAxes)  # fmt: skip
    told = view.paths.get(row)
    share = finite(told[1].get("share")) if told else None
    radius = view.path(row, "path_radius")
    notes = [f"mean path radius {words.number(radius, 2)}"] if radius else []
    notes += [f"{100 * share:.0f} % of the variance\nis in this plane"] if share else []
    axes.text(0, 0.55, "\n".join(notes), color=SOFT, fontsize=9, va="top", linespacing=1.4,
              transform=axes.transAxes)  # fmt: skip


def _paths(axes: Axes, told: dict[str, Any] | None, name: str, reach: float) -> None:
    axes.set(xticks=_TICKS, yticks=_TICKS, xticklabels=[], yticklabels=[])
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach))
    axes.set_aspect("equal")
    for side in axes.spines.values():
        side.set(visible=True, color=PALE)
    if told is None:
        said(axes, "nothing is measured yet")
        return
    for cloud, (colour, marker) in zip(told["clouds"], _CLOUDS, strict=False):
        across, up = zip(*cloud[name]["plane"], strict=True)
        axes.plot([*across, across[0]], [*up, up[0]], color=colour, linewidth=1.3, zorder=2)
        axes.plot(across[0], up[0], color=colour, marker=marker, markerfacecolor=PAPER,
                  markeredgewidth=1.4, markersize=6, zorder=3)  # fmt: skip
