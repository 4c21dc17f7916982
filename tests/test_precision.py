"""What a lower precision and a compiler may change: rounding, within stated bounds, and no more.

The truth is the same method in float64. Gradients are compared as one vector. The bounds are some
twice what was measured; they are wide for a half precision because the images are noise and the
network is tiny and untrained, so that gradients are small differences of large sums.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FAST, tiny
from methodical import METHODS, step
from torch import Tensor, nn

from care_core import augment, batchnorm, draws, losses, methods, models, pretrain
from care_core.arrangement import arrange
from care_core.device import set_up
from care_core.distributed import ALONE
from care_core.errors import CareError
from care_core.methods import Step
from care_core.precision import autocast
from care_core.spec import PretrainSpec
from care_core.spec.sections import BatchNorm
from care_core.stepping import Stepper

CPU = torch.device("cpu")
CARE = {"weight": 0.1, "splits": 4}
#: Relative errors of (loss, gradient), and of batch norm's outputs and statistics.
BOUNDS = {"fp32": (1e-5, 2e-3), "bf16": (5e-2, 0.5), "fp16": (1e-3, 0.3)}
PASSES = {"fp32": 1e-5, "bf16": 2e-2, "fp16": 3e-3}


def spec_of(method: str, precision: str, compiled: str = "off") -> PretrainSpec:
    return tiny(
        method=METHODS[method],
        equivariance=CARE,
        training={"batch_size": 16, "precision": precision},
        launch={"threads": 1, "compile": compiled},
    )


def stepper_of(spec: PretrainSpec, *, exact: bool = False) -> Stepper:
    method = methods.build(spec, ALONE)
    return Stepper(spec, method.double() if exact else method, ALONE, CPU)


def images(exact: bool = False) -> Step:
    """Two views and a pair, which is two more."""
    made, more = step(0), step(1)
    made = made._replace(pair=more.views)
    if exact:
        return made

    def lower(tensor: Tensor) -> Tensor:
        return tensor.float().contiguous(memory_format=torch.channels_last)

    assert made.plain is not None and made.parameters is not None
    return made._replace(
        views=[lower(view) for view in made.views],
        pair=[lower(view) for view in made.pair],
        plain=lower(made.plain),
        parameters=made.parameters.float(),
    )


def gradient(stepper: Stepper, given: Step, scale: float = 1.0) -> tuple[float, Tensor]:
    """The loss, and the gradient of all that is trained as one vector."""
    terms = stepper.backward(given)
    found = [p.grad.double().flatten() for p in stepper.method.parameters() if p.grad is not None]
    return float(terms["loss"]), torch.cat(found) / scale


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("method", METHODS)
def test_a_precision_changes_loss_and_gradient_within_its_bounds(
    method: str, precision: str
) -> None:
    truth, exact = gradient(stepper_of(spec_of(method, "fp32"), exact=True), images(exact=True))
    stepper = stepper_of(spec_of(method, precision))
    if precision == "fp16":
        stepper.scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    loss, found = gradient(stepper, images(), 256.0 if precision == "fp16" else 1.0)
    of_loss, of_gradient = BOUNDS[precision]
    assert abs(loss / truth - 1) < of_loss
    error = float((found - exact).norm() / exact.norm())
    assert error < of_gradient
    if precision != "fp32":  # and it was used
        assert error > BOUNDS["fp32"][1]
    for parameter in stepper.method.parameters():
        assert parameter.dtype == torch.float32


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.long)])
def test_compiled_networks_are_the_same_function(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is captured of them, run as it is; in the long suite as the compiler's code, too."""
    compiler = torch.compile

    def compiled(network: nn.Module, mode: str, dynamic: bool) -> Any:
        how: dict[str, Any] = {"mode": mode} if backend == "inductor" else {"backend": backend}
        return compiler(network, dynamic=dynamic, **how)

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", compiled)
    _, exact = gradient(stepper_of(spec_of("simclr", "fp32"), exact=True), images(exact=True))
    stepper = stepper_of(spec_of("simclr", "fp32", "default"))
    plain = stepper_of(spec_of("simclr", "fp32"))
    before = set(stepper.method.state_dict())
    loss, found = gradient(stepper, images())
    assert stepper.method.compiled and not plain.method.compiled
    wanted, _ = gradient(plain, images())
    assert abs(loss / wanted - 1) < BOUNDS["fp32"][0]
    assert float((found - exact).norm() / exact.norm()) < BOUNDS["fp32"][1]
    assert set(stepper.method.state_dict()) == before  # checkpoints know nothing of it
    for name, buffer in stepper.method.named_buffers():
        wanted_buffer = plain.method.get_buffer(name)
        torch.testing.assert_close(buffer, wanted_buffer, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("precision", PASSES)
def test_views_in_one_pass_have_statistics_of_their_own_at_every_precision(precision: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
    views = [torch.randn(count, 3, 8, 8) * (n + 1) + n for n, count in enumerate((16, 16, 8))]
    exact = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()).double()
    exact.load_state_dict(model.state_dict())
    wanted = [exact(view.double()) for view in views]
    batchnorm.adopt(model, BatchNorm(), ALONE)
    with autocast(CPU, precision):
        found = batchnorm.through(model, views, BatchNorm())
    bound = PASSES[precision]
    for mine, truth in zip(found, wanted, strict=True):
        assert float((mine.double() - truth).norm().detach() / truth.norm().detach()) < bound
    for name in ("1.running_mean", "1.running_var"):
        truth = exact.get_buffer(name)
        assert float((model.get_buffer(name) - truth).norm() / truth.norm()) < bound
    pooled = exact(torch.cat(views).double())  # another function, and the bound tells
    error = (torch.cat(found).double() - pooled).norm() / pooled.norm()
    assert float(error.detach()) > 5 * bound


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_losses_and_augmentations_are_fp32_within_autocast(precision: str) -> None:
    source = torch.Generator().manual_seed(0)
    z1, z2 = (nn.functional.normalize(torch.randn(32, 8, generator=source)) for _ in range(2))
    queue = nn.functional.normalize(torch.randn(64, 8, generator=source))
    pixels = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=source)
    spec = tiny().augment
    params = augment.sample(8, 16, 16, spec, draws.generator(0, "test"))

    def found() -> list[Tensor]:
        return [
            losses.info_nce(z1, z2, 0.5),
            losses.info_nce_queue(z1, z2, queue, 0.1),
            losses.equivariance(z1, z2, 4),
            *losses.barlow_twins(z1, z2),
            losses.alignment(z1, z2),
            losses.uniformity(z1),
            losses.alignment_official(z1, z2, 0.5),
            losses.uniformity_official(z1, z2, 0.5),
            augment.apply(
                pixels, params, size=16, blur_kernel=3, mean=(0.5,) * 3, std=(0.5,) * 3
            ),
        ]  # fmt: skip

    plain = found()
    with autocast(CPU, precision):
        lowered = found()
    for one, other in zip(plain, lowered, strict=True):
        assert one.dtype == other.dtype == torch.float32
        assert torch.equal(one, other)


