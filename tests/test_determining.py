"""What makes another run, and what does not: the settings that determine the weights."""

from __future__ import annotations

from typing import Any

import pytest

from care_core.spec import PretrainSpec


def determining(*changes: dict[str, Any]) -> dict[str, Any]:
    """Of a CIFAR10 run with the changes put over it, section by section."""
    fields: dict[str, Any] = {"name": "a", "data": {"name": "cifar10"}}
    for change in changes:
        for key, value in change.items():
            old = fields.get(key)
            fields[key] = {**old, **value} if isinstance(old, dict) and key != "method" else value
    return PretrainSpec.model_validate(fields).determining()


CARE = {"equivariance": {"weight": 0.1}}
RANKS = {"launch": {"gpus": 2}}
SYNC = {"bn": {"sync": True}}
MOCO = {"method": {"name": "moco"}}
BYOL = {"method": {"name": "byol"}}
SGD = {"optimizer": {"name": "sgd"}}
UNIFORM = {"loss": {"uniformity": 1.0}}

NO_EFFECT: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "name": ([], {"name": "b"}),
    "log": ([], {"log": {"every_steps": 3}}),
    "how often it saves": ([], {"checkpoint": {"every_epochs": 7, "keep": "all"}}),
    "probe": ([], {"probe": {"linear": {"epochs": 3}}}),
    "monitor": ([], {"monitor": {"every_epochs": 0, "k": 3}}),
    "launch": ([], {"launch": {"partition": "gpu", "threads": 3}}),
    "unreadable files": ([], {"data": {"unreadable": "skip"}}),
    "the set's own size": ([], {"data": {"image_size": 32}}),
    "the set's own mean": ([], {"data": {"mean": [0.4914, 0.4822, 0.4465]}}),
    "the stem that it has anyway": ([], {"model": {"stem": "cifar"}}),
    "splits without the term": ([], {"equivariance": {"splits": 4, "shared_by": "step"}}),
    "the whole batch": ([CARE], {"equivariance": {"batch": 256}}),
    "Adam's momentum": ([{"optimizer": {"name": "adam"}}], {"optimizer": {"momentum": 0.5}}),
    "trust without LARS": ([SGD], {"optimizer": {"trust": 0.1}}),
    "gamma without steps": ([], {"schedule": {"gamma": 0.5}}),
    "synchronising one rank": ([], SYNC),
    "negatives of one rank": ([], {"loss": {"negatives": "local"}}),
    "draws of one rank": ([], {"augment": {"ranks": "alike"}}),
    "form without terms": ([], {"loss": {"form": "official", "temperature": 0.1}}),
    "temperature of the paper's form": ([UNIFORM], {"loss": {"temperature": 0.1}}),
    "ranks of one function": ([SYNC], RANKS),
    "ranks of one function with CARE": ([SYNC, CARE], RANKS),
    "MoCo's negatives over ranks": ([MOCO, RANKS], {"loss": {"negatives": "local"}}),
    "BYOL's negatives over ranks": ([BYOL, RANKS], {"loss": {"negatives": "local"}}),
    "hidden units without hidden layers": (
        [{"model": {"projector_layers": 1}}],
        {"model": {"hidden": 9, "projector_norm": False}},
    ),
    "how a check that never runs selects": (
        [{"fidelity": "official", "monitor": {"every_epochs": 0}}],
        {"checkpoint": {"select": "last"}},
    ),
}

