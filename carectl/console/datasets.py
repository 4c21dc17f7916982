"""`carectl data`: which datasets are there, getting one, checking one."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from care_core import data
from care_core.data.layout import remedy
from care_core.errors import DataError
from care_core.spec.facts import DATASETS, OWN
from care_core.spec.sections import Data
from carectl import specs
from carectl.complaints import did_you_mean
from carectl.console import steps
from carectl.console.output import Output
from carectl.errors import CommandError


def listing(data_dir: Path, output: Output) -> None:
    """A line a dataset: there or missing, where, and what it holds."""
    states = [data.available(name, data_dir) for name in DATASETS]
    roomy = output.room() >= ROOMY
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("dataset", "state", *(("items", "size") if roomy else ())):
        table.add_column(column, no_wrap=True)
    table.add_column("where", overflow="fold")
    for state in states:
        facts = DATASETS[state.name]
        known = facts.pretrain_images is not None
        holds = (
            f"{facts.pretrain_images:,} + {facts.test_images:,}" if known else "–",
            f"{facts.points} points" if facts.points else f"{facts.image_size} pixels",
        )
        table.add_row(
            state.name,
            ("there" if state.present else "missing") if known else "yours",
            *(holds if roomy else ()),
            str(state.path or state.detail) if state.present else state.detail,
        )
    output.listing(table)
    output.emit("data list", datasets=[state._asdict() for state in states])
    where = steps.places(data_dir=data_dir)
    missing = [state.name for state in states if not state.present]
    source = " --imagenet DIR" if missing[:1] == ["imagenet100"] else ""
    output.next(
        f"carectl data prepare {missing[0]}{source}{where}"
        if missing
        else f"carectl pretrain cifar10/simclr{where}"
    )


def prepare(name: str, data_dir: Path, source: Path | None, output: Output) -> None:
    """Get a dataset and look whether it is whole, telling what happens.

    Raises:
        CommandError: there is none of that name, or it is somebody's own.
        DataError: it could not be got, or is not whole.
    """
    _known(name)
    if name in OWN:
        raise CommandError(
            f"{name} is yours: there is nothing to get; carectl data verify {name} --path FOLDER "
            "checks it"
        )
    data.prepare(name, data_dir, output.note, source=source)
    verify(name, data_dir, None, output, quick=True)


def verify(
    name: str, data_dir: Path, path: Path | None, output: Output, *, quick: bool = False
) -> None:
    """Say that a dataset is whole, and what is short but can be used.

    Args:
        path: of the folder or proteins dataset.
        quick: image files are counted, not decoded.

    Raises:
        CommandError: there is none of that name; or a path for one that is not somebody's own, or
            none for one that is.
        DataError: it is not whole; names each file.
    """
    _known(name)
    if (name in OWN) != (path is not None):
        raise CommandError(
            "--path FOLDER says which folder to verify"
            if path is None
            else f"--path: only the {' or '.join(OWN)} dataset has one; {name} lies in the data "
            "folder"
        )
    spec = Data.model_validate({"name": name, "path": str(path.absolute())}) if path else name
    problems, notes = data.verify(spec, data_dir, output.note, decode=not quick)
    for note in notes:
        output.note(note)
    if problems:
        again = "" if path else f"; {remedy(name, data_dir)}"
        raise DataError("\n".join([*problems, f"{name}: not usable as it is{again}"]))
    output.result(f"{name}: {'usable, though short of the full set' if notes else 'good'}")
    output.next(_training(name, path, steps.places(data_dir=data_dir)))


#: Columns in which a dataset's size has room beside where it is.
ROOMY = 76


def _known(name: str) -> None:
    if name not in DATASETS:
        hint = did_you_mean(name, list(DATASETS))
        raise CommandError(f"no dataset '{name}'{hint}; there are: {', '.join(DATASETS)}")


def _training(name: str, path: Path | None, where: str) -> str:
    """What comes next of a dataset that is whole: the first recipe that trains on it."""
    recipe = next((text for text in specs.names() if text.startswith(f"{name}/care-")), "")
    if not recipe:
        recipe = "pointcloud/care" if DATASETS[name].points else "imagenet100/care-simclr"
    own = [f"data.name={name}", f"data.path={path.absolute()}"] if path else []
    return f"carectl pretrain {steps.spec(recipe, own)}{where} --dry-run"
