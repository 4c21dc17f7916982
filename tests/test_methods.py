"""Each method against an independent oracle: lightly's losses, closed forms, literal loops."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from lightly.loss import BarlowTwinsLoss, NTXentLoss
from methodical import METHODS, method_of, rows, step, update
from torch import nn
from torch.nn import functional as F

from care_core.methods.equimod import EquiMod
from care_core.optim import build_optimizer
from care_core.spec.sections import Optimizer
from care_core.views.transform import NUMBERS


def test_simclr_is_lightlys() -> None:
    method = method_of("simclr")
    encoder, given = copy.deepcopy(method.encoder), step()
    loss, terms = method(given)
    loss.backward()
    wanted = NTXentLoss(temperature=0.2)(*(rows(encoder, view) for view in given.views))
    wanted.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert terms["info_nce"] == terms["loss"] == loss.detach()
    for (name, ours), theirs in zip(
        method.encoder.named_parameters(), encoder.parameters(), strict=True
    ):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-10, msg=name)


def test_barlow_twins_is_lightlys() -> None:
    method = method_of("barlow")
    encoder, given = copy.deepcopy(method.encoder), step()
    loss, terms = method(given)
    loss.backward()
    oracle = BarlowTwinsLoss(lambda_param=0.02)
    wanted = oracle(*(rows(encoder, view) for view in given.views))
    wanted.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    total = float(terms["invariance"] + 0.02 * terms["redundancy"])
    assert total == pytest.approx(loss.item(), rel=1e-6)
    first, second = method.encoder.backbone[0].weight.grad, encoder.backbone[0].weight.grad
    torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-10)


def test_moco_is_lightlys_with_its_memory_bank_and_a_key_encoder_step_by_step() -> None:
    """Five steps around a queue of three batches: its own keys come back as negatives."""
    method = method_of("moco")
    queries = copy.deepcopy(method.encoder)
    keys = copy.deepcopy(method.encoder)
    oracle = NTXentLoss(temperature=0.1, memory_bank_size=(48, 8))
    oracle.memory_bank.bank = method.queue.clone()
    oracle.memory_bank.bank_ptr = torch.zeros(1, dtype=torch.int64)
    optimizer = torch.optim.SGD(queries.parameters(), lr=0.5)
    for number in range(5):
        given = step(number)
        loss, _ = method(given)
        with torch.no_grad():
            key = rows(keys, given.views[1])
        wanted = oracle(rows(queries, given.views[0]), key)
        assert loss.item() == pytest.approx(wanted.item(), rel=1e-6), number
        update(method, loss, 0.0)
        optimizer.zero_grad()
        wanted.backward()
        optimizer.step()
        with torch.no_grad():
            for mine, theirs in zip(keys.parameters(), queries.parameters(), strict=True):
                mine.copy_(0.9 * mine + 0.1 * theirs)
        torch.testing.assert_close(method.queue, oracle.memory_bank.bank, rtol=1e-6, atol=1e-9)
        assert int(method.pointer) == int(oracle.memory_bank.bank_ptr) == 16 * (number + 1) % 48
    for (name, ours), wanted in zip(
        method.keys.state_dict().items(), keys.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(ours, wanted, rtol=1e-6, atol=1e-9, msg=name)


def test_byol_is_two_minus_two_cosines_to_the_other_views_target() -> None:
    method = method_of("byol")
    with torch.no_grad():  # else online and target are the same network
        for weight in method.target.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, dtype=weight.dtype))
    online, target = copy.deepcopy(method.encoder), copy.deepcopy(method.target)
    predictor, given = copy.deepcopy(method.predictor), step()
    loss, _ = method(given)
    loss.backward()
    total = torch.zeros((), dtype=torch.float64)
    said = [predictor(rows(online, view)) for view in given.views]
    goals = [rows(target, view).detach() for view in given.views]
    for n in range(2):
        q, z = said[n], goals[1 - n]
        total = total + (2 - 2 * F.cosine_similarity(q, z)).mean()
    total.backward()
    assert loss.item() == pytest.approx(total.item(), rel=1e-6)
    torch.testing.assert_close(
        method.encoder.backbone[0].weight.grad, online.backbone[0].weight.grad,
        rtol=1e-6, atol=1e-10,
    )  # fmt: skip
    assert all(weight.grad is None for weight in method.target.parameters())
    for name, value in method.target.named_buffers():  # its batch norm is its own
        torch.testing.assert_close(value, target.get_buffer(name), msg=name)


def test_byols_target_rises_from_its_base_to_one_by_half_a_cosine() -> None:
    method, weights = method_of("byol"), []
    target = [p.clone() for p in method.target.parameters()]
    for done in range(1, 5):
        loss, _ = method(step(done))
        update(method, loss, done / 4)
        momentum = 1 - (1 - 0.9) * (math.cos(math.pi * done / 4) + 1) / 2
        weights.append(momentum)
        target = [
            momentum * old + (1 - momentum) * new
            for old, new in zip(target, method.encoder.parameters(), strict=True)
        ]
    assert weights == sorted(weights) and weights[-1] == 1
    for ours, wanted in zip(method.target.parameters(), target, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-12, atol=1e-15)


def test_a_copy_of_a_still_encoder_nears_it_by_the_power_of_the_momentum() -> None:
    method = method_of("moco")
    start = [p.clone() for p in method.keys.parameters()]
    with torch.no_grad():
        for weight in method.encoder.parameters():
            weight.add_(1)
    for number in range(7):
        method(step(number))
        method.after_step(0.5)
    for before, now, goal in zip(
        start, method.keys.parameters(), method.encoder.parameters(), strict=True
    ):
        torch.testing.assert_close(now, goal + 0.9**7 * (before - goal), rtol=1e-9, atol=1e-12)


def linear_layers(network: nn.Module) -> list[tuple[int, int, bool]]:
    found = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    return [(layer.in_features, layer.out_features, layer.bias is not None) for layer in found]


def test_equimods_module_has_the_layers_of_its_authors() -> None:
    method = method_of("equimod of simclr")
    assert isinstance(method, EquiMod)
    assert linear_layers(method.projector) == [(32, 16, False), (16, 16, False), (16, 6, False)]
    assert linear_layers(method.described) == [(NUMBERS, 6, False)]
    assert linear_layers(method.predictor) == [(12, 6, False)]
    ends = [network[-1] for network in (method.projector, method.described, method.predictor)]
    assert [end.affine for end in ends] == [False, True, False]


def test_equimod_predicts_each_views_embedding_from_the_images_and_the_numbers() -> None:
    method = method_of("equimod of simclr", method={**METHODS["equimod of simclr"], "weight": 0.75})
    assert isinstance(method, EquiMod)
    fresh, given = copy.deepcopy(method), step()
    loss, terms = method(given)
    loss.backward()
    assert given.plain is not None and given.parameters is not None
    image = fresh.projector(fresh.encoder.backbone(given.plain))
    features = [fresh.encoder.backbone(view) for view in given.views]
    truth = torch.cat([fresh.projector(f) for f in features])
    numbers = [fresh.described(p) for p in given.parameters]
    guess = torch.cat([fresh.predictor(torch.cat([image, p], dim=1)) for p in numbers])
    module = NTXentLoss(temperature=0.2)(truth, guess)
    base = NTXentLoss(temperature=0.5)(*(fresh.encoder.projector(f) for f in features))
    (base + 0.75 * module).backward()
    assert float(terms["module"]) == pytest.approx(module.item(), rel=1e-6)
    assert float(terms["info_nce"]) == pytest.approx(base.item(), rel=1e-6)
    assert loss.item() == pytest.approx((base + 0.75 * module).item(), rel=1e-6)
    for (name, ours), theirs in zip(method.named_parameters(), fresh.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-10, msg=name)


@pytest.mark.parametrize("name", ["equimod of simclr", "equimod of byol"])
def test_equimods_base_trains_the_same_encoder(name: str) -> None:
    method = method_of(name)
    assert isinstance(method, EquiMod)
    assert method.base.encoder is method.encoder
    names = [key for key, _ in method.named_parameters()]
    assert not [key for key in names if key.startswith("base.encoder.")]


@pytest.mark.parametrize("name", METHODS)
def test_weights_come_from_the_seed_alone_and_the_global_generator_is_left(name: str) -> None:
    torch.manual_seed(1)
    outside = torch.get_rng_state()
    first = method_of(name).state_dict()
    assert torch.equal(torch.get_rng_state(), outside)
    torch.manual_seed(2)
    again, other = method_of(name).state_dict(), method_of(name, seed=1).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    drawn = [key for key, value in first.items() if value.ndim > 1]
    assert drawn
    assert not any(torch.equal(first[key], other[key]) for key in drawn)


@pytest.mark.parametrize(("name", "copied"), [("moco", "keys"), ("byol", "target")])
def test_a_copy_starts_as_the_encoder_and_is_not_trained(name: str, copied: str) -> None:
    method = method_of(name)
    made = method.get_submodule(copied)
    encoder = method.encoder.state_dict()
    assert all(torch.equal(value, encoder[key]) for key, value in made.state_dict().items())
    assert not any(p.requires_grad for p in made.parameters())
    trained = {
        id(p) for g in build_optimizer(Optimizer(), method).param_groups for p in g["params"]
    }
    assert trained.isdisjoint(id(p) for p in made.parameters())
    assert trained >= {id(p) for p in method.encoder.parameters()}


def test_mocos_first_negatives_are_unit_rows() -> None:
    queue = method_of("moco").queue
    assert queue.shape == (48, 8)
    torch.testing.assert_close(queue.norm(dim=1), torch.ones(48, dtype=torch.float64))
    assert queue.mean(dim=0).norm() < 0.3  # all around


@pytest.mark.parametrize("name", METHODS)
def test_the_encoder_and_the_methods_own_state_are_all_of_it(name: str) -> None:
    """What a checkpoint holds puts a fresh method where another one was."""
    method, other = method_of(name), method_of(name, seed=1)
    loss, _ = method(step())
    update(method, loss, 0.5)
    own = method.own_state()
    assert not [key for key in own if key.startswith(("encoder.", "base.encoder."))]
    other.encoder.load_state_dict(method.encoder.state_dict())
    other.load_own_state(own)
    wanted = method.state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in other.state_dict().items())
    assert torch.equal(method(step(1))[0], other(step(1))[0])
