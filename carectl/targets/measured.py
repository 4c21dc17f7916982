"""What probes measured, read for tables: numbers over pretraining seeds, paired by seed.

For the measurements that are not accuracies; `carectl.reports.summary` has those of Table 1.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from care_core.files import read_json
from carectl import runs
from carectl.reports import intervals, words
from carectl.reports.summary import Difference, Line, base_of, difference

if TYPE_CHECKING:
    from carectl.targets.context import Context


class Measured(NamedTuple):
    """A frozen encoder of one cell at one epoch, and what its probe measured of one kind.

    `numbers` are the kind's section of result.json; `detail` is artifacts/KIND.json.
    """

    row: str
    dataset: str
    seed: int
    epoch: int
    run: str
    trained: str
    numbers: dict[str, Any]
    detail: dict[str, Any]

    @property
    def place(self) -> tuple[str, str]:
        return self.row, self.dataset

    @property
    def images(self) -> int | None:
        """How many images the geometry is of."""
        found = (self.detail.get("embedding") or {}).get("images")
        return found if isinstance(found, int) else None

    def number(self, key: str) -> float | None:
        """A finite number, or None where there is none."""
        return finite(self.numbers.get(key))


def of(context: Context, kind: str) -> list[Measured]:
    """Every encoder that is measured, in the order of the grid, at each epoch that it asks for."""
    found = []
    for answer in context.answers:
        cell = answer.cell
        for epoch, planned in answer.probes.items():
            run = context.run(planned)
            numbers = (run.result or {}).get(kind)
            if isinstance(numbers, dict):
                detail = read_json(run.path / "artifacts" / f"{kind}.json")
                found.append(
                    Measured(
                        cell.row, cell.dataset, cell.seed, epoch or answer.spec.training.epochs,
                        run.id, context.run(answer.trained).id, numbers,
                        detail if isinstance(detail, dict) else {},
                    )
                )  # fmt: skip
    return found


def places(context: Context) -> list[tuple[str, str]]:
    """(row, dataset) of all cells that were asked for, measured or not."""
    return list(dict.fromkeys((a.cell.row, a.cell.dataset) for a in context.answers))


def at(found: Iterable[Measured], row: str, dataset: str) -> list[Measured]:
    """The encoders of one cell."""
    return [one for one in found if one.place == (row, dataset)]


def finite(value: Any) -> float | None:
    """A finite number, or None."""
    good = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if good else None


def line(
    found: Iterable[Measured], label: str, measure: Callable[[Measured], float | None]
) -> Line | None:
    """One measure of encoders of one row and dataset: mean, spread and t interval over seeds.

    None where no encoder has a finite one.
    """
    kept = [(one, value) for one in found if (value := measure(one)) is not None]
    if not kept:
        return None
    first, numbers = kept[0][0], tuple(value for _, value in kept)
    low, high = intervals.student(numbers) if len(numbers) > 1 else (None, None)
    return Line(
        first.row, first.dataset, label, numbers,
        seeds=tuple(one.seed for one, _ in kept),
        mean=statistics.fmean(numbers),
        sd=intervals.spread(numbers),
        low=low, high=high,
        interval=intervals.STUDENT if len(numbers) > 1 else None,
        pretrains=tuple(one.trained for one, _ in kept),
        probes=tuple(one.run for one, _ in kept),
    )  # fmt: skip


def number(found: Iterable[Measured], key: str, label: str = "") -> Line | None:
    """As `line`, of what is called `key` in result.json."""
    return line(found, label or key, lambda one: one.number(key))


def each(one: Measured, key: str) -> list[float]:
    """One finite number an augmentation, of the geometry."""
    rows = one.detail.get("augmentations") or []
    return [value for row in rows if (value := finite(row.get(key))) is not None]


def over_augmentations(found: Iterable[Measured], key: str) -> Line | None:
    """The standard deviation of a measure over augmentations, over seeds."""

    def deviation(one: Measured) -> float | None:
        values = each(one, key)
        return statistics.stdev(values) if len(values) > 1 else None

    return line(found, "sd over augmentations", deviation)


def held_out_share(found: Iterable[Measured], label: str) -> Line | None:
    """What the rotation of one half leaves on the other, as a share of what R = I leaves."""

    def share(one: Measured) -> float | None:
        held, still = one.number("wahba_held_out"), one.number("wahba_identity")
        return held / still if held is not None and still else None

    return line(found, label, share)


def rotation_said(held: float, still: float, shuffled: float, things: str = "images") -> str:
    """What a held-out Wahba error shows, beside doing nothing and a shuffled pairing."""
    if held >= still:
        return "no rotation does better there than doing nothing"
    if held >= shuffled:
        return f"it moves all {things} alike, which any pairing of them shows as well"
    return f"one rotation takes {100 * (1 - held / still):.0f} % off what doing nothing leaves"


def pairs(where: Sequence[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """(CARE row, its base, dataset) of those that are both asked for."""
    found = []
    for row, dataset in where:
        base = base_of(row, [other for other, place in where if place == dataset])
        if base is not None:
            found.append((row, base, dataset))
    return found


def gaps(
    where: Sequence[tuple[str, str]], number_of: Callable[[str, str], Line | None]
) -> list[Difference]:
    """CARE − its base of a measure, told by row and dataset, wherever a seed has both."""
    found = (
        difference(number_of(care, dataset), number_of(base, dataset))
        for care, base, dataset in pairs(where)
    )
    return [gap for gap in found if gap is not None]


def sentence(gap: Difference, places: int = 3, where: str = "") -> str:
    """A difference in words that claim no more than it shows."""
    size = words.signed(gap.mean, places)
    return f"{gap.row} − {gap.base}{where}, {gap.measure}: {size} {words.evidence(gap, places)}."


def missing(context: Context) -> list[str]:
    """What was asked for and is not measured, in a sentence; nothing where all is."""
    asked = [planned for answer in context.answers for planned in answer.probes.values()]
    states = [runs.status(context.run(planned)).state for planned in asked]
    waiting = len(states) - states.count("done")
    return [f"{waiting} of {len(states)} measurements are not there yet."] if waiting else []


def collapsed(found: Sequence[Measured]) -> list[str]:
    """Encoders that put all images in one place, as measured: no geometry says anything of them."""
    told = []
    for row, dataset in dict.fromkeys(one.place for one in found):
        mine = [one for one in found if one.place == (row, dataset)]
        last = max(one.epoch for one in mine)
        flat = [one for one in mine if one.epoch == last and one.number("collapsed")]
        if flat:
            seeds = ", ".join(str(one.seed) for one in flat)
            told.append(
                f"{row} on {dataset} has collapsed (seed {seeds}): all images lie in one place, so "
                "that an augmentation moves them alike whatever it does."
            )
    return told


def seeds_said(found: Iterable[Measured]) -> str:
    """How many pretraining seeds the numbers stand on, as a note below a table."""
    by_place: dict[tuple[str, str], set[int]] = {}
    for one in found:
        by_place.setdefault(one.place, set()).add(one.seed)
    counts = sorted({len(seeds) for seeds in by_place.values()})
    if not counts:
        return "Nothing is measured yet."
    if counts == [1]:
        return "n = 1 pretraining seed: the numbers are of one encoder a row, without a spread."
    return f"Mean ± standard deviation over {words.seed_count(counts)} pretraining seeds."
