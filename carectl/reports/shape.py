"""What shape an encoder's embedding has, as pictures, from a probe's artifacts/geometry.json."""

from __future__ import annotations

import colorsys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carectl.reports.drawing import BLUE, COLOURS, GREY, INK, SOFT, said, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_NAMED = 20  # classes up to which each is named
_DRAWN = 6  # augmentations that are told apart

Geometry = dict[str, Any]


def acts(found: Geometry, name: str, png: Path, svg: Path) -> None:
    """Draw how augmentations act: cosines of f(x) and f(a(x)), and what a rotation explains."""
    with sheet(png, svg, height=4.7, layout="constrained") as figure:
        left, right = figure.subplots(1, 2)
        _cosines(left, found)
        _rotations(right, found["augmentations"])
        _around(figure, name, f"Projections of {_count(found)} images under "
                f"{len(found['augmentations'])} augmentations, each acting on all images alike. "
                "Unit vectors, so an error per √n is the length of a chord.")  # fmt: skip


def plane(found: Geometry, name: str, png: Path, svg: Path) -> None:
    """Draw the projections in their principal plane by class, by hue, and by augmentation."""
    panels: list[Callable[[Axes, Geometry], None]] = [_classes]
    panels += [_hues] if found.get("hues") else []
    panels += [_moved] if found.get("moved") else []
    caption = f"The first two principal components of the projections of {_count(found)} images. "
    if found.get("moved"):
        caption += (
            f"By augmentation: the same {len(found['moved'][0])} images, grey as they are, and "
            f"moved by {min(_DRAWN, len(found['moved']))} augmentations, in the same plane."
        )
    with sheet(png, svg, height=5.0, layout="constrained") as figure:
        for axes, panel in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            panel(axes, found)
            axes.set(xlabel="1st principal component", ylabel="2nd principal component")
        _around(figure, name, caption)


def _count(found: Geometry) -> int:
    return len(found["components"])


def _around(figure: Figure, name: str, caption: str) -> None:
    figure.suptitle(name, x=0.01, ha="left", fontsize=12, weight="bold")
    figure.supxlabel(textwrap.fill(caption, 150), x=0.01, ha="left", fontsize=8.5, color=SOFT)


def _cosines(axes: Axes, found: Geometry) -> None:
    """All cosines of an image before and after, and the mean of different images beside."""
    axes.set_title("cosine of an image before and after")
    cosines = found.get("cosines") or {}
    counts = cosines.get("counts") or []
    if not sum(counts):
        said(axes, "not measured")
        return
    axes.stairs([100 * n / sum(counts) for n in counts], cosines["edges"], fill=True, color=BLUE)
    axes.set(
        xlim=(-1.02, 1.02),
        xticks=(-1, -0.5, 0, 0.5, 1),
        xlabel="cos(f(x), f(a(x)))",
        ylabel="share of pairs, %",
    )
    between = (found.get("embedding") or {}).get("mean_cosine")
    if between is not None:
        axes.axvline(between, color=INK, linewidth=1.2, linestyle="--")
        left = between > 0
        axes.annotate(f"mean of different\nimages: {between:.2f}", (between, 0.97),
                      xycoords=axes.get_xaxis_transform(), xytext=(-5 if left else 5, 0),
                      textcoords="offset points", va="top", ha="right" if left else "left",
                      fontsize=9, color=SOFT)  # fmt: skip


def _rotations(axes: Axes, rows: list[dict[str, float]]) -> None:
    """A dot an augmentation: what is left after the best rotation, against doing nothing."""
    still, turned = [row["wahba_identity"] for row in rows], [row["wahba"] for row in rows]
    most = max([*still, 1e-6]) * 1.08
    axes.plot([0, most], [0, most], color=SOFT, linewidth=1, linestyle="--")
    axes.annotate("no better than R = I", (most * 0.7, most * 0.7), xytext=(-6, 4),
                  textcoords="offset points", ha="right", color=SOFT, fontsize=9)  # fmt: skip
    axes.scatter(still, turned, color=BLUE, s=30, zorder=3)
    axes.set_title("does a rotation explain it?")
    axes.set(
        xlabel="‖F − F_a‖ / √n, left as it is",
        ylabel="min over R of ‖F Rᵀ − F_a‖ / √n",
        xlim=(0, most),
        ylim=(0, most),
    )


def _classes(axes: Axes, found: Geometry) -> None:
    """A colour and a marker a class, named below where there are few."""
    labels, points = found["labels"], found["components"]
    present = sorted(set(labels))
    repeat = len(present) > len(COLOURS) * len(MARKERS)
    axes.set_title("by class" + (" (looks repeat)" if repeat else ""))
    for number, label in enumerate(present):
        x, y = zip(*(p for p, other in zip(points, labels, strict=True) if other == label),
                   strict=True)  # fmt: skip
        axes.scatter(
            x, y, s=16, alpha=0.75, linewidths=0, color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[(number + number // len(COLOURS)) % len(MARKERS)], label=str(label),
        )  # fmt: skip
    if len(present) <= _NAMED:
        _below(axes, 5, title="class")


def _below(axes: Axes, columns: int, title: str = "") -> None:
    """A legend under the axes, where it hides nothing."""
    axes.legend(fontsize=7.5, title=title, title_fontsize=7.5, loc="upper center", ncols=columns,
                bbox_to_anchor=(0.5, -0.16), handletextpad=0.2, columnspacing=1.0)  # fmt: skip


def _hues(axes: Axes, found: Geometry) -> None:
    """Each image in its own hue: the colour is what is measured, and no key to anything."""
    x, y = zip(*found["components"], strict=True)
    colours = [colorsys.hsv_to_rgb(hue, 0.9, 0.85) for hue in found["hues"]]
    axes.scatter(x, y, s=16, c=colours, linewidths=0)
    axes.set_title("by the image's hue")


def _moved(axes: Axes, found: Geometry) -> None:
    """Some images as they are, and where augmentations take them."""
    x, y = zip(*(found["components"][i] for i in found["path_images"]), strict=True)
    axes.scatter(x, y, s=20, color=GREY, linewidths=0, label="as they are", zorder=2)
    told = found.get("parameters") or [{}] * len(found["moved"])
    for number, (points, what) in enumerate(zip(found["moved"][:_DRAWN], told, strict=False)):
        x, y = zip(*points, strict=True)
        axes.scatter(x, y, s=16, marker=MARKERS[number], color=COLOURS[number], linewidths=0,
                     alpha=0.85, label=_said(what, number))  # fmt: skip
    axes.set_title("by augmentation")
    _below(axes, 1 if len(found["moved"]) < 3 else 2)


def _said(what: dict[str, Any], number: int) -> str:
    """An augmentation in a few words."""
    words = []
    if what.get("crop"):
        words.append(f"crop {what['crop'][2]}×{what['crop'][3]}")
    if what.get("flip"):
        words.append("flip")
    if what.get("gray"):
        words.append("grey")
    elif what.get("jitter"):
        words.append(f"hue {what['jitter']['hue']:+.2f}".replace("-", "−"))
    if what.get("blur"):
        words.append("blur")
    if "rotation" in what:
        words.append(f"rotation {number + 1}")
    return ", ".join(words) or f"augmentation {number + 1}"
