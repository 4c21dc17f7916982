"""A step that is not finite changes nothing, and is told of or left out as the spec says."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FAST, tiny
from methodical import METHODS, step
from ranks import (
    After,
    Launch,
    ask,
    assert_as_uninterrupted,
    assert_equal,
    newest,
    rows,
    training,
)
from torch import Tensor

from care_core import checkpoint, finite, methods, pretrain
from care_core.distributed import ALONE
from care_core.errors import CareError, Interrupted
from care_core.files import read_json
from care_core.finite import Undo
from care_core.methods import Method
from care_core.spec import PretrainSpec
from care_core.stepping import Stepper
from care_core.views.step import Step

NAN = math.nan
CPU = torch.device("cpu")
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adam": {"name": "adam", "lr": 1e-2},
    "sgd": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.1},
    "lars": {"name": "lars", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.1},
}
#: Each method with Adam, and each optimiser with a method.
PAIRS = [*((name, "adam") for name in METHODS), ("byol", "sgd"), ("byol", "lars")]


@pytest.mark.parametrize("flag", [0.0, 1.0])
def test_what_was_done_is_taken_back_bitwise_where_the_flag_says_so(flag: float) -> None:
    def made(seed: int) -> list[Tensor]:
        source = torch.Generator().manual_seed(seed)
        kinds = (torch.int32, torch.int64, torch.int16, torch.int32)
        limits = [(torch.iinfo(kind).min, torch.iinfo(kind).max) for kind in kinds]
        bits = [
            torch.randint(low, high, (500,), dtype=kind, generator=source)
            for kind, (low, high) in zip(kinds, limits, strict=True)
        ]
        as_they_are = (torch.float32, torch.float64, torch.bfloat16, torch.int32)
        return [one.view(kind) for one, kind in zip(bits, as_they_are, strict=True)]

    def bits(tensors: list[Tensor]) -> list[bytes]:
        return [bytes(tensor.view(torch.uint8).numpy()) for tensor in tensors]

    held, others = made(0), made(1)
    undo = Undo(held)
    undo.remember()
    for one, other in zip(held, others, strict=True):
        one.copy_(other)
    undo.back(torch.tensor(flag))
    assert bits(held) == bits(made(0) if flag else others)


def stepper_of(method: str, optimizer: str, precision: str = "fp32") -> Stepper:
    spec = tiny(
        method=METHODS[method],
        optimizer=OPTIMIZERS[optimizer],
        equivariance={"weight": 0.1, "splits": 4},
        training={"batch_size": 16, "precision": precision},
    )
    return Stepper(spec, methods.build(spec, ALONE), ALONE, CPU)


def images(number: int, spoil: float | None = None) -> Step:
    """Two views and a pair in fp32; with `spoil` for one of their pixels."""
    made, more = step(number), step(number + 100)
    assert made.plain is not None and made.parameters is not None
    views, pair = ([image.float() for image in found] for found in (made.views, more.views))
    if spoil is not None:
        views[1][3, 0, 2, 2] = spoil
    return Step(number, views, pair, made.plain.float(), made.parameters.float())


def state_of(stepper: Stepper) -> dict[str, Tensor]:
    """All that a step may change."""
    moments = stepper.optimizer.state_dict()["state"]
    of_optimizer = {f"{n}.{key}": v for n, found in moments.items() for key, v in found.items()}
    return {k: v.clone() for k, v in (stepper.method.state_dict() | of_optimizer).items()}


@pytest.fixture
def unset_memory_is_nan() -> Iterator[None]:
    """So that what is made and never written shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("unset_memory_is_nan")
@pytest.mark.parametrize("spoil", [NAN, math.inf])
@pytest.mark.parametrize(("method", "optimizer"), PAIRS)
def test_a_bad_step_leaves_weights_moments_statistics_copies_and_queues(
    method: str, optimizer: str, spoil: float
) -> None:
    bad, good = stepper_of(method, optimizer), stepper_of(method, optimizer)
    bad.update(images(0, spoil), 0.1, 0.1)  # the very first one, and one among others
    for number in (1, 2):
        for stepper in (bad, good):
            stepper.update(images(number), 0.1, 0.1 * number)
        bad.update(images(9, spoil), 0.1, 0.1 * number)
        before, after = state_of(good), state_of(bad)
        assert_equal(after, before)
        assert all(value.isfinite().all() for value in after.values())
    assert [float(count) for count in bad.guard.counts()] == [1, 3, 1]
    assert [float(count) for count in good.guard.counts()] == [0, 0, 0]
    words = finite.finding(1, bad.guard.names, [bad.guard.terms.tolist()])  # type: ignore[union-attr]
    assert words.startswith("the loss is nan at step 1 (")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gradient_that_is_not_finite_is_a_bad_step_though_the_loss_is_finite(
    precision: str,
) -> None:
    stepper = stepper_of("simclr", "adam", precision)
    if precision == "fp16":
        stepper.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    stepper.update(images(0), 0.1, 0.1)
    before = state_of(stepper)
    handle = stepper.trained[3].register_hook(lambda gradient: gradient / 0)
    terms = stepper.update(images(1), 0.1, 0.1)
    handle.remove()
    assert terms["loss"].isfinite()
    assert_equal(state_of(stepper), before)
    assert stepper.guard.terms is not None
    words = finite.finding(2, stepper.guard.names, [stepper.guard.terms.tolist()])
    assert words.startswith("the gradient is not finite at step 2, though the loss is ")
    assert [float(count) for count in stepper.guard.counts()] == [2, 1, 1]


