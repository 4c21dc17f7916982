"""What `carectl bench` measured, as tables of at most 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from carectl.estimates import Estimate
from carectl.wording import counted, number

if TYPE_CHECKING:
    from care_core.bench.communication import Exchange
    from care_core.bench.scaling import LossCost, RankCost
    from care_core.spec import PretrainSpec
    from carectl.scaling import RunsCost

_KINDS = {
    "step": "engine step: data, augmentation, all of it",
    "floor": "floor: the same passes on ready tensors",
    "pooled_floor": "floor with plain, pooled batch norm",
    "compiled_floor": "floor, compiled",
}

#: By which the sum of the phases may part from the step on a quiet machine.
DISTURBED = 0.15


def subject(found: Mapping[str, Any]) -> Group:
    """One spec: its step beside the floors, its phases, FLOP/s and memory."""
    device, compiled = found["device"], found["compile"]
    threads = counted(device["threads"], "thread")
    title = (
        f"\n{found['name']}: {found['backbone']}, {found['image_size']} px, batch "
        f"{found['batch']} x {found['passes']:g} passes, {found['precision']}"
        + ("" if compiled == "off" else f", compile {compiled}")
        + (", CUDA graphs" if found["recorded"] else "")
        + f"\n{device['name']}, {threads}, torch {device['torch']}"
    )
    return Group(
        Text(title, style="bold"), _times(found), _phases(found), *_facts(found), *_doubts(found)
    )


def _times(found: Mapping[str, Any]) -> Table:
    table = _table("", "ms", "fastest", "images/s", "step / it")
    for kind, words in _KINDS.items():
        if kind not in found["times"]:
            continue
        seconds, times = found[f"{kind}_s"], found["times"][kind]
        ratio = "" if kind == "step" else f"{found[f'step_over_{kind}']:.3f}"
        table.add_row(
            words, _ms(seconds), _ms(times["min_s"]), f"{found['batch'] / seconds:.1f}", ratio
        )
    return table


def _phases(found: Mapping[str, Any]) -> Table:
    phases = found["phases_s"]
    table = _table("phase", *phases)
    unit = "ms, launched one by one" if found["recorded"] else "ms"
    table.add_row(unit, *map(_ms, phases.values()))
    return table


def _facts(found: Mapping[str, Any]) -> Iterator[Text]:
    yield Text(
        f"{_flops(found['flops_per_s'])} in the networks, {found['share_of_peak']:.0%} of the "
        f"matrix peak, {_flops(found['matrix_peak_flops_per_s'])}"
    )
    memory = found["memory"]
    if "step_bytes" in memory:
        yield Text(
            f"memory {_gib(memory['step_bytes'])}, the floor's {_gib(memory['floor_bytes'])}: "
            f"{memory['step_over_floor']:.3f} times"
        )
    else:
        yield Text(f"memory of the process at its peak: {_gib(memory['process_peak_bytes'])}")
    if found["data_bound"] is not None:
        yield Text(f"waiting for image files: {found['data_bound']:.0%} of the time")


def _doubts(found: Mapping[str, Any]) -> Iterator[Text]:
    """Phases that do not add up to the step: the machine was disturbed in one of the two.

    On a GPU they need not, since augmentation lies beside the step before.
    """
    share = sum(found["phases_s"].values()) / found["step_s"]
    apart = found["device"]["kind"] == "cpu" and found["data_bound"] is None
    if apart and not 1 - DISTURBED < share < 1 + DISTURBED:
        yield Text(
            f"phases add up to {share:.2f} of the step: the machine was disturbed; measure again"
        )


def gains(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Of those measured at several precisions: what a lower one takes of fp32's time."""
    full = {_same(r): r["step_s"] for r in results if r["precision"] == "fp32"}
    for found in results:
        if found["precision"] != "fp32" and _same(found) in full:
            share = found["step_s"] / full[_same(found)]
            yield (
                f"\n{found['backbone']}, batch {found['batch']}: a {found['precision']} step takes "
                f"{share:.3f} of an fp32 step"
            )


def _same(found: Mapping[str, Any]) -> tuple[Any, ...]:
    return found["name"], found["backbone"], found["batch"], found["compile"]


