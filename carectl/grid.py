"""A grid of runs beside published numbers, such as experiments/table1.yaml. No torch here.

Every target of `carectl reproduce` has one: which recipes it trains (rows × columns × seeds), with
what put over them, which measurements it takes at which epochs, and what it says of itself.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from care_core.spec import USUAL_KINDS, probe_kinds
from carectl.complaints import did_you_mean
from carectl.errors import CommandError

Percent = Annotated[float, Field(ge=0, le=100)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Epoch = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Entry(_Part):
    """One method on one dataset: our recipe and the paper's number; either may be absent."""

    recipe: str | None = None
    overrides: list[str] = Field([], description="settings that make this cell, such as a sweep's")
    mean: Percent | None = Field(None, description="top-1 accuracy in per cent")
    sd: Percent | None = Field(None, description="over seeds of the linear classifier")
    uncertain: bool = Field(False, description="†: read from a damaged copy of the paper")
    cited: bool = Field(False, description="the paper took it from another paper")
    note: str = ""


class Profile(_Part):
    """Which part of the grid is run, and with what put over its recipes."""

    datasets: list[str] = Field(min_length=1)
    rows: list[str] | None = Field(None, description="default: all", min_length=1)
    seeds: list[Seed] = Field(min_length=1)
    overrides: list[str] = []
    probes: list[str] | None = Field(None, description="default: the grid's")
    epochs: list[Epoch] | None = Field(None, description="default: the grid's")


