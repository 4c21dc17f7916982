"""`carectl bench`: which specs are measured, what is kept of it, and what table 1 would take."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from care_core.errors import StorageError
from care_core.spec import PretrainSpec
from carectl import estimates, specs
from carectl.console.output import Output
from carectl.errors import CommandError
from carectl.estimates import Bench, Estimate

if TYPE_CHECKING:
    from care_core.bench.communication import Exchange

STANDARD = "cifar10/care-simclr"

#: Backbone and batch that are measured where no spec is named: the published CPU figures are of
#: the first; on a GPU it is too little work.
ON_CPU = (("resnet18", 64),)
ON_GPU = (("resnet18", 256), ("resnet50", 256))


@dataclasses.dataclass(frozen=True)
class Asked:
    """The options of the command that change what is measured; None: as the spec says."""

    spec: str | None = None
    batch_size: int | None = None
    backbone: str | None = None
    precision: str | None = None
    compile: str | None = None
    overrides: tuple[str, ...] = ()

    def load(self, spec: str, **defaults: Any) -> PretrainSpec:
        """The spec on one process, with what was asked for put over it, else the defaults."""
        wanted = {
            "training.batch_size": self.batch_size or defaults.get("batch_size"),
            "model.backbone": self.backbone or defaults.get("backbone"),
            "training.precision": self.precision or defaults.get("precision"),
            "launch.compile": self.compile,
        }
        settings = [f"{key}={value}" for key, value in wanted.items() if value is not None]
        if wanted["model.backbone"] not in (None, "small"):
            settings.append("model.width=null")
        one = ["launch.gpus=1", "launch.nodes=1"]
        return specs.load(specs.find(spec), [*one, *settings, *self.overrides])


def bench(asked: Asked, repeats: int, threads: int | None, runs_dir: Path, output: Output) -> None:
    """Measure, keep, and show it with the hours that table 1's recipes would take."""
    import torch

    from care_core.bench import measure
    from carectl.console import bench as views

    groups = _groups(asked, torch.cuda.is_available())
    measured: list[tuple[PretrainSpec, dict[str, Any]]] = []
    for group in groups:
        try:
            found = measure(group, repeats, threads, say=output.note)
        except torch.OutOfMemoryError:
            what = f"{group[0].model.backbone}, batch {group[0].training.batch_size}"
            output.note(f"{what}: the GPU's memory does not hold it; left out")
            continue
        for result in found:
            output.result(views.subject(result))
        measured += zip(group, found, strict=True)
    if not measured:
        raise CommandError("nothing fits the GPU's memory; try --batch-size 64")
    results = [found for _, found in measured]
    today = time.strftime("%Y-%m-%d")
    benches = [Bench(spec.model_dump(mode="json"), found, today) for spec, found in measured]
    hours = dict(projected(benches))
    for line in views.gains(results):
        output.result(line)
    output.result(views.hours(hours))
    output.emit(
        "bench",
        measured=results,
        projected={
            recipe: {"hours": estimate.gpu_hours, "by": estimate.origin}
            for (_, _, recipe), estimate in hours.items()
        },
        kept=[str(path) for path in _keep(measured, runs_dir, output)],
    )
    output.next("carectl reproduce table1 --dry-run tells the hours of a plan from this")


def _groups(asked: Asked, gpu: bool) -> list[list[PretrainSpec]]:
    """The specs to be measured; those of a group in turns."""
    if asked.spec:
        return [[asked.load(asked.spec)]]
    precisions = [asked.precision] if asked.precision else ["fp32", "bf16"]
    groups = [
        [
            asked.load(STANDARD, backbone=backbone, batch_size=batch, precision=precision)
            for precision in precisions
        ]
        for backbone, batch in (ON_GPU if gpu else ON_CPU)
    ]
    return [group for number, group in enumerate(groups) if group not in groups[:number]]


