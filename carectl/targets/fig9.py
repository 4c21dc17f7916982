"""Figure 9: whose neighbours change with a colour, and what of colours an embedding keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from carectl.reports import cells, summary, words
from carectl.reports.document import Cell, Column, DataTable, Document, Figure
from carectl.reports.drawing import SOFT, plain, said, sheet
from carectl.reports.summary import Line
from carectl.targets import looks, measured, neighbours
from carectl.targets.context import Answer, Context
from carectl.targets.measured import Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LAYERS = ("projection", "backbone")
# key of result.json's colour without its layer, what it is, its column's rank
MEASURES = (
    ("hue_r2", "own hue, R²", 0),
    ("hue_shift_r2_products", "hue shift, R²", 1),
    ("hue_shift_r2", "hue shift, linear, R²", 4),
    ("jitter_r2_products", "jitter, R²", 2),
    ("jitter_r2", "jitter, linear, R²", 5),
    ("crop_r2_products", "crop, R²", 2),
    ("crop_r2", "crop, linear, R²", 5),
    ("agreement", "neighbours that stay, share", 0),
    ("hue_gap_moved", "hue gap to a(x), turns", 3),
)
_SHOWN = MEASURES[:-1]  # what is drawn: all of these lie between 0 and 1
_FLOOR = -0.25  # of the drawn axis; what lies below is drawn there, as an arrow
_JUDGED = ("agreement", "hue_r2", "hue_shift_r2_products")  # the differences that are told in words


def plan(context: Context) -> Sequence[Answer]:
    """The grid's cells."""
    return context.answers


def document(context: Context) -> Document:
    """Neighbours as a picture, and the numbers of both layers as a picture and in tables."""
    found = measured.of(context, "colour")
    places = measured.places(context)
    tables, figures, findings = [], [], []
    for dataset in dict.fromkeys(dataset for _, dataset in places):
        rows = [row for row, place in places if place == dataset]
        mine = [m for m in found if m.dataset == dataset]
        tables += [_table(mine, rows, dataset, layer) for layer in LAYERS]
        tables += _differences(mine, rows, dataset)
        pictures = neighbours.of(context, mine)
        figures += [neighbours.figure(pictures, dataset, layer) for layer in LAYERS]
        figures.append(_figure(mine, rows, dataset))
        findings += _told(mine, rows, dataset)
    return context.document(
        tables=tables,
        figures=figures,
        findings=[*findings, *measured.missing(context)],
        data=[
            {"row": m.row, "dataset": m.dataset, "seed": m.seed, "run": m.run, "means": m.numbers,
             "regression": m.detail.get("regression"), "queries": m.detail.get("queries")}
            for m in found
        ],
    )  # fmt: skip


def _line(found: Sequence[Measured], row: str, key: str, layer: str) -> Line | None:
    label = next(label for name, label, _ in MEASURES if name == key)
    mine = [m for m in found if m.row == row]
    return measured.number(mine, f"{key}_{layer}", f"{label}, {layer}")


def _table(found: Sequence[Measured], rows: Sequence[str], dataset: str, layer: str) -> DataTable:
    made = []
    for row in rows:
        lines = [_line(found, row, key, layer) for key, _, _ in MEASURES]
        first = next((line for line in lines if line), None)
        made.append(
            (cells.name(row), *(cells.number(line, 3) for line in lines), cells.count(first))
        )
    chance = measured.number(found, "hue_gap_chance")
    by_chance = "" if chance is None else f" By chance it is {chance.mean:.3f}."
    return DataTable(
        f"colour-{layer}-{dataset}",
        f"What the {layer} keeps of colours and crops on {dataset}",
        (
            Column("Method", numeric=False),
            *(Column(label, rank=rank) for _, label, rank in MEASURES),
            Column("n"),
        ),
        tuple(made),
        (
            measured.seeds_said(found),
            "Own hue is read from f(x) alone; hue shift, jitter and crop are parameters of an "
            "augmentation, read from f(x), f(a(x)) and their products; where said, linearly: what "
            "turned is a product of both, and no sum. Neighbours that stay: the share of f(x)'s "
            "neighbours that f(a(x)) has too.",
            "Hue gap: the mean distance of the hues of f(a(x))'s neighbours from that of the "
            f"shifted image, small where the embedding follows the colour.{by_chance}",
        ),
    )


def _pairs(rows: Sequence[str]) -> list[tuple[str, str]]:
    """(a row, another) that the question compares: each with SimCLR, and CARE with EquiMod."""
    care, base, other = "CARE-SimCLR", "SimCLR", "EquiMod-SimCLR"
    wanted = ((care, base), (other, base), (care, other))
    return [pair for pair in wanted if set(pair) <= set(rows)]


