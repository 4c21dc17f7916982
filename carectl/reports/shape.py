"""What shape an encoder's embedding has, as a picture, from a probe's artifacts/geometry.json."""

from __future__ import annotations

import colorsys
from pathlib import Path
from typing import Any

from care_core.files import read_json
from carectl.errors import CommandError
from carectl.reports.curves import COLOURS, INK, PALE


def draw(run_dir: Path) -> Path:
    """Draw the principal plane and the Wahba errors to artifacts/geometry.png; returns its path.

    Raises:
        CommandError: the run has measured no geometry.
    """
    found = read_json(run_dir / "artifacts" / "geometry.json")
    if not found:
        raise CommandError(f"{run_dir.name}: --plots draws geometry; add --probe geometry")
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path = run_dir / "artifacts" / "geometry.png"
    style: dict[Any, Any] = {
        "font.size": 10, "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK,
        "ytick.color": INK,
    }  # fmt: skip
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(10, 4.6), dpi=140, layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(run_dir.name, x=0.01, ha="left", fontsize=12, weight="bold")
        _plane(figure.add_subplot(1, 2, 1), found)
        _rotations(figure.add_subplot(1, 2, 2), found["augmentations"])
        figure.savefig(path)
    return path


def _plane(axes: Any, found: dict[str, Any]) -> None:
    """The projections in their first two principal components, coloured by hue or by class."""
    x, y = zip(*found["components"], strict=True)
    if found["hues"]:
        colours: list[Any] = [colorsys.hsv_to_rgb(hue, 0.9, 0.85) for hue in found["hues"]]
        title = "projections, coloured by the image's hue"
    else:
        colours = [COLOURS[label % len(COLOURS)] for label in found["labels"]]
        title = "projections, coloured by class"
    for label in sorted(set(found["labels"])):
        rows = [i for i, other in enumerate(found["labels"]) if other == label]
        mark = f"${label}$" if label < 10 and found["hues"] else "o"
        axes.scatter(
            [x[i] for i in rows], [y[i] for i in rows], c=[colours[i] for i in rows], s=34,
            marker=mark, linewidths=0.4,
        )  # fmt: skip
    axes.set_title(title, loc="left", fontsize=11)
    axes.set(xlabel="1st principal component", ylabel="2nd principal component")
    _plain(axes)


def _rotations(axes: Any, rows: list[dict[str, float]]) -> None:
    """A dot an augmentation: what is left after the best rotation, against doing nothing."""
    still, turned = [row["wahba_identity"] for row in rows], [row["wahba"] for row in rows]
    most = max(still) * 1.08
    axes.plot([0, most], [0, most], color="#8A9097", linewidth=1, linestyle="--")
    axes.text(most * 0.80, most * 0.88, "no better than R = I", ha="right", color="#777D84")
    axes.scatter(still, turned, color=COLOURS[0], s=30, zorder=3)
    axes.set_title(f"does a rotation explain it? ({len(rows)} augmentations)", loc="left",
                   fontsize=11)  # fmt: skip
    axes.set(
        xlabel="‖F − F_a‖ / √n, left as it is",
        ylabel="min over rotations ‖F Rᵀ − F_a‖ / √n (Wahba)",
        xlim=(0, most),
        ylim=(0, most),
    )
    _plain(axes)


def _plain(axes: Any) -> None:
    axes.grid(color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
