"""`carectl data`: which datasets are there, getting one, checking one."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.table import Table

from care_core import data
from care_core.errors import DataError
from care_core.facts import DATASETS
from carectl.console.output import Output


def listing(data_dir: Path, output: Output) -> None:
    """A line a dataset: there or missing, where, and what it holds."""
    states = [data.available(name, data_dir) for name in DATASETS]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("dataset", "state", "images", "where"):
        table.add_column(column, overflow="fold")
    for state in states:
        facts = DATASETS[state.name]
        table.add_row(
            state.name,
            "there" if state.present else "missing",
            f"{facts.pretrain_images} + {facts.test_images}",
            str(state.path or "embedded") if state.present else state.detail,
        )
    output.result(table)
    output.emit("data list", datasets=[state._asdict() for state in states])
    missing = [state.name for state in states if not state.present]
    output.next(
        f"carectl data prepare {missing[0]}" if missing else "carectl pretrain cifar10/simclr"
    )


def prepare(name: str, data_dir: Path) -> None:
    """Download and verify, telling what happens."""
    data.prepare(name, data_dir, lambda text: print(text, file=sys.stderr))
    verify(name, data_dir)


def verify(name: str, data_dir: Path) -> None:
    """Say that a dataset is whole.

    Raises:
        DataError: it is not; names each file.
    """
    problems = data.verify(name, data_dir)
    if problems:
        raise DataError("\n".join([*problems, f"`carectl data prepare {name}` gets it anew"]))
    print(f"{name}: good")
