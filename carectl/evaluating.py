"""`carectl eval`: which measurements are asked for, planned and carried out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from care_core.spec import Data, probe_kinds
from care_core.spec.clouds import measurable, unmeasurable
from carectl import specs
from carectl.complaints import did_you_mean
from carectl.console.output import Output
from carectl.errors import CommandError
from carectl.flow import Options, carry_out, report_runs
from carectl.plan import Planner, source_of


@dataclasses.dataclass(frozen=True)
class Asked:
    """Which encoder, of which epoch, measured how: the command's own arguments."""

    run: str
    epoch: int | None = None
    kinds: tuple[str, ...] = ()
    plots: bool = False
    overrides: tuple[str, ...] = ()


def measure(asked: Asked, options: Options, output: Output) -> int:
    """Plan the probe, carry it out and tell its result. Returns the exit code.

    Raises:
        CommandError: no such run, epoch or kind, or one that the dataset does not allow.
    """
    _known(asked.kinds)
    loaded, source = source_of(options.runs_dir, asked.run, asked.epoch)
    loaded = specs.override(loaded, [*asked.overrides, *options.settings()])
    kinds = _kinds(asked, loaded.probe.data or loaded.data)
    planner = Planner(options.runs_dir, options.data_dir)
    planner.probe(loaded, source, epoch=asked.epoch, kinds=kinds)
    outcome = carry_out(planner, options, output, "eval")
    report_runs(outcome, options, output, "eval", asked.plots)
    return outcome.code


def _known(kinds: Sequence[str]) -> None:
    known = probe_kinds()
    for kind in kinds:
        if kind not in known:
            hint = did_you_mean(kind, known)
            raise CommandError(f"--probe {kind}: must be one of {', '.join(known)}{hint}")


def _kinds(asked: Asked, images: Data) -> tuple[str, ...]:
    """What is measured: the usual unless something is named, and what pictures show."""
    kinds = asked.kinds or measurable(images)
    if asked.plots:
        shown = (kind for kind in ("geometry", "colour") if not list(unmeasurable(images, (kind,))))
        kinds = tuple(dict.fromkeys((*kinds, *shown)))
    for why in unmeasurable(images, kinds):
        raise CommandError(f"--probe {why.removeprefix('kinds: ')}")
    return kinds
