"""Ranks train as one process with all their images would: every method, term and batch norm.

Gradients of all that is trained, running statistics, and what three updates make of weights, EMA
copies, queue and pointer. In float64, on views whose mean differs from rank to rank.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny
from ranks import Launch, ask, meet
from torch import Tensor

from care_core import methods
from care_core.distributed import World
from care_core.methods import Step
from care_core.optim import build_optimizer
from care_core.spec import PretrainSpec
from care_core.spec.sections import Optimizer
from care_core.views.transform import NUMBERS

BATCH, SIDE, STEPS = 24, 8, 3
CARE = {"weight": 0.3, "splits": 6}
SIMCLR = {"name": "simclr", "temperature": 0.2}
MOCO = {"name": "moco", "queue": 96, "momentum": 0.9, "shuffle_bn": False}
BYOL = {"name": "byol", "momentum": 0.9, "hidden": 16}
MODULE = {"name": "equimod", "hidden": 16, "embedding": 8}
ABLATION = {"alignment": 0.5, "uniformity": 0.7}

#: What is compared, each with both settings of bn.views.
CASES: dict[str, dict[str, Any]] = {
    "simclr": {"method": SIMCLR},
    "care-simclr": {"method": SIMCLR, "equivariance": CARE},
    "care-simclr of half the images": {"method": SIMCLR, "equivariance": {**CARE, "batch": 12}},
    "moco": {"method": MOCO},
    "care-moco": {"method": MOCO, "equivariance": CARE},
    "barlow": {"method": {"name": "barlow"}},
    "care-barlow": {"method": {"name": "barlow"}, "equivariance": CARE},
    "byol": {"method": BYOL},
    "care-byol": {"method": BYOL, "equivariance": CARE},
    "equimod of simclr": {"method": {**MODULE, "base": SIMCLR}},
    "equimod of byol": {"method": {**MODULE, "base": BYOL}},
    "terms alone": {"loss": {"method": 0, **ABLATION}, "equivariance": CARE},
    "official terms alone": {"loss": {"method": 0, "form": "official", **ABLATION}},
    "moco with terms": {"method": MOCO, "loss": ABLATION},
    "moco with official terms": {"method": MOCO, "loss": {"form": "official", **ABLATION}},
    "byol with terms": {"method": BYOL, "loss": ABLATION, "equivariance": CARE},
    "barlow with official terms": {
        "method": {"name": "barlow"}, "loss": {"form": "official", **ABLATION}
    },
}  # fmt: skip

#: What three ranks do as well.
THREE = ("care-simclr of half the images", "care-moco", "barlow", "equimod of byol", "terms alone")

#: Settings under which ranks are another function than one process: proof that a test sees it.
BROKEN: dict[str, dict[str, Any]] = {
    "own statistics": {"bn": {"sync": False}},
    "local negatives": {"loss": {"negatives": "local"}},
}


def spec_of(case: dict[str, Any], views: str, broken: str = "") -> PretrainSpec:
    fields = {"equivariance": {"weight": 0}, **case, "training": {"batch_size": BATCH}}
    fields["bn"] = {"sync": True, "views": views}
    for section, changes in BROKEN.get(broken, {}).items():
        fields[section] = {**fields.get(section, {}), **changes}
    return tiny(**fields)


def all_specs() -> dict[str, PretrainSpec]:
    found = {}
    for name, case in CASES.items():
        for views in ("separate", "together"):
            for broken in ("", *BROKEN) if views == "separate" else ("",):
                found["/".join((name, views, broken))] = spec_of(case, views, broken)
    return found


def step(number: int, spec: PretrainSpec, world: World) -> Step:
    """A rank's share of a step, the images of which grow brighter with their position."""
    source = torch.Generator().manual_seed(number)
    rising = torch.linspace(-1, 2, BATCH, dtype=torch.float64).view(-1, 1, 1, 1)
    fed = spec.equivariance_batch if spec.equivariance.weight else 0

    def images(count: int) -> Tensor:
        noise = torch.randn(count, 3, SIDE, SIDE, generator=source, dtype=torch.float64)
        return (noise + rising[:: BATCH // count])[world.share(count)]

    return Step(
        number,
        [images(BATCH) for _ in range(2)],
        [images(fed) for _ in range(2)] if fed else [],
        images(BATCH),
        torch.randn(2, BATCH, NUMBERS, generator=source).double()[:, world.share(BATCH)],
    )


def trained(rank: int, size: int, folder: Path, specs: dict[str, str]) -> dict[str, Any]:
    """The first step's gradients and statistics, and the state after some updates, by case."""
    world = meet(rank, size, folder)
    found = {}
    for name, text in specs.items():
        spec = PretrainSpec.model_validate_json(text)
        method = methods.build(spec, world).double()
        parallel = world.parallel(method)
        optimizer = build_optimizer(Optimizer(name="sgd", lr=0.1, momentum=0.5), method)
        first: dict[str, Tensor] = {}
        for number in range(STEPS if name.endswith("/") else 1):  # of what is broken, the first one
            method.before_step(number)
            loss, _ = parallel(step(number, spec, world))
            optimizer.zero_grad()
            loss.backward()
            if not first:
                first = {k: p.grad.clone() for k, p in method.named_parameters() if p.requires_grad}
                first |= {k: b.clone() for k, b in method.named_buffers() if "running" in k}
            optimizer.step()
            method.after_step((number + 1) / 8)
        found[name] = {"first": first, "last": method.state_dict()}
    world.close()
    return found


Found = dict[int, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def found(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What one process and each of several ranks make of all cases, by the number of ranks."""
    folder = tmp_path_factory.mktemp("parity")
    specs = {name: spec.model_dump_json() for name, spec in all_specs().items()}
    whole = {name: text for name, text in specs.items() if name.endswith("/")}
    some = {name: text for name, text in whole.items() if name.partition("/")[0] in THREE}
    return {
        size: ask(launch, trained, size, folder / str(size), specs=cases)
        for size, cases in ((1, whole), (2, specs), (3, some))
    }


def off(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    """How far each tensor is off, as a share of its size, beside which rounding is forgiven."""
    assert ours.keys() == theirs.keys() and ours
    return {
        key: float((ours[key].double() - value.double()).norm() / (value.double().norm() + 1e-6))
        for key, value in theirs.items()
    }


@pytest.mark.parametrize("views", ["separate", "together"])
@pytest.mark.parametrize("name", CASES)
def test_ranks_are_one_process_with_all_their_images(found: Found, name: str, views: str) -> None:
    case = f"{name}/{views}/"
    wanted = found[1][0][case]
    weights = [v for k, v in wanted["first"].items() if v.ndim > 1]
    assert all(float(gradient.norm()) > 1e-4 for gradient in weights)
    for size in (2, 3) if name in THREE else (2,):
        for rank in found[size]:
            for part in ("first", "last"):
                errors = off(rank[case][part], wanted[part])
                worst = max(errors, key=errors.__getitem__)
                assert errors[worst] <= 1e-8, f"{part} {worst}: {errors[worst]:.1e}"


@pytest.mark.parametrize("name", CASES)
def test_without_synchronised_batch_norm_they_are_not(found: Found, name: str) -> None:
    wanted, (rank, _) = found[1][0][f"{name}/separate/"], found[2]
    errors = off(rank[f"{name}/separate/own statistics"]["first"], wanted["first"])
    assert errors["encoder.backbone.0.weight"] > 1e-2
    assert errors["encoder.backbone.1.running_mean"] > 1e-2


@pytest.mark.parametrize("name", CASES)
def test_with_local_negatives_they_are_not_where_images_are_compared(
    found: Found, name: str
) -> None:
    case, spec = f"{name}/separate/local negatives", spec_of(CASES[name], "separate")
    wanted, (rank, _) = found[1][0][f"{name}/separate/"], found[2]
    errors = off(rank[case]["first"], wanted["first"])
    assert (errors["encoder.backbone.0.weight"] > 1e-3) == spec.compares
    if not spec.compares:
        assert max(errors.values()) <= 1e-5


def test_updates_moved_all_that_is_compared(found: Found) -> None:
    """EMA copies, queue, pointer and statistics: a copy that stands still would prove nothing."""
    fresh = methods.build(spec_of(CASES["moco"], "separate"), World()).state_dict()
    last = found[1][0]["moco/separate/"]["last"]
    assert last["pointer"] == STEPS * BATCH
    untouched = [key for key, value in fresh.items() if torch.equal(value.double(), last[key])]
    assert untouched == []
    rows = (last["queue"] - fresh["queue"].double()).norm(dim=1) > 1e-3
    assert rows.tolist() == [True] * STEPS * BATCH + [False] * (96 - STEPS * BATCH)
    fresh = methods.build(spec_of(CASES["byol"], "separate"), World()).state_dict()
    last = found[1][0]["byol/separate/"]["last"]
    assert all(not torch.equal(last[key], value.double()) for key, value in fresh.items())
