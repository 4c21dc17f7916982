"""Checkpoints that are damaged or are not what their name says: never silently used."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ranks import After

from care_core import checkpoint
from care_core.checkpoint import Entry
from care_core.errors import CheckpointError
from care_core.measures.probing import load_encoder

from .lab import Lab, Row

STOPPED = 13  #: the damaged run has checkpoints after this step and the one before


class Place(NamedTuple):
    """A run to be damaged: chance, its newest checkpoints, and those of another run."""

    chance: random.Random
    newest: Entry
    before: Entry
    other: Entry


def flip(place: Place) -> None:
    """1 to 8 bits, anywhere."""
    data = bytearray(place.newest.path.read_bytes())
    for bit in place.chance.sample(range(len(data) * 8), place.chance.randint(1, 8)):
        data[bit // 8] ^= 1 << bit % 8
    place.newest.path.write_bytes(data)


def empty(place: Place) -> None:
    """All of it zeros."""
    place.newest.path.write_bytes(bytes(place.newest.path.stat().st_size))


def cut(place: Place) -> None:
    """Any shorter length."""
    data = place.newest.path.read_bytes()
    place.newest.path.write_bytes(data[: place.chance.randrange(len(data))])


def zero(place: Place) -> None:
    """From anywhere on to anywhere: as a file system leaves blocks that were never written."""
    whole = place.newest.path.read_bytes()
    data = whole
    while data == whole:
        begin, end = sorted(place.chance.sample(range(len(data) + 1), 2))
        data = whole[:begin] + bytes(end - begin) + whole[end:]
    place.newest.path.write_bytes(data)


def other_run(place: Place) -> None:
    """Another run's, under this one's name."""
    shutil.copy(place.other.path, place.newest.path)


def other_epoch(place: Place) -> None:
    """This run's of another step, under the name of the newest."""
    shutil.copy(place.before.path, place.newest.path)


def misnamed(place: Place) -> None:
    """This run's of another step, under a name that says the newest's step and its own digest."""
    name = place.newest.path.name.replace(place.newest.digest, place.before.digest)
    shutil.copy(place.before.path, place.newest.path.with_name(name))
    place.newest.path.unlink()


def strayed(place: Place) -> None:
    """Another run's, under its own name, as if it were newer than ours."""
    shutil.copy(place.other.path, place.newest.path.with_name(place.other.path.name))


#: What is done; whether the run then goes on from the one before, or is refused.
KINDS: list[tuple[Callable[[Place], None], str, bool]] = [
    (flip, "bits flipped at random offsets", True),
    (cut, "cut at a random length", True),
    (zero, "zero-filled from a random offset to another", True),
    (empty, "zero-filled", True),
    (other_run, "replaced by another run's, under its name", True),
    (other_epoch, "replaced by another step's, under its name", True),
    (misnamed, "another step's, under a name that claims this step", True),
    (strayed, "another run's beside it, under its own name", False),
]


def damaged(lab: Lab, count: int) -> list[Row]:
    """Damage `count` times in all; a row a kind."""
    chance = random.Random(lab.seed)
    ours, others = lab.folder / "to-damage", lab.folder / "another-run"
    lab.attempt(ours, stop=After(STOPPED - 1))
    lab.attempt(ours, stop=After(1))
    lab.attempt(others, stop=After(STOPPED + 1), spec=lab.seeded(lab.seed + 1))
    rows = []
    for number, (harm, name, passed) in enumerate(KINDS):
        often = count // len(KINDS) + (number < count % len(KINDS))
        problems: list[str] = []
        fine = 0
        for turn in range(often):
            wrong = _once(lab, ours, others, f"{harm.__name__}-{turn}", harm, passed, chance)
            fine += not wrong
            problems += wrong
        rows.append(
            Row(
                f"checkpoint: {name}" + ("" if passed else " (refused)"),
                often, fine, fine if passed else None, often if passed else None, problems,
            )
        )  # fmt: skip
    return rows


def _once(
    lab: Lab, ours: Path, others: Path, name: str, harm: Callable[[Place], None], passed: bool,
    chance: random.Random,
) -> list[str]:  # fmt: skip
    """Damage a copy of the run, and look what an evaluation and the run itself make of it."""
    run_dir = lab.folder / name
    shutil.copytree(ours, run_dir)
    folder = run_dir / "checkpoints"
    before, newest = checkpoint.entries(folder)[-2:]
    place = Place(chance, newest, before, checkpoint.entries(others / "checkpoints")[-1])
    harm(place)
    last = checkpoint.entries(folder)[-1].path
    problems = []
    if passed and lab.forked(lambda: _refuses(last)) != 0:
        problems.append(f"{name}: an evaluation takes it")
    code = lab.attempt(run_dir)
    said = lab.said(run_dir)
    if code != 0:
        return [*problems, f"{name}: ended with {code}, see {lab.log}"]
    if not passed:
        right = lab.refused(run_dir) and last.name in said[-1] and "another spec" in said[-1]
        return problems if right else [*problems, f"{name}: not refused; it said {said}"]
    if len(said) != 2 or last.name not in said[0] or "falling back" not in said[0]:
        problems.append(f"{name}: it said {said}")
    return problems + lab.problems(run_dir)


def _refuses(path: Path) -> None:
    """Ends well if the file's encoder cannot be had."""
    try:
        load_encoder(path)
    except CheckpointError:
        return
    raise RuntimeError(f"{path} was read")