def _keep(
    measured: Sequence[tuple[PretrainSpec, dict[str, Any]]], runs_dir: Path, output: Output
) -> list[Path]:
    try:
        return [estimates.keep(runs_dir, spec, found) for spec, found in measured]
    except StorageError as error:
        output.note(f"not kept for `reproduce --dry-run`: {error}")
        return []


def projected(benches: Sequence[Bench]) -> Iterator[tuple[tuple[str, str, str], Estimate]]:
    """(row, dataset, recipe) of table 1, and the hours of its pretraining, as far as is known."""
    grid = specs.load_grid(specs.find("table1"))
    for dataset in grid.columns:
        for row, entries in grid.rows.items():
            recipe = entries[dataset].recipe if dataset in entries else None
            if recipe is None:
                continue
            estimate = estimates.by_bench(specs.load(specs.find(recipe)), benches)
            if estimate:
                yield (row, dataset, recipe), estimate


#: The step that the model of communication assumes where no GPU's bench of its spec is kept.
ASSUMED_STEP_S = 0.060


def scaling(
    asked: Asked, repeats: int, threads: int | None, runs_dir: Path, output: Output
) -> None:
    """Measure how costs grow with runs, batch and ranks, and model what more ranks exchange."""
    import torch

    from care_core.bench.scaling import loss_costs, rank_costs
    from carectl.console import bench as views
    from carectl.scaling import runs_costs

    output.note("plan, status and report over made run folders")
    commands = list(runs_costs())
    output.result(views.commands(commands))
    output.note("the losses, forward and backward")
    losses = list(loss_costs(repeats=repeats, threads=threads))
    output.result(views.losses(losses))
    gpus = torch.cuda.device_count()
    sizes = [size for size in (1, 2, 4, 8) if size <= max(gpus, 2 - bool(gpus))]
    shared = asked.load(asked.spec or STANDARD, backbone="resnet18", batch_size=64)
    output.note(f"a step of {shared.training.batch_size} images shared by ranks")
    ranks = rank_costs(shared, sizes, repeats=min(repeats, 3))
    output.result(views.ranks(ranks, shared))
    large = specs.load(specs.find(STANDARD), ["model.backbone=resnet50"])
    step_s, origin = _step_of(large, runs_dir)
    exchanges = _exchanges(large, step_s)
    output.result(views.exchanges(exchanges, large, step_s, origin))
    output.emit(
        "bench",
        scaling={
            "commands": [cost._asdict() for cost in commands],
            "losses": [cost._asdict() for cost in losses],
            "ranks": [cost._asdict() for cost in ranks],
            "model": {
                "step_s": step_s,
                "step_by": origin,
                "exchanges": [
                    {"sync_bn": sync, **e._asdict()} for pair in exchanges
                    for sync, e in zip((False, True), pair, strict=True)
                ],
            },
        },
    )  # fmt: skip
    output.next("carectl bench measures a step beside its floor")


def _exchanges(spec: PretrainSpec, step_s: float) -> list[tuple[Exchange, Exchange]]:
    """What 4 to 64 ranks would exchange, batch norm a rank's own and synchronised."""
    from care_core.bench.communication import exchanged

    synchronised = specs.override(spec, ["bn.sync=true"])
    return [
        (exchanged(spec, ranks, step_s), exchanged(synchronised, ranks, step_s))
        for ranks in (4, 8, 16, 32, 64)
    ]


def _step_of(spec: PretrainSpec, runs_dir: Path) -> tuple[float, str]:
    """Seconds of a spec's step on a GPU, at any precision, and how that is known."""
    for kept in estimates.kept(runs_dir):
        same = kept.found["backbone"], kept.found["batch"], kept.found["name"]
        wanted = spec.model.backbone, spec.training.batch_size, spec.name
        if not kept.on_cpu and same == wanted:
            return kept.found["step_s"], f"measured on {kept.device}, {kept.date}"
    return ASSUMED_STEP_S, "assumed: no GPU was measured"