def _differences(found: Sequence[Measured], rows: Sequence[str], dataset: str) -> list[DataTable]:
    """What is compared, paired by seed; no table where nothing is."""
    made = []
    for layer in LAYERS:
        for row, base in _pairs(rows):
            fields: list[Cell] = []
            for key, _, _ in MEASURES:
                both = [_line(found, name, key, layer) for name in (row, base)]
                cell = cells.difference(summary.difference(*both), 3)
                runs = cells.runs_of([line for line in both if line])
                fields.append(
                    dataclasses.replace(cell, runs=runs) if cell.value is not None else cell
                )
            if any(field.value is not None for field in fields):
                made.append((cells.name(f"{row} − {base}, {layer}"), *fields))
    if not made:
        return []
    return [
        DataTable(
            f"colour-differences-{dataset}",
            f"Differences between methods on {dataset}, paired by pretraining seed",
            (
                Column("Difference", numeric=False),
                *(Column(label, rank=rank) for _, label, rank in MEASURES),
            ),
            tuple(made),
            ("Means with 95 % t intervals over paired seeds; bold where zero is left out, without "
             "a correction for the number of comparisons. n = 1 is not evidence.",),
        )
    ]  # fmt: skip


def _told(found: Sequence[Measured], rows: Sequence[str], dataset: str) -> list[str]:
    told = []
    for row in rows:
        stays = _line(found, row, "agreement", "projection")
        shift = _line(found, row, "hue_shift_r2_products", "projection")
        if stays is None or stays.mean is None:
            continue
        read = f"; the shift is read from a pair with R² {words.number(shift, 2)}" if shift else ""
        told.append(
            f"{row} on {dataset}: {100 * stays.mean:.0f} % of the projection's neighbours stay "
            f"when the hue is shifted{read} (n = {stays.n})."
        )
    for row, base in _pairs(rows):
        for key in _JUDGED:
            gap = summary.difference(
                *(_line(found, name, key, "projection") for name in (row, base))
            )
            if gap is not None and (gap.shown or base == "SimCLR"):
                told.append(measured.sentence(gap, 3, f" on {dataset}"))
    return told


def _figure(found: Sequence[Measured], rows: Sequence[str], dataset: str) -> Figure:
    lines = {
        (row, key, layer): line
        for row in rows
        for key, _, _ in _SHOWN
        for layer in LAYERS
        if (line := _line(found, row, key, layer))
    }

    def draw(png: Path, svg: Path) -> None:
        with sheet(png, svg, height=4.6, layout="constrained") as figure:
            panels = figure.subplots(1, 2, sharex=True, sharey=True)
            for axes, layer in zip(panels, LAYERS, strict=True):
                _panel(axes, {k[:2]: v for k, v in lines.items() if k[2] == layer}, rows)
                axes.set_title(layer)
            if lines:
                handles, names = panels[0].get_legend_handles_labels()
                figure.legend(handles, names, loc="outside upper right", ncols=len(rows))

    told = [
        f"{layer}, {label}: "
        + ", ".join(
            f"{row} {lines[row, key, layer].mean:.2f}" for row in rows if (row, key, layer) in lines
        )
        for layer in LAYERS
        for key, label, _ in _SHOWN
        if any((row, key, layer) in lines for row in rows)
    ]
    several = any(line.n > 1 for line in lines.values())
    return Figure(
        f"colour-numbers-{dataset}",
        f"What embeddings keep of colours and crops on {dataset}: R² on test images, and the share "
        "of neighbours that stay when the hue is shifted by a fifth of a turn."
        + (" Bars: 95 % t intervals over pretraining seeds." if several else " One seed a method.")
        + f" An arrow at {_FLOOR:g} stands for what lies below.",
        f"Dot plot of colour sensitivity on {dataset}. " + ("; ".join(told) or "Nothing measured"),
        draw,
        [dataclasses.asdict(line) for line in lines.values()],
    )


def _panel(axes: Axes, lines: dict[tuple[str, str], Line], rows: Sequence[str]) -> None:
    for number, row in enumerate(rows):
        look = looks.of(row)
        for place, (key, _, _) in enumerate(_SHOWN):
            line = lines.get((row, key))
            if line is None or line.mean is None:
                continue
            at = place + 0.2 * (number - (len(rows) - 1) / 2)
            low = line.mean < _FLOOR
            if line.low is not None and line.high is not None:
                reach = [max(line.low, _FLOOR), min(line.high, 1.05)]
                axes.plot(reach, [at, at], color=look.colour, linewidth=1.2)
            axes.plot(max(line.mean, _FLOOR), at, color=look.colour, markersize=6.5,
                      marker="<" if low else look.marker, linestyle="none")  # fmt: skip
        axes.plot([], [], color=look.colour, marker=look.marker, linestyle="none", label=plain(row))
    if not lines:
        said(axes, "nothing is measured yet")
    axes.axvline(0, color=SOFT, linewidth=0.8)
    axes.set_yticks(range(len(_SHOWN)), [label for _, label, _ in _SHOWN])
    axes.set(xlim=(_FLOOR - 0.05, 1.05), ylim=(len(_SHOWN) - 0.4, -0.6), xlabel="R², or share")
    axes.axhline(len(_SHOWN) - 1.5, color=SOFT, linewidth=0.8, linestyle=":")
    axes.grid(visible=False, axis="y")
