"""`carectl data`: which datasets are there, getting one, checking one."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.table import Table

from care_core import data
from care_core.data.layout import remedy
from care_core.errors import DataError
from care_core.spec.facts import DATASETS, OWN
from care_core.spec.sections import Data
from carectl.console.clean import clean
from carectl.console.output import Output
from carectl.errors import CommandError


def listing(data_dir: Path, output: Output) -> None:
    """A line a dataset: there or missing, where, and what it holds."""
    states = [data.available(name, data_dir) for name in DATASETS]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("dataset", "state", "items", "size", "where"):
        table.add_column(column, overflow="fold")
    for state in states:
        facts = DATASETS[state.name]
        known = facts.pretrain_images is not None
        table.add_row(
            state.name,
            ("there" if state.present else "missing") if known else "yours",
            f"{facts.pretrain_images} + {facts.test_images}" if known else "–",
            f"{facts.points} points" if facts.points else f"{facts.image_size} pixels",
            str(state.path or state.detail) if state.present else state.detail,
        )
    output.listing(table)
    output.emit("data list", datasets=[state._asdict() for state in states])
    missing = [state.name for state in states if not state.present]
    source = " --imagenet DIR" if missing[:1] == ["imagenet100"] else ""
    output.next(
        f"carectl data prepare {missing[0]}{source}"
        if missing
        else "carectl pretrain cifar10/simclr"
    )


def prepare(name: str, data_dir: Path, source: Path | None = None) -> None:
    """Get a dataset and look whether it is whole, telling what happens."""
    data.prepare(name, data_dir, _say, source=source)
    verify(name, data_dir, quick=True)


def verify(name: str, data_dir: Path, path: Path | None = None, *, quick: bool = False) -> None:
    """Say that a dataset is whole, and what is short but can be used.

    Args:
        path: of the folder or proteins dataset.
        quick: image files are counted, not decoded.

    Raises:
        CommandError: a path for a dataset that is not somebody's own, or none for one that is.
        DataError: it is not whole; names each file.
    """
    if (name in OWN) != (path is not None):
        raise CommandError(
            "--path FOLDER says which folder to verify"
            if path is None
            else f"--path: only the {' or '.join(OWN)} dataset has one; {name} lies in the data "
            "folder"
        )
    spec = Data.model_validate({"name": name, "path": str(path.absolute())}) if path else name
    problems, notes = data.verify(spec, data_dir, _say, decode=not quick)
    for note in notes:
        _say(note)
    if problems:
        again = "" if path else f"; {remedy(name, data_dir)}"
        raise DataError("\n".join([*problems, f"{name}: not usable as it is{again}"]))
    print(f"{name}: {'usable, though short of the full set' if notes else 'good'}")


def _say(text: str) -> None:
    print(clean(text), file=sys.stderr)