def hours(projected: Mapping[tuple[str, str, str], Estimate]) -> Group:
    """The hours of each recipe of table 1, and from which measurement they are projected."""
    datasets = list(dict.fromkeys(dataset for _, dataset, _ in projected))
    table = _table("recipe's pretraining, hours", *datasets)
    for row in dict.fromkeys(row for row, _, _ in projected):
        cells = {d: e.gpu_hours for (r, d, _), e in projected.items() if r == row}
        table.add_row(row, *(number(cells[d]) if d in cells else "" for d in datasets))
    origins = dict.fromkeys(estimate.origin for estimate in projected.values())
    return Group(Text(""), table, *(Text(f"by {origin}") for origin in origins))


def commands(costs: Sequence[RunsCost]) -> Group:
    """Seconds of the commands by the number of runs."""
    table = _table("runs", "plan, s", "all done, s", "status, s", "report, s")
    for cost in costs:
        table.add_row(
            f"{cost.runs:,}", _s(cost.plan_s), _s(cost.planned_again_s), _s(cost.status_s),
            _s(cost.report_s),
        )  # fmt: skip
    return Group(Text(""), table, Text("whole commands, the program's start included"))


def losses(costs: Sequence[LossCost]) -> Group:
    """Milliseconds of both losses by the batch."""
    table = _table("batch", "InfoNCE, ms", "equivariance (16 splits), ms")
    for cost in costs:
        table.add_row(f"{cost.batch:,}", _ms(cost.info_nce_s), _ms(cost.equivariance_s))
    return Group(Text(""), table, Text("forward and backward, 128 dimensions"))


def ranks(costs: Sequence[RankCost], spec: PretrainSpec) -> Group:
    """Seconds of one batch's step by the ranks that share it."""
    table = _table("ranks", "images a rank", "step, s", "speed-up", "efficiency")
    for cost in costs:
        faster = costs[0].step_s / cost.step_s
        table.add_row(
            str(cost.ranks), str(cost.batch // cost.ranks), _s(cost.step_s), f"{faster:.2f}",
            f"{faster / cost.ranks:.0%}",
        )  # fmt: skip
    what = f"{spec.name}, {spec.model.backbone}, batch {spec.training.batch_size}"
    return Group(Text(""), table, Text(f"{what}; a thread or a GPU a rank"))


def exchanges(
    pairs: Sequence[tuple[Exchange, Exchange]], spec: PretrainSpec, step_s: float, origin: str
) -> Group:
    """The model of communication, said to be one."""
    from care_core.bench.communication import BETWEEN, INSIDE, NODE

    table = _table(
        "ranks", "gradients", "embeddings", "sync-BN", "ms", "of step", "ms, sync", "of step"
    )
    for plain, sync in pairs:
        table.add_row(
            str(plain.ranks), _mb(plain.gradients), _mb(plain.embeddings), _mb(sync.moments),
            _ms(plain.seconds), f"{plain.share:.1%}", _ms(sync.seconds), f"{sync.share:.1%}",
        )  # fmt: skip
    batch = spec.training.batch_size
    return Group(
        Text(""),
        table,
        Text(
            f"A model, not measured: {spec.name}, {spec.model.backbone}, batch {batch} a rank,\n"
            f"step {_ms(step_s)} ms ({origin}); {INSIDE / 1e9:.0f} GB/s within {NODE} ranks, "
            f"{BETWEEN / 1e9:.0f} beyond;\nMB that a rank sends; nothing hidden behind the backward"
        ),
    )


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", no_wrap=True)
    return table


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g}" if seconds < 1 else f"{seconds * 1000:.0f}"


def _s(seconds: float) -> str:
    return f"{seconds:.2f}" if seconds < 10 else f"{seconds:.0f}"


def _mb(count: float) -> str:
    return f"{count / 1e6:.3g} MB"


def _flops(rate: float) -> str:
    return f"{rate / 1e12:.3g} TFLOP/s" if rate >= 1e12 else f"{rate / 1e9:.3g} GFLOP/s"


def _gib(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"
