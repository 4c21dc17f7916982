"""The nearest neighbours of images before and after a shift of their hue, as a picture."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from care_core.files import read_json
from carectl.reports.document import Figure
from carectl.reports.drawing import BLUE, SOFT, plain, said, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from carectl.targets.context import Context
    from carectl.targets.measured import Measured

QUERIES = 3  # how many are drawn where several encoders are beside each other


class Shown(NamedTuple):
    """What one encoder's probe kept of its queries: artifacts/colour.json and colour.npz."""

    name: str
    folder: Path
    detail: dict[str, Any]

    @property
    def positions(self) -> list[int]:
        return [query["position"] for query in self.detail.get("queries", [])]

    def agreement(self, position: int, layer: str) -> float:
        query = self.detail["queries"][self.positions.index(position)]
        return float(query[layer]["agreement"])

    def arrays(self, layer: str) -> dict[str, Any]:
        """(q, S, S, 3) of the queries and (q, k, S, S, 3) of their neighbours, uint8."""
        import numpy as np

        names = {"query": "query", "moved": "moved", "still_near": f"{layer}_still",
                 "moved_near": f"{layer}_moved"}  # fmt: skip
        with np.load(self.folder / "colour.npz") as kept:
            return {name: kept[key] for name, key in names.items()}


def read(folder: Path, name: str) -> Shown | None:
    """What lies in an artifacts folder, or None where no pictures were kept."""
    detail = read_json(folder / "colour.json")
    good = isinstance(detail, dict) and detail.get("queries")
    if not good or not zipfile.is_zipfile(folder / "colour.npz"):
        return None
    return Shown(name, folder, dict(detail))


def of(context: Context, found: Sequence[Measured]) -> list[Shown]:
    """An encoder a row, of the first seed that is measured."""
    first: dict[str, Measured] = {}
    for one in found:
        first.setdefault(one.row, one)
    made = [
        read(context.planner.runs_dir / m.run / "artifacts", f"{row}, seed {m.seed}")
        for row, m in first.items()
    ]
    return [one for one in made if one]


def figure(shown: Sequence[Shown], dataset: str, layer: str, most: int = QUERIES) -> Figure:
    """Queries that all encoders have, evenly over them, each with its neighbours by encoder."""
    common = [
        position
        for position in (shown[0].positions if shown else [])
        if all(position in one.positions for one in shown)
    ]
    picked = (
        [common[i * len(common) // most] for i in range(most)] if len(common) > most else common
    )
    shift = shown[0].detail.get("hue_shift") if shown else None

    def make(png: Path, svg: Path) -> None:
        draw(shown, picked, layer, png, svg)

    told = [
        f"of query {number + 1}, {one.name} keeps {100 * one.agreement(position, layer):.0f} %"
        for number, position in enumerate(picked)
        for one in shown
    ]
    by = "" if shift is None else f" by {shift:g} turns"
    return Figure(
        f"neighbours-{layer}-{dataset}",
        f"Nearest neighbours on {dataset} by the {layer}: at the left of f(x), at the right of "
        f"f(a(x)), where a shifts the hue{by}. Framed: neighbours that both have. Queries are "
        "taken evenly over the test set; none is picked.",
        f"Rows of pictures from {dataset}: a query with its neighbours by the {layer}, then the "
        "query in another colour with its neighbours. Of the neighbours, "
        + ("; ".join(told) or "nothing is there yet"),
        make,
        [
            {"encoder": one.name, "position": position, "agreement": one.agreement(position, layer)}
            for position in picked
            for one in shown
        ],
    )


def draw(
    shown: Sequence[Shown], positions: Sequence[int], layer: str, png: Path, svg: Path
) -> None:
    """Draw a row an encoder and query: x, neighbours of f(x), a(x), neighbours of f(a(x))."""
    lines = [(position, one) for position in positions for one in shown]
    arrays = {one.folder: one.arrays(layer) for one in shown}
    wide = max((a["still_near"].shape[1] for a in arrays.values()), default=5)
    columns, label = 2 * wide + 2, 1.75 if any(one.name for one in shown) else 0.1
    side = (10.0 - label - 0.75 - 0.5) / columns  # inches
    gap = 0.14 * (len(shown) > 1)  # between queries
    tall = 0.75 + max(len(lines), 2) * (side + 0.05) + gap * max(len(positions) - 1, 0)
    with sheet(png, svg, height=tall) as page:
        if not lines:
            axes = page.add_subplot()
            axes.set_axis_off()
            said(axes, "no neighbours are kept yet")
            return
        across = [label + i * side + (0.1 if i else 0) + 0.2 * (i > wide) + 0.1 * (i > wide + 1)
                  for i in range(columns)]  # fmt: skip
        heads = {
            0: "x",
            1: "neighbours of f(x)",
            wide + 1: "a(x)",
            wide + 2: "neighbours of f(a(x))",
        }
        for column, words in heads.items():
            page.text(across[column] / 10, 1 - 0.3 / tall, words, fontsize=10, weight="bold",
                      va="center")  # fmt: skip
        page.text(9.97 / 10, 1 - 0.3 / tall, "both", fontsize=9, color=SOFT, ha="right",
                  va="center")  # fmt: skip
        page.text(0.01, 0.14 / tall, f"By cosine of the {layer} among test images; a shifts the "
                  f"hue by {shown[0].detail['hue_shift']:g} turns. Framed, and counted at the "
                  "right: neighbours of f(x) that f(a(x)) has too.", fontsize=8.5, color=SOFT,
                  va="center")  # fmt: skip
        top = tall - 0.45
        for number, (position, one) in enumerate(lines):
            if number and position != lines[number - 1][0]:
                top -= gap
            foot = top - side
            row = one.positions.index(position)
            pictures, common = _row(arrays[one.folder], one.detail["queries"][row][layer], row)
            for column, (x, picture) in enumerate(zip(across, pictures, strict=True)):
                place = (x / 10, foot / tall, 0.95 * side / 10, 0.95 * side / tall)
                _picture(page.add_axes(place), picture, column in common)
            middle = (foot + side / 2) / tall
            page.text(0.01, middle, plain(one.name), fontsize=9, va="center")
            page.text(0.997, middle, f"{len(common) // 2} of {wide}", fontsize=9, color=SOFT,
                      ha="right", va="center")  # fmt: skip
            top = foot - 0.05


def _row(arrays: dict[str, Any], told: dict[str, Any], row: int) -> tuple[list[Any], set[int]]:
    """The pictures of a query in order, and the columns of neighbours that both sides have."""
    still, moved = arrays["still_near"][row], arrays["moved_near"][row]
    pictures = [arrays["query"][row], *still, arrays["moved"][row], *moved]
    here, there = told["still"]["positions"], told["moved"]["positions"]
    common = {1 + i for i, position in enumerate(here) if position in there}
    return pictures, common | {
        len(still) + 2 + i for i, position in enumerate(there) if position in here
    }


def _picture(axes: Axes, pixels: Any, framed: bool) -> None:
    axes.imshow(pixels, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(framed)
        spine.set(color=BLUE, linewidth=2.2)
