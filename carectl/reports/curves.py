"""A pretraining's curves as a picture, from its metrics.jsonl."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from care_core import metrics
from carectl.reports.drawing import save

# Okabe and Ito's colours, told apart by the colour-blind; dashes tell them apart in grey
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
SHAPE = ("equivariance", "alignment", "uniformity")
INK, PALE = "#23282E", "#DDE1E5"

Points = list[tuple[float, float]]


class Panel(NamedTuple):
    """One axes: its title, its vertical axis with the unit, and its curves by key."""

    title: str
    axis: str
    curves: dict[str, Points]


def draw(run_dir: Path) -> Path:
    """Draw a run's curves to its artifacts/curves.png; returns the path."""
    return draw_to(run_dir, run_dir / "artifacts" / "curves.png")[0]


def draw_to(run_dir: Path, *paths: Path) -> tuple[Path, ...]:
    """Draw loss terms, kNN accuracy and learning rate to files of any format; returns them.

    What was not recorded is left out; a run without any record gives a picture that says so.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels, along = _panels(run_dir)
    columns = 2 if len(panels) > 1 else 1
    lines = max(1, -(-len(panels) // columns))
    style: dict[Any, Any] = {
        "font.size": 10, "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK,
        "ytick.color": INK, "text.parse_math": False, "svg.fonttype": "none",
        "svg.hashsalt": "carectl",
    }  # fmt: skip
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(10, 0.6 + 2.9 * lines), dpi=140, layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(run_dir.name, x=0.01, ha="left", fontsize=12, weight="bold")
        if not panels:
            figure.text(0.5, 0.5, "no metrics were recorded", ha="center", color="#777D84")
        for number, panel in enumerate(panels):
            _draw(figure.add_subplot(lines, columns, number + 1), panel, along)
        for path in paths:
            save(figure, path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths


def _panels(run_dir: Path) -> tuple[list[Panel], str]:
    """What there is to draw, and what the horizontal axis counts."""
    curves: dict[str, Points] = defaultdict(list)
    for row in metrics.read(run_dir):
        curves[row.key].append((row.step, row.value))
    epochs = curves.pop("epoch", [])
    along, scale = "step", 1.0
    if epochs and epochs[-1][0] > 0:  # an epoch has as many steps as every other
        step, epoch = epochs[-1]
        along, scale = "epoch", epoch / step
    scaled = {key: [(x * scale, y) for x, y in points] for key, points in curves.items()}
    rest = {k: v for k, v in scaled.items() if k not in (*SHAPE, "knn", "lr")}
    found = [
        Panel("loss", "loss (nats)" if set(rest) == {"loss", "info_nce"} else "loss", rest),
        Panel(
            "shape of the embedding", "term, unweighted",
            {k: scaled[k] for k in SHAPE if k in scaled},
        ),
        Panel("kNN on held-out training images", "accuracy, %", _only(scaled, "knn")),
        Panel("learning rate", "learning rate", _only(scaled, "lr")),
    ]  # fmt: skip
    return [panel for panel in found if panel.curves], along


def _only(curves: dict[str, Points], key: str) -> dict[str, Points]:
    return {key: curves[key]} if key in curves else {}


def _draw(axes: Any, panel: Panel, along: str) -> None:
    for number, (key, points) in enumerate(panel.curves.items()):
        x, y = zip(*points, strict=True)
        axes.plot(
            x, y, label=key, color=COLOURS[number % len(COLOURS)],
            linestyle=DASHES[number % len(DASHES)], linewidth=1.6,
            marker="o" if len(points) < 25 else None, markersize=3.5,
        )  # fmt: skip
    axes.set_title(panel.title, loc="left", fontsize=11)
    axes.set(xlabel=along, ylabel=panel.axis)
    axes.grid(color=PALE, linewidth=0.8)
    axes.tick_params(length=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#8A9097")
    if len(panel.curves) > 1:
        axes.legend(frameon=False, fontsize=9)