def test_fp32_lowers_nothing_within_somebody_elses_autocast() -> None:
    rows = torch.randn(4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (rows @ rows).dtype == torch.bfloat16
        with autocast(CPU, "fp32"):
            assert (rows @ rows).dtype == torch.float32


def test_an_overflow_in_fp16_leaves_the_step_out_and_halves_the_scale() -> None:
    stepper = stepper_of(spec_of("simclr", "fp16"))
    stepper.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = [p.detach().clone() for p in stepper.method.parameters()]
    terms = stepper.update(images(), 1e-3, 0.5)
    assert torch.isfinite(terms["loss"])
    assert stepper.scaler.get_scale() == 2.0**39
    for now, then in zip(stepper.method.parameters(), before, strict=True):
        assert torch.equal(now, then)
    stepper.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    stepper.update(images(), 1e-3, 0.5)
    assert any(
        not torch.equal(now, then)
        for now, then in zip(stepper.method.parameters(), before, strict=True)
    )


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_run_of_lower_precision_resumes_bitwise(precision: str, tmp_path: Path) -> None:
    """The scale of the loss, which grows and halves on the way, is in the checkpoint."""
    small = {
        "data": FAST["data"], "equivariance": {"weight": 0.0}, "monitor": {"every_epochs": 0},
        "model": {"backbone": "small", "width": 4, "hidden": 16},
    }  # fmt: skip
    spec = tiny(**small, training={"epochs": 2, "batch_size": 512, "precision": precision})
    whole = pretrain(spec, tmp_path / "whole", threads=1)
    steps: list[int] = []

    def stop() -> bool:
        steps.append(1)
        return len(steps) == 3

    with pytest.raises(CareError):
        pretrain(spec, tmp_path / "cut", threads=1, stop=stop)
    again = pretrain(spec, tmp_path / "cut", threads=1)
    assert again["weights_sha256"] == whole["weights_sha256"]
    plain = tiny(**small, training={"epochs": 2, "batch_size": 512})
    assert (
        pretrain(plain, tmp_path / "fp32", threads=1)["weights_sha256"] != whole["weights_sha256"]
    )


def test_precision_makes_another_run_and_compilation_does_not() -> None:
    plain, lower = spec_of("simclr", "fp32"), spec_of("simclr", "bf16")
    assert plain.determining() != lower.determining()
    assert plain.determining() == spec_of("simclr", "fp32", "max-autotune").determining()


def test_a_compiler_that_is_missing_is_named_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("/nonexistent",))
    spec = spec_of("simclr", "fp32", "default")
    without = spec.equivariance.model_copy(update={"weight": 0.0})  # less to compile
    stepper = stepper_of(spec.model_copy(update={"equivariance": without}))
    stepper.method.train()
    torch._dynamo.reset()
    with pytest.raises(CareError, match=r"launch\.compile.*off.*g\+\+"):
        stepper.backward(images())


