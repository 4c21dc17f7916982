"""What a target is asked, the runs that answer it, and what every document says of them."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from functools import cached_property
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from care_core.errors import DataError
from care_core.spec import PretrainSpec
from carectl import reuse, runs, specs
from carectl.errors import ENVIRONMENT, CommandError
from carectl.plan import Planned, Planner
from carectl.reports import marks, notes
from carectl.reports.document import DataTable, Document, Figure, RunNote
from carectl.reports.summary import Entry
from carectl.runs import Run

if TYPE_CHECKING:
    from carectl.grid import Cell, Grid


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """The runs that answer one cell: a pretraining, and its probe at each epoch (None: the last).

    `changes` are settings that are not the cell's recipe, `overridden` those not the profile's.
    """

    cell: Cell
    spec: PretrainSpec
    trained: Planned
    probes: dict[int | None, Planned]
    changes: tuple[str, ...] = ()
    overridden: tuple[str, ...] = ()

    @property
    def probed(self) -> Planned:
        """The probe of the last epoch that is asked for."""
        return list(self.probes.values())[-1]


@dataclasses.dataclass(eq=False)
class Context:
    """One target as it was asked for. `settings` lie over every recipe of its grid."""

    target: str
    profile: str
    planner: Planner
    only: tuple[str, ...] = ()
    seeds: tuple[int, ...] | None = None
    settings: tuple[str, ...] = ()

    @cached_property
    def grid(self) -> Grid:
        return specs.load_grid(specs.find(self.target))

    def fits(self) -> bool:
        """Whether the target has anything of what is asked for."""
        try:
            return bool(self.cells)
        except CommandError:
            return False

    @cached_property
    def cells(self) -> list[Cell]:
        """The grid's cells that are asked for."""
        return self.grid.cells(self.profile, self.only, self.seeds)

    @cached_property
    def answers(self) -> list[Answer]:
        """The grid's cells, planned.

        Raises:
            CommandError: datasets are not there; all of them are told, with their remedy.
        """
        found, missing = [], dict[str, str]()
        for cell in self.cells:
            if cell.dataset not in missing:
                try:
                    found.append(self.answer(cell))
                except DataError as error:
                    missing[cell.dataset] = str(error)
        if missing:
            datasets = {cell.dataset for cell in self.cells}
            raise CommandError(_missing(missing, datasets), ENVIRONMENT)
        return found

    def answer(self, cell: Cell) -> Answer:
        """Plan one cell's runs.

        Raises:
            DataError: the dataset's files are not there.
        """
        recipe, seed = specs.find(cell.recipe), f"seed={cell.seed}"
        asked = specs.load(recipe, [*cell.overrides, *self.settings, seed])
        spec = reuse.keeping(asked, cell.epochs)
        preset = f"fidelity={spec.fidelity}"
        labels: dict[str, Any] = {"row": cell.row, "dataset": cell.dataset, "seed": cell.seed}
        trained = self.planner.pretrain(spec, **labels)
        probes: dict[int | None, Planned] = {}
        for epoch in cell.epochs or (None,):
            last = epoch == spec.training.epochs and spec.checkpoint.select == "last"
            probes[epoch] = self.planner.probe(
                spec, trained, epoch=None if last else epoch, kinds=cell.probes, **labels
            )
        return Answer(
            cell, spec, trained, probes,
            marks.changes(spec, specs.load(recipe, [*cell.own, preset, seed])),
            marks.changes(spec, specs.load(recipe, [*cell.overrides, preset, seed])),
        )  # fmt: skip

    @property
    def entries(self) -> list[Entry]:
        """The answers as `carectl.reports.summary` reads them."""
        return [
            Entry(
                row=answer.cell.row,
                dataset=answer.cell.dataset,
                seed=answer.cell.seed,
                pretrain=self.run(answer.trained),
                probe=self.run(answer.probed),
                fidelity=answer.spec.fidelity,
                changes=answer.changes,
            )
            for answer in self.answers
        ]

    def run(self, planned: Planned) -> Run:
        """The folder of the run that answers what was planned, whether it exists or not."""
        final = self.planner.final(planned)
        found = runs.by_hash(self.planner.runs_dir, final.identity.sha256)
        return found or Run(self.planner.runs_dir / final.run_id)

    def note(self, planned: Planned, role: str = "", label: str = "") -> RunNote:
        """What a document says of a run."""
        return notes.of(self.run(planned), role or planned.kind, label)

    @property
    def name(self) -> str:
        """What the report's folder is called.

        Another preset, other settings, other seeds or a part of the grid are another report: none
        replaces another.
        """
        presets = {answer.spec.fidelity for answer in self.answers} - {"paper"}
        parts = [self.target, self.profile, *sorted(presets)]
        changed = sorted({text for answer in self.answers for text in answer.overridden})
        if changed:
            parts.append(f"changed-{hashlib.sha256(repr(changed).encode()).hexdigest()[:8]}")
        if self.only:
            parts.append(f"only-{_short(sorted(self.only))}")
        if self.seeds:
            parts.append(f"seeds-{_short(list(map(str, self.seeds)))}")
        return "-".join(parts)

    def document(
        self,
        *,
        tables: Sequence[DataTable] = (),
        figures: Sequence[Figure] = (),
        findings: Sequence[str] = (),
        setting: Sequence[str] = (),
        warnings: Sequence[str] = (),
        data: Any = None,
        notes: Sequence[RunNote] | None = None,
    ) -> Document:
        """A document with what all of them say: the question, the setting, the runs, the marks.

        Args:
            findings: what came out, in sentences.
            setting, warnings: sentences beside the grid's own and those of preset and changes.
            data: the numbers as plain values, whole.
            notes: the runs, if they are not those of `answers`.
        """
        if notes is None:
            notes = self._notes()
        presets = marks.joined(self._followed(answer)[0] for answer in self.answers)
        leaks = dict.fromkeys(text for a in self.answers for text in self._followed(a)[1])
        changes = dict.fromkeys(text for answer in self.answers for text in answer.changes)
        told = [marks.warning(presets, leaks), *warnings]
        seeds = list(dict.fromkeys(str(cell.seed) for cell in self.cells))
        plural = "seed" if len(seeds) == 1 else "seeds"
        return Document(
            target=self.target,
            profile=self.profile,
            title=self.grid.title,
            question=self.grid.question,
            source=self.grid.source,
            findings=tuple(findings),
            setting=tuple(
                text
                for text in (
                    *map(self._with_values, self.grid.setting),
                    *setting,
                    f"Profile: {self.profile}. Pretraining {plural}: {', '.join(seeds)}.",
                    marks.preset(presets),
                    marks.changed(changes),
                )
                if text
            ),
            tables=tuple(tables),
            figures=tuple(figures),
            runs=tuple(notes),
            differs=tuple(self.grid.differs),
            warnings=tuple(text for text in told if text),
            data=data,
        )

    def _with_values(self, text: str) -> str:
        """A sentence of the grid with what stands in braces, such as {probe.colour.images}."""
        if not self.answers:
            return text
        spec = self.answers[0].spec
        return re.sub(r"\{([\w.]+)\}", lambda key: _said(attrgetter(key[1])(spec)), text)

    def _followed(self, answer: Answer) -> tuple[str, tuple[str, ...]]:
        """The preset of a cell's runs, and what makes them not comparable."""
        trained, probed = self.run(answer.trained), self.run(answer.probed)
        return marks.of_runs(trained, probed, answer.spec.fidelity)

    def _notes(self) -> list[RunNote]:
        found: dict[str, RunNote] = {}
        for answer in self.answers:
            cell = answer.cell
            label = cell.row if cell.row.endswith(cell.dataset) else f"{cell.row}, {cell.dataset}"
            for planned in (answer.trained, *answer.probes.values()):
                note = self.note(planned, label=label)
                if note.seed is None:  # of what was never begun no folder tells
                    name, preset = planned.name, answer.spec.fidelity
                    note = dataclasses.replace(note, seed=cell.seed, name=name, fidelity=preset)
                found.setdefault(note.id, note)
        return list(found.values())


def _said(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _short(words: Sequence[str]) -> str:
    """Words as a part of a file's name: themselves where a name can hold them, else a hash."""
    text = "-".join(words)
    if re.fullmatch(r"[A-Za-z0-9.-]{1,40}", text):
        return text
    return f"{len(words)}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _missing(missing: dict[str, str], datasets: set[str]) -> str:
    """Which datasets have to be got before the grid can be planned, and the way around."""
    there = sorted(datasets - missing.keys())
    around = f"; --only {there[0]} does without" if there else "; --profile digits needs no files"
    return "\n".join(
        [f"{len(missing)} of {len(datasets)} datasets cannot be used{around}:", *missing.values()]
    )
