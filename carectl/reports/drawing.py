"""The sheet, the colours and the axes that all pictures of a report share.

Colours are Okabe and Ito's, told apart by the colour-blind. In dark mode a page turns those of
`TURNED` over; DARK and WHITE are for words upon a coloured area, and stay.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from care_core.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, PALE, PAPER = "#23282E", "#5A6068", "#DDE1E5", "#FEFEFE"
WARN = "#B03A00"  # dark enough for words on white
TURNED = {"ink": INK, "soft": SOFT, "pale": PALE, "paper": PAPER, "warn": WARN}
DARK, WHITE = "#22272D", "#FFFFFF"
BLUE, ORANGE, GREY, RED, GREEN, PURPLE, SKY = (
    "#0072B2", "#E69F00", "#A6ACB3", "#D55E00", "#009E73", "#CC79A7", "#56B4E9",
)  # fmt: skip
COLOURS = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, GREY)
DASHES = ("-", "--", "-.", ":")
WIDTH, DPI = 10.0, 160  # inches, so 1600 pixels

_STYLE: dict[Any, Any] = {
    "font.size": 10, "svg.fonttype": "none", "svg.hashsalt": "carectl", "text.parse_math": False,
    "text.color": INK, "axes.labelcolor": INK, "axes.titlecolor": INK, "axes.edgecolor": SOFT,
    "xtick.color": INK, "ytick.color": INK, "axes.facecolor": "none", "legend.labelcolor": INK,
    "axes.titlelocation": "left", "axes.titlesize": 11, "axes.titleweight": "bold",
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": PALE,
    "grid.linewidth": 0.8, "axes.axisbelow": True, "xtick.major.size": 0, "ytick.major.size": 0,
    "legend.frameon": False,
}  # fmt: skip


@contextmanager
def sheet(
    png: Path, svg: Path, width: float = WIDTH, height: float = 4.0, **how: Any
) -> Iterator[Figure]:
    """A figure in the house style, of so many inches, that is saved to both files at the end.

    The same values give the same files. `how` goes to matplotlib's Figure, such as a `layout`.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), dpi=DPI, facecolor=PAPER, **how)
        FigureCanvasAgg(figure)
        yield figure
        save(figure, png, dpi=DPI)
        save(figure, svg, metadata={"Date": None})


def save(figure: Figure, path: Path, **how: Any) -> None:
    """Save a figure whole or not at all.

    Raises:
        StorageError: it cannot be written, as on a full disk.
    """
    held = io.BytesIO()
    figure.savefig(held, format=path.suffix[1:], **how)
    write_bytes(path, held.getvalue(), durable=False)


def said(axes: Axes, words: str) -> None:
    """Say in the middle of axes why there is nothing in them."""
    axes.text(0.5, 0.5, words, ha="center", va="center", color=SOFT, style="italic",
              transform=axes.transAxes)  # fmt: skip


def plain(text: str) -> str:
    """On one line, without characters that no font has."""
    return "".join(c for c in " ".join(text.split()) if c.isprintable())