def test_fp32_is_not_tf32() -> None:
    set_up("cpu", 1)
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32


ASK_TWICE = """
import resource, sys, torch
from care_core.device import set_up
if sys.argv[1] == "kept":
    set_up("cpu", 1)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print([faults() for _ in range(12)][-1])  # it takes some to find its place
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's own setting")
def test_memory_that_was_freed_is_used_again() -> None:
    """64 MiB, freed and asked for again: no page of them has to be cleared a second time."""

    def asked(how: str) -> int:
        argv: list[Any] = [sys.executable, "-c", ASK_TWICE, how]
        return int(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)

    pages = 64 * 2**20 // resource.getpagesize()
    assert asked("kept") < pages // 100 < asked("left") // 2


def test_how_convolutions_lie_in_memory_changes_no_number() -> None:
    """Deep ones over few pixels lie otherwise in bf16 on a CPU; weights are found by name."""
    spec = tiny(
        model={"backbone": "resnet18"}, training={"batch_size": 16, "precision": "bf16"},
        equivariance=CARE,
    )  # fmt: skip
    arranged, plain = models.build(spec), models.build(spec)
    arrange(arranged, spec)
    deep = arranged.backbone.get_submodule("layer4.1.conv2")
    seen: list[bool] = []
    deep.register_forward_hook(lambda layer, given, output: seen.append(output.is_contiguous()))
    view = torch.randn(16, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    with autocast(CPU, "bf16"):
        one, other = arranged(view), plain(view)
    assert seen == [True]
    assert torch.nn.functional.cosine_similarity(one, other).min() > 0.99
    assert all(
        torch.equal(a, b) for a, b in zip(arranged.parameters(), plain.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("size", "precision", "first"), [(32, "bf16", True), (32, "fp32", False), (96, "bf16", False)]
)
def test_only_bf16_over_few_pixels_lies_channels_first(
    size: int, precision: str, first: bool
) -> None:
    spec = tiny(
        data={"name": "cifar10", "image_size": size},
        model={"backbone": "resnet18", "stem": "cifar"}, training={"precision": precision},
    )  # fmt: skip
    network = models.build(spec)
    arrange(network, spec)
    weight = network.get_parameter("backbone.layer4.1.conv2.weight")
    assert weight.is_contiguous() is first
    assert weight.is_contiguous(memory_format=torch.channels_last) is not first