def test_an_overflow_that_the_scaler_mends_is_no_bad_step() -> None:
    stepper = stepper_of("byol", "sgd", "fp16")
    stepper.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    before = state_of(stepper)
    stepper.update(images(0), 0.1, 0.1)
    after = state_of(stepper)
    assert stepper.scaler.get_scale() == 2.0**59
    assert [float(count) for count in stepper.guard.counts()] == [0, 0, 0]
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed and all("running" in key or "num_batches" in key for key in changed)


def test_a_loss_that_is_not_finite_is_a_bad_step_in_fp16_too() -> None:
    stepper = stepper_of("moco", "adam", "fp16")
    stepper.scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    stepper.update(images(0), 0.1, 0.1)
    before = state_of(stepper)
    stepper.update(images(1, NAN), 0.1, 0.1)
    assert_equal(state_of(stepper), before)
    assert [float(count) for count in stepper.guard.counts()] == [2, 1, 1]


def plain(method: Method, optimizer: str) -> torch.optim.Optimizer:
    """The optimiser as its library makes it."""
    from timm.optim import Lars

    trained = [p for p in method.parameters() if p.requires_grad]
    if optimizer == "adam":
        return torch.optim.Adam(trained, lr=0.1, fused=True)
    if optimizer == "sgd":
        return torch.optim.SGD(trained, lr=0.1, momentum=0.9, weight_decay=0.1, fused=True)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1], "always_adapt": True},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return Lars(groups, lr=0.1, momentum=0.9, weight_decay=0.1, trust_coeff=1e-3)


@pytest.mark.parametrize(("method", "optimizer"), PAIRS)
def test_good_steps_are_bitwise_those_of_an_unguarded_loop(method: str, optimizer: str) -> None:
    stepper, bare = stepper_of(method, optimizer), stepper_of(method, optimizer).method
    updates = plain(bare, optimizer)
    for number in range(3):
        stepper.update(images(number), 0.1, 0.1 * number)
        updates.zero_grad()
        loss, _ = bare(images(number))
        loss.backward()
        updates.step()
        bare.after_step(0.1 * number)
        assert_equal(stepper.method.state_dict(), bare.state_dict())


# Whole runs.


class Spoiler:
    """Makes the loss of some steps NaN, and remembers what each step saw and made."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps
        self.seen: dict[int, list[tuple[bytes, float]]] = {}
        self.forward = Method.forward

    def __call__(self, method: Method, given: Step) -> tuple[Tensor, dict[str, Tensor]]:
        loss, terms = self.forward(method, given)
        made = (bytes(torch.cat(given.views).numpy()), float(loss.detach()))
        self.seen.setdefault(given.number + 1, []).append(made)
        if given.number + 1 not in self.steps:
            return loss, terms
        return loss * NAN, {**terms, "loss": terms["loss"] * NAN}


@pytest.fixture
def spoiling(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Spoiler]:
    def spoil(*steps: int) -> Spoiler:
        spoiler = Spoiler(*steps)
        monkeypatch.setattr(Method, "forward", lambda method, given: spoiler(method, given))
        return spoiler

    return spoil


def train(run_dir: Path, spec: PretrainSpec, **options: Any) -> dict[str, Any]:
    return pretrain(spec, run_dir, threads=1, **options)


def spec_of(on_nan: str = "stop", every: int = 1) -> PretrainSpec:
    fields = {**FAST, "training": {**FAST["training"], "on_nan": on_nan}}
    return tiny(**fields, log={"every_steps": every})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run in which every step was good."""
    run_dir = tmp_path_factory.mktemp("whole")
    train(run_dir, spec_of())
    return run_dir