@dataclasses.dataclass(frozen=True)
class Reference:
    """A published accuracy in per cent; `sd` is over seeds of the linear classifier."""

    mean: float
    sd: float | None = None
    uncertain: bool = False
    cited: bool = False
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a grid: a recipe with a pretraining seed, and what is measured of it.

    `own` are the settings that make the cell what it is; `overrides` are these and the profile's.
    No `epochs` means the last one.
    """

    row: str
    dataset: str
    recipe: str
    seed: int
    overrides: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    probes: tuple[str, ...] = USUAL_KINDS
    epochs: tuple[int, ...] = ()


class Grid(_Part):
    """A table of methods or settings (rows) and datasets (columns)."""

    title: str
    question: str = Field("", description="what the target finds out, in a sentence")
    source: str
    setting: list[str] = Field([], description="how it is measured, a sentence each")
    differs: list[str] = Field([], description="what differs from the paper, and why")
    probes: list[str] = Field(list(USUAL_KINDS), description="measurements", min_length=1)
    epochs: list[Epoch] = Field([], description="epochs to probe; default: the last")
    columns: list[str] = Field(min_length=1)
    profiles: dict[str, Profile]
    rows: dict[str, dict[str, Entry]]

    @model_validator(mode="after")
    def _profiles_fit(self) -> Grid:
        found = []
        for label, row in self.rows.items():
            for dataset, entry in row.items():
                if dataset not in self.columns:
                    hint = did_you_mean(dataset, self.columns)
                    found.append(f"rows.{label}.{dataset}: is not one of the columns{hint}")
                if entry.mean is None and (entry.sd is not None or entry.uncertain or entry.cited):
                    found.append(
                        f"rows.{label}.{dataset}: says something of a mean it does not give"
                    )
        for name, profile in self.profiles.items():
            for key, asked, there in (
                ("datasets", profile.datasets, self.columns),
                ("rows", profile.rows or [], list(self.rows)),
            ):
                what = "columns" if key == "datasets" else "rows"
                for word in sorted(set(asked) - set(there)):
                    hint = did_you_mean(word, there)
                    found.append(f"profiles.{name}.{key}: '{word}' is not one of the {what}{hint}")
            if len(set(profile.seeds)) < len(profile.seeds):
                found.append(f"profiles.{name}.seeds: each seed once")
        kinds = probe_kinds()
        named = [("probes", self.probes)]
        named += [(f"profiles.{k}.probes", p.probes or []) for k, p in self.profiles.items()]
        for key, words in named:
            for word in sorted(set(words) - set(kinds)):
                hint = did_you_mean(word, kinds)
                found.append(f"{key}: '{word}' is not one of {', '.join(kinds)}{hint}")
        if found:
            raise ValueError("\n".join(found))
        return self

    def cells(
        self, profile: str, only: Sequence[str] = (), seeds: Sequence[int] | None = None
    ) -> list[Cell]:
        """The runs of a profile, the datasets kept together, in the order of the grid.

        Args:
            profile: its name in the grid.
            only: texts that a run's row, dataset or recipe must all contain, whatever their case;
                a dataset's full name means that dataset, and a number at a text's end that
                number (λ = 0 is not λ = 0.1).
            seeds: pretraining seeds instead of the profile's.

        Raises:
            CommandError: there is no such profile, a seed is no seed, or nothing is left.
        """
        if profile not in self.profiles:
            hint = did_you_mean(profile, list(self.profiles))
            raise CommandError(
                f"no profile '{profile}'{hint}; there are: {', '.join(self.profiles)}"
            )
        chosen = self.profiles[profile]
        wanted = list(chosen.seeds if seeds is None else seeds)
        if not wanted or len(set(wanted)) < len(wanted) or not all(0 <= s < 2**31 for s in wanted):
            raise CommandError(
                f"seeds {wanted}: give at least one, each once, from 0 up to {2**31 - 1}"
            )
        runnable = [
            (label, dataset, row[dataset].recipe or "")
            for dataset in chosen.datasets
            for label, row in self.rows.items()
            if label in (chosen.rows or self.rows) and dataset in row and row[dataset].recipe
        ]
        kept = runnable
        for text in only:
            if not any(self._matches(text, run) for run in runnable):
                raise CommandError(self._nothing(f"--only {text}", profile, runnable))
            kept = [run for run in kept if self._matches(text, run)]
        if not kept:
            asked = " ".join(f"--only {text}" for text in only) or "it"
            raise CommandError(self._nothing(asked, profile, runnable))
        return [
            self._cell(chosen, label, dataset, seed)
            for label, dataset, _ in kept
            for seed in wanted
        ]

    def quoted(self, profile: str, only: Sequence[str] = ()) -> list[tuple[str, str]]:
        """(row, dataset) of what a profile shows and nothing here runs: a number, but no recipe."""
        chosen = self.profiles[profile]
        return [
            (label, dataset)
            for dataset in chosen.datasets
            for label, row in self.rows.items()
            if label in (chosen.rows or self.rows)
            and (entry := row.get(dataset)) is not None
            and entry.mean is not None
            and not entry.recipe
            and all(self._matches(text, (label, dataset, "")) for text in only)
        ]

    def _cell(self, profile: Profile, label: str, dataset: str, seed: int) -> Cell:
        entry = self.rows[label][dataset]
        return Cell(
            label, dataset, entry.recipe or "", seed,
            overrides=(*entry.overrides, *profile.overrides),
            own=tuple(entry.overrides),
            probes=tuple(profile.probes or self.probes),
            epochs=tuple(self.epochs if profile.epochs is None else profile.epochs),
        )  # fmt: skip

    def reference(self, row: str, dataset: str) -> Reference | None:
        """The paper's number, if it has one there."""
        entry = self.rows.get(row, {}).get(dataset)
        if entry is None or entry.mean is None:
            return None
        return Reference(entry.mean, entry.sd, entry.uncertain, entry.cited, entry.note)

    def _matches(self, text: str, run: tuple[str, str, str]) -> bool:
        text = text.casefold()
        if text in (column.casefold() for column in self.columns):
            return run[1].casefold() == text
        whole = r"(?!\.?\d)" if text[-1:].isdigit() else ""
        return any(re.search(re.escape(text) + whole, name.casefold()) for name in run)

    def _nothing(self, asked: str, profile: str, runnable: Sequence[tuple[str, str, str]]) -> str:
        there = ", ".join(f"{label} on {dataset}" for label, dataset, _ in runnable) or "nothing"
        return f"{asked} matches nothing of profile '{profile}'; there are: {there}"
