"""What only a GPU can show: no step waits for it, and what it computes is what a CPU does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import tiny
from methodical import METHODS

from care_core import data, methods, pretrain
from care_core.device import set_up
from care_core.distributed import ALONE
from care_core.errors import CareError
from care_core.graphs import WARM_UP
from care_core.spec import Optimizer, PretrainSpec
from care_core.stepping import Stepper
from care_core.views.feed import Feed

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    set_up("cuda", None)
    yield
    torch.cuda.set_sync_debug_mode("default")


def spec_of(
    method: str, precision: str = "fp32", compiled: str = "off", graphs: bool = True
) -> PretrainSpec:
    return tiny(
        method=METHODS[method] | ({"queue": 640} if method == "moco" else {}),
        training={"batch_size": 128, "precision": precision},
        bn={"replicas": 2 if method == "moco" else 1},  # its keys are shuffled
        launch={"compile": compiled, "cuda_graphs": graphs},
    )


def trainer(spec: PretrainSpec, device: str) -> tuple[Feed, Stepper]:
    place = torch.device(device)
    images = data.load(spec.data, "pretrain", Path("data"))
    method = methods.build(spec, ALONE).to(place)
    return Feed(spec, images, ALONE, place), Stepper(spec, method, ALONE, place)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_never_waits_for_the_device(method: str, precision: str) -> None:
    feed, stepper = trainer(spec_of(method, precision, graphs=False), "cuda")
    for images in feed.steps(0, 2):  # the first ones set up what is set up once
        stepper.update(images, 1e-3, 0.1)
    torch.cuda.set_sync_debug_mode("error")
    for images in feed.steps(2, 5):
        terms = stepper.update(images, 1e-3, 0.1)
    torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(terms["loss"])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", METHODS)
def test_recorded_steps_are_those_that_are_launched(method: str, precision: str) -> None:
    """Bitwise: weights, moments, statistics, slow copies, queues, and every term on the way."""
    ends = []
    for graphs in (False, True):
        feed, stepper = trainer(spec_of(method, precision, graphs=graphs), "cuda")
        # the same views for both: the recorded augmentation may round otherwise
        views = feed if not ends else ends[0][0]
        losses = []
        for images in views.steps(0, WARM_UP + 4):
            if images.number == WARM_UP + 2:
                torch.cuda.set_sync_debug_mode("error")
            terms = stepper.update(images, 1e-3 / (1 + images.number), images.number / 10)
            losses.append(torch.stack(list(terms.values())))
        torch.cuda.set_sync_debug_mode("default")
        assert (stepper.recorded.graph is not None) == graphs
        ends.append((feed, torch.stack(losses), stepper))
    (_, terms, one), (_, others, other) = ends
    assert torch.equal(terms, others)
    mine, theirs = one.method.state_dict(), other.method.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    pairs = zip(one.optimizer.state.values(), other.optimizer.state.values(), strict=True)
    assert all(torch.equal(a[key], b[key]) for a, b in pairs for key in a)


@pytest.mark.parametrize("method", ["simclr", "moco"])
def test_recorded_views_and_updates_together_are_the_same_every_time(method: str) -> None:
    """As training has them, two graphs on two streams."""
    ends = []
    for _ in range(2):
        feed, stepper = trainer(spec_of(method), "cuda")
        for images in feed.steps(0, WARM_UP + 30):
            if images.number == WARM_UP + 2:
                torch.cuda.set_sync_debug_mode("error")
            stepper.update(images, 1e-3, 0.1)
        torch.cuda.set_sync_debug_mode("default")
        ends.append(stepper.method.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_step_that_is_looked_into_is_recorded_anew() -> None:
    feed, stepper = trainer(spec_of("moco"), "cuda")
    *others, last, after = feed.steps(0, WARM_UP + 4)
    for images in others:
        stepper.update(images, 1e-3, 0.1)
    with stepper.recorded.launched():
        stepper.update(last, 1e-3, 0.1)
    stepper.update(after, 1e-3, 0.1)
    place = (int(stepper.method.pointer) - 128) % 640  # type: ignore[operator, arg-type]
    assert stepper.recorded.graph is not None
    keys = stepper.method.queue[place : place + 128]  # type: ignore[index]
    assert torch.equal(keys, stepper.method.fresh)  # type: ignore[arg-type]


def test_sgds_recorded_updates_follow_the_learning_rate() -> None:
    ends = []
    for graphs in (False, True):
        spec = spec_of("simclr", graphs=graphs)
        momentum = Optimizer(name="sgd", lr=0.1, momentum=0.9)
        feed, stepper = trainer(spec.model_copy(update={"optimizer": momentum}), "cuda")
        views = feed if not ends else ends[0][0]
        for images in views.steps(0, WARM_UP + 4):
            stepper.update(images, 0.1 / (1 + images.number), 0.1)
        ends.append((feed, stepper.method.encoder.state_dict()))
    # launched it takes the rate as a Python float, recorded as one of 32 bits
    for name, value in ends[0][1].items():
        torch.testing.assert_close(ends[1][1][name], value, rtol=1e-3, atol=1e-5)


def test_a_recorded_step_that_is_not_finite_changes_nothing() -> None:
    feed, stepper = trainer(spec_of("moco"), "cuda")
    for images in feed.steps(0, WARM_UP + 2):
        stepper.update(images, 1e-3, 0.1)
    before = {name: value.clone() for name, value in stepper.method.state_dict().items()}
    images = next(feed.steps(WARM_UP + 2, WARM_UP + 3))
    images.views[0][0, 0, 0, 0] = torch.nan
    stepper.update(images, 1e-3, 0.1)
    after = stepper.method.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [int(count) for count in stepper.guard.counts()] == [WARM_UP + 3, 1, 1]
    stepper.update(next(feed.steps(WARM_UP + 3, WARM_UP + 4)), 1e-3, 0.1)
    assert [int(count) for count in stepper.guard.counts()] == [WARM_UP + 3, 1, 0]


@pytest.mark.parametrize("method", ["simclr", "equimod of simclr"])
def test_recorded_views_are_those_that_are_launched(method: str) -> None:
    recorded = trainer(spec_of(method), "cuda")[0].steps(0, WARM_UP + 4)
    launched = trainer(spec_of(method, graphs=False), "cuda")[0].steps(0, WARM_UP + 4)
    for one, other in zip(recorded, launched, strict=True):
        for a, b in zip(one.tensors, other.tensors, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
            assert a.is_contiguous(memory_format=torch.channels_last) or a.ndim == 3


@pytest.mark.parametrize("method", METHODS)
def test_views_losses_and_gradients_are_those_of_a_cpu(method: str) -> None:
    found = []
    for device in ("cpu", "cuda"):
        feed, stepper = trainer(spec_of(method), device)
        images = next(feed.steps(3, 4))
        terms = stepper.backward(images)
        gradients = [p.grad.flatten() for p in stepper.method.parameters() if p.grad is not None]
        found.append(
            (torch.cat([*images.views, *images.pair]).cpu(), terms["loss"].cpu(),
             torch.cat(gradients).cpu())
        )  # fmt: skip
    (views, loss, gradient), (other_views, other_loss, other_gradient) = found
    torch.testing.assert_close(other_views, views, rtol=0, atol=1e-4)
    torch.testing.assert_close(other_loss, loss, rtol=1e-4, atol=0)
    assert float((other_gradient - gradient).norm() / gradient.norm()) < 1e-2


@pytest.mark.parametrize("compiled", ["default", "max-autotune"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_steps_are_the_same_function(compiled: str, precision: str) -> None:
    """Several steps: a CUDA graph is recorded in the first ones and replayed in the others."""
    losses = []
    for how in ("off", compiled):
        feed, stepper = trainer(spec_of("simclr", precision, how), "cuda")
        losses.append(
            [float(stepper.update(images, 1e-4, 0.1)["loss"]) for images in feed.steps(0, 7)]
        )
    bound = 1e-3 if precision == "fp32" else 2e-2
    assert losses[1] == pytest.approx(losses[0], rel=bound)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_an_interrupted_run_goes_on_bitwise(precision: str, tmp_path: Path) -> None:
    spec = spec_of("simclr", precision)
    whole = pretrain(spec, tmp_path / "whole")
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) == 7

    with pytest.raises(CareError):
        pretrain(spec, tmp_path / "cut", stop=stop)
    assert pretrain(spec, tmp_path / "cut")["weights_sha256"] == whole["weights_sha256"]