def test_a_run_stops_by_name_of_the_first_bad_step_and_its_error_replays_it(
    tmp_path: Path, whole: Path, spoiling: Callable[..., Spoiler]
) -> None:
    spoiler, sentences = spoiling(7, 9), list[str]()
    for _ in range(2):
        with pytest.raises(CareError) as caught:
            train(tmp_path, spec_of(every=10))
        sentences.append(str(caught.value))
        assert [e.step for e in checkpoint.entries(tmp_path / "checkpoints")] == [5]
        assert not (tmp_path / "result.json").exists()
    assert sentences[0] == sentences[1]
    assert sentences[0].startswith("the loss is nan at step 7; lower optimizer.lr")
    told = re.search(r"goes on from (\S+) and does steps (\d+) to (\d+) anew", sentences[0])
    assert told
    assert checkpoint.read(Path(told[1]))["step"] == 5
    for number in range(int(told[2]), int(told[3]) + 1):  # the same images and loss, bitwise
        first, second = spoiler.seen[number]
        assert first == second


def test_once_the_cause_is_gone_the_run_ends_as_if_it_had_never_been(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(CareError, match="at step 8; lower"):
        spoiler = Spoiler(8)
        patch.setattr(Method, "forward", lambda method, given: spoiler(method, given))
        train(tmp_path, spec_of())
    train(tmp_path, spec_of())
    assert_as_uninterrupted(tmp_path, whole)
    assert read_json(tmp_path / "result.json")["skipped_updates"] == 0


def test_a_bad_update_is_left_out_and_counted_through_a_resume(
    tmp_path: Path, whole: Path, spoiling: Callable[..., Spoiler]
) -> None:
    spoiling(7, 8)
    result = train(tmp_path / "whole", spec_of("skip"))
    assert result["skipped_updates"] == result["metrics"]["skipped_updates"] == 2
    found = rows(tmp_path / "whole")
    counted = {at: value for key, value, at in found if key == "skipped_updates"}
    assert counted == {at: float(min(2, max(0, at - 6))) for at in range(1, 16)}
    assert all(math.isfinite(value) for _, value, _ in found)
    assert [at for key, _, at in found if key == "loss"] == [*range(1, 7), *range(9, 16)]
    plain_losses = [value for key, value, at in rows(whole) if key == "loss" and at < 7]
    assert [value for key, value, at in found if key == "loss" and at < 7] == plain_losses
    assert result["weights_sha256"] != read_json(whole / "result.json")["weights_sha256"]
    assert all(v.isfinite().all() for v in newest(tmp_path / "whole")["model"].values())
    with pytest.raises(Interrupted):
        train(tmp_path / "cut", spec_of("skip"), stop=After(7))
    train(tmp_path / "cut", spec_of("skip"))
    assert_as_uninterrupted(tmp_path / "cut", tmp_path / "whole")
    assert read_json(tmp_path / "cut" / "result.json")["skipped_updates"] == 2


def test_a_run_whose_updates_are_all_left_out_does_not_pass_for_a_trained_one(
    tmp_path: Path, spoiling: Callable[..., Spoiler], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiling(*range(7, 16))
    monkeypatch.setattr(finite, "ALL_BAD", 6)
    with pytest.raises(CareError, match=r"last 6 updates were all left out, 6 in all .* at step 7"):
        train(tmp_path, spec_of("skip"))
    assert not (tmp_path / "result.json").exists()


def test_what_to_do_at_a_nan_makes_another_run_only_if_it_is_to_skip() -> None:
    assert "on_nan" not in spec_of("stop").determining()["training"]
    assert spec_of("skip").determining()["training"]["on_nan"] == "skip"


# Two ranks, of which one meets a NaN that is its own.


def spoilt(rank: int, size: int, folder: Path, spec: str, at: int) -> dict[str, Any]:
    spoiler = Spoiler(*([at] if rank == 1 else []))
    Method.forward = lambda self, given: spoiler(self, given)  # type: ignore[method-assign]
    return training(rank, size, folder, spec)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_all_ranks_leave_out_what_one_cannot_use(
    launch: Launch, tmp_path: Path, precision: str
) -> None:
    """In fp16 the others see gradients that might be overflows, and must be told that none is."""
    fields = spec_of("skip").model_dump(mode="json")
    fields["training"] |= {"precision": precision, "epochs": 1}
    spec = PretrainSpec.model_validate(fields)
    first, second = ask(launch, spoilt, 2, tmp_path, spec=spec.model_dump_json(), at=4)
    assert first["result"]["skipped_updates"] == 1
    assert_equal(first["parameters"], second["parameters"])
    for found in (first, second):
        assert all(value.isfinite().all() for value in found["buffers"].values())
    assert [at for key, _, at in rows(tmp_path) if key == "loss"] == [1, 2, 3, 5]


def test_all_ranks_stop_at_what_one_meets_and_say_which(launch: Launch, tmp_path: Path) -> None:
    found = ask(launch, spoilt, 2, tmp_path, spec=spec_of(every=10).model_dump_json(), at=7)
    for rank in found:
        kind, sentence = rank["error"]
        assert kind == "CareError"
        assert sentence.startswith("the loss is nan at step 7 on rank 1; lower optimizer.lr")
    assert [e.step for e in checkpoint.entries(tmp_path / "checkpoints")] == [5]