AN_EFFECT: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "seed": ([], {"seed": 1}),
    "data": ([], {"data": {"name": "cifar100"}}),
    "size": ([], {"data": {"image_size": 24}}),
    "mean": ([], {"data": {"mean": [0.5, 0.5, 0.5]}}),
    "stem": ([], {"model": {"stem": "imagenet"}}),
    "λ": ([CARE], {"equivariance": {"weight": 0.2}}),
    "crop": ([CARE], {"equivariance": {"crop": False}}),
    "sharing": ([CARE], {"equivariance": {"shared_by": "step"}}),
    "part of the batch": ([CARE], {"equivariance": {"batch": 128}}),
    "views": ([], {"bn": {"views": "together"}}),
    "parts": ([], {"bn": {"replicas": 2}}),
    "ranks": ([], RANKS),
    "synchronising ranks": ([RANKS], SYNC),
    "negatives of ranks": ([RANKS, SYNC], {"loss": {"negatives": "local"}}),
    "draws of ranks": ([RANKS, SYNC], {"augment": {"ranks": "alike"}}),
    "negatives that uniformity compares": ([MOCO, RANKS, UNIFORM],
                                           {"loss": {"negatives": "local"}}),
    "sharing by so many of a rank's": ([RANKS, SYNC, CARE, {"equivariance": {"shared_by": 32}}],
                                       {"launch": {"gpus": 4}}),
    "SGD's momentum": ([SGD], {"optimizer": {"momentum": 0.5}}),
    "LARS's trust": ([{"optimizer": {"name": "lars"}}], {"optimizer": {"trust": 0.1}}),
    "form": ([UNIFORM], {"loss": {"form": "official"}}),
    "its temperature": ([UNIFORM, {"loss": {"form": "official"}}], {"loss": {"temperature": 0.1}}),
    "SimCLR's temperature": ([], {"method": {"name": "simclr", "temperature": 0.1}}),
    "method": ([], MOCO),
    "leaving out what is not finite": ([], {"training": {"on_nan": "skip"}}),
    "MoCo's queue": ([MOCO], {"method": {"name": "moco", "queue": 512}}),
    "MoCo's momentum": ([MOCO], {"method": {"name": "moco", "momentum": 0.9}}),
    "shuffling over ranks": ([MOCO, RANKS], {"method": {"name": "moco", "shuffle_bn": False}}),
    "shuffling over parts": ([MOCO, {"bn": {"replicas": 8}}],
                             {"method": {"name": "moco", "shuffle_bn": False}}),
    "Barlow's λ": ([{"method": {"name": "barlow"}}],
                   {"method": {"name": "barlow", "off_diagonal": 0.1}}),
    "BYOL's predictor": ([BYOL], {"method": {"name": "byol", "hidden": 9}}),
    "EquiMod's base": ([{"method": {"name": "equimod"}}],
                       {"method": {"name": "equimod", "base": {"name": "byol"}}}),
    "EquiMod's module": ([{"method": {"name": "equimod"}}],
                         {"method": {"name": "equimod", "weight": 0.5}}),
    "MoCo's keys beside a term": ([MOCO, {"loss": {"method": 0, "alignment": 1.0}}],
                                  {"method": {"name": "moco", "momentum": 0.9}}),
    "statistics that a check leaves": ([{"fidelity": "official"}],
                                       {"monitor": {"train_mode": True}}),
    "what a check selects": ([{"fidelity": "official"}], {"checkpoint": {"select": "last"}}),
    "how a check selects": ([{"fidelity": "official"}], {"monitor": {"k": 3}}),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_EFFECT)
def test_what_has_no_effect_makes_no_other_run(name: str) -> None:
    base, change = NO_EFFECT[name]
    assert determining(*base, change) == determining(*base)


@pytest.mark.parametrize("name", AN_EFFECT)
def test_what_has_an_effect_makes_another_run(name: str) -> None:
    base, change = AN_EFFECT[name]
    assert determining(*base, change) != determining(*base)


@pytest.mark.parametrize("base", [[], [RANKS, SYNC]])
def test_shuffling_what_one_batch_norm_sees_makes_no_other_run(base: list[dict[str, Any]]) -> None:
    still = {"method": {"name": "moco", "shuffle_bn": False}}
    assert determining(*base, still) == determining(*base, MOCO)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"name": "simclr"}, {"name": "simclr", "temperature": 0.1}),
        ({"name": "barlow"}, {"name": "barlow", "off_diagonal": 0.1}),
        ({"name": "byol"}, {"name": "byol", "momentum": 0.5, "hidden": 9}),
    ],
)
def test_a_method_without_weight_has_no_settings_of_its_own(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    ablated = {"loss": {"method": 0, "uniformity": 1.0}}
    assert determining(ablated, {"method": one}) == determining(ablated, {"method": other})
