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
from care_core.spec import PretrainSpec
from care_core.stepping import Stepper
from care_core.views.feed import Feed

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    set_up("cuda", None)
    yield
    torch.cuda.set_sync_debug_mode("default")


def spec_of(method: str, precision: str = "fp32", compiled: str = "off") -> PretrainSpec:
    return tiny(
        method=METHODS[method] | ({"queue": 640} if method == "moco" else {}),
        training={"batch_size": 128, "precision": precision},
        launch={"compile": compiled},
    )


def trainer(spec: PretrainSpec, device: str) -> tuple[Feed, Stepper]:
    place = torch.device(device)
    images = data.load(spec.data, "pretrain", Path("data"))
    method = methods.build(spec, ALONE).to(place)
    return Feed(spec, images, ALONE, place), Stepper(spec, method, ALONE, place)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_never_waits_for_the_device(method: str, precision: str) -> None:
    feed, stepper = trainer(spec_of(method, precision), "cuda")
    for images in feed.steps(0, 2):  # the first ones set up what is set up once
        stepper.update(images, 1e-3, 0.1)
    torch.cuda.set_sync_debug_mode("error")
    for images in feed.steps(2, 5):
        terms = stepper.update(images, 1e-3, 0.1)
    torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(terms["loss"])


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
            [float(stepper.update(images, 1e-4, 0.1)["loss"]) for images in feed.steps(0, 6)]
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
