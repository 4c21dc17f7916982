"""What of the paper can be reproduced: a module a target, loaded when it is asked for.

A target NAME is a grid, `experiments/NAME.yaml` (see `carectl.grid`: recipes with overrides, seeds,
profiles, probes, epochs, and what the target says of itself), and a module here with two functions:

    def plan(context: Context) -> Sequence[Answer]:
        "Plan every run that the document needs."
        return context.answers                      # the grid's cells; that is all for most

    def document(context: Context) -> Document:
        "Make the tables and figures of what is done; called after the runs, or without any."
        found = [(a.cell, context.run(a.probed).result) for a in context.answers]
        return context.document(tables=[...], figures=[...], findings=[...], data={...})

What its author needs to know:

- `context.answers` plans the grid's cells (a pretraining, and a probe an epoch), once. A cell is
  `answer.cell` (row, dataset, seed, its own overrides); its runs are `answer.trained`,
  `answer.probes[epoch]` (None: the last epoch) and `answer.probed` (the last of them).
- `context.run(planned)` is the folder of the run that answers, whether it exists or not: a probe
  that measures more, for another target, counts. Read `.result` (None where it is missing) and
  `.path / "artifacts"`.
- Runs of another kind are planned with `context.planner` in `plan`, and given to
  `context.document` as `notes=[context.note(planned, role, label), ...]`.
- A missing or failed run leaves a gap that is shown: a document is made of a partial grid too.
- `context.document` fills in what all documents say: setting, preset, marks, runs, what differs.
- Figures are drawn when they are written, by `Figure.draw(png, svg)`. matplotlib is imported inside
  it; `carectl.reports.drawing` has the sheet, the colours and the axes that all pictures share.
- A number in a table is a `document.Cell` with its runs' ids; `carectl.reports.cells` makes the
  usual ones, and `carectl.reports.summary` the means, spreads, intervals and paired differences.

Then name it in `MODULES`. Nothing here imports torch or matplotlib when it is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from carectl.complaints import did_you_mean
from carectl.errors import CommandError

if TYPE_CHECKING:
    from carectl.reports.document import Document
    from carectl.targets.context import Answer, Context

ALL = "all"  # every target that has the profile, in one plan
MODULES: dict[str, str] = {
    "table1": "carectl.targets.table1",
    "fig5": "carectl.targets.fig5",
    "fig6": "carectl.targets.fig6",
    "fig7": "carectl.targets.fig7",
    "fig8": "carectl.targets.fig8",
    "fig9": "carectl.targets.fig9",
    "fig10": "carectl.targets.fig10",
    "composition": "carectl.targets.composition",
    "pointcloud": "carectl.targets.pointcloud",
}


class Target(Protocol):
    """What a target's module has."""

    def plan(self, context: Context) -> Sequence[Answer]: ...
    def document(self, context: Context) -> Document: ...


def load(name: str) -> Target:
    """A target's module."""
    return cast(Target, import_module(MODULES[name]))


def named(text: str) -> list[str]:
    """The targets that a name means: itself, or all of them.

    Raises:
        CommandError: there is none of that name.
    """
    if text == ALL:
        return list(MODULES)
    if text not in MODULES:
        known = [*MODULES, ALL]
        hint = did_you_mean(text, known)
        raise CommandError(f"no target '{text}'{hint}; there are: {', '.join(known)}")
    return [text]
