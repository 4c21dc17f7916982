"""The losses against a float64 oracle that transcribes the formulas, on the same fp32 inputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from care_core import losses

KINDS = ("random", "aligned", "collapsed", "collapsed and aligned")


def rows(kind: str, batch: int, dim: int = 128) -> tuple[Tensor, Tensor]:
    noise = F.normalize(torch.randn(2, batch, dim), dim=2)
    if kind == "random":
        x, y = noise
    elif kind == "aligned":
        x, y = noise[0], noise[0] + 1e-4 * noise[1]
    else:
        x = F.normalize(torch.randn(1, dim), dim=1) + 0.05 * noise[0]
        y = x + (1e-4 if "aligned" in kind else 0.05) * noise[1]
    return F.normalize(x, dim=1), F.normalize(y, dim=1)


def oracle_info_nce(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    z = torch.cat([z1, z2])
    count = len(z)
    logits = (z @ z.T / temperature).fill_diagonal_(float("-inf"))
    target = (torch.arange(count) + count // 2) % count
    positive = logits.gather(1, target[:, None])[:, 0]
    others = logits.scatter(1, target[:, None], float("-inf")).logsumexp(dim=1)
    return F.softplus(others - positive, threshold=1e9).mean()


def oracle_equivariance(z1: Tensor, z2: Tensor, splits: int) -> Tensor:
    total = z1.new_zeros(())
    for a, b in zip(z1.chunk(splits), z2.chunk(splits), strict=True):
        total = total + (a @ a.T - b @ b.T).square().sum()
    return total * 2 / len(z1)


def errors(ours, oracle, x: Tensor, y: Tensor) -> tuple[float, float]:  # type: ignore[no-untyped-def]
    a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
    value = ours(a, b)
    value.backward()
    p, q = x.double().requires_grad_(), y.double().requires_grad_()
    truth = oracle(p, q)
    truth.backward()
    assert value.dtype == torch.float32
    assert value.ndim == 0
    gradient = max(
        float((mine.grad.double() - right.grad).norm() / right.grad.norm())
        for mine, right in ((a, p), (b, q))
    )
    value, truth = value.detach(), truth.detach()
    return abs(float(value) - float(truth)) / abs(float(truth)), gradient


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [2, 16, 128, 512])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_info_nce_keeps_five_digits(kind: str, batch: int, temperature: float) -> None:
    torch.manual_seed(batch)
    value, gradient = errors(
        lambda a, b: losses.info_nce(a, b, temperature),
        lambda a, b: oracle_info_nce(a, b, temperature),
        *rows(kind, batch),
    )
    assert value <= 1e-5
    assert gradient <= 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("batch", "splits"), [(8, 4), (128, 16), (512, 1), (512, 8)])
def test_equivariance_keeps_six_digits(kind: str, batch: int, splits: int) -> None:
    torch.manual_seed(batch)
    value, gradient = errors(
        lambda a, b: losses.equivariance(a, b, splits),
        lambda a, b: oracle_equivariance(a, b, splits),
        *rows(kind, batch),
    )
    assert value <= 1e-6
    assert gradient <= 1e-5


def test_losses_stay_finite_at_complete_collapse() -> None:
    one = F.normalize(torch.ones(64, 16), dim=1).requires_grad_()
    for temperature in (0.5, 0.07, 0.01):
        loss = losses.info_nce(one, one, temperature) + losses.equivariance(one, one, 4)
        (gradient,) = torch.autograd.grad(loss, one)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()


def test_equivariance_vanishes_for_a_rotation_of_each_split_and_only_then() -> None:
    z, _ = rows("random", 64, 8)
    turned = torch.cat([part @ torch.linalg.qr(torch.randn(8, 8))[0] for part in z.chunk(4)])
    assert float(losses.equivariance(z, turned, 4)) < 1e-9
    assert float(losses.equivariance(z, turned, 1)) > 1e-2


def test_equivariance_is_2_b_minus_1_times_the_mean_over_pairs() -> None:
    x, y = rows("random", 12, 8)
    gap = (x @ x.T - y @ y.T)[~torch.eye(12, dtype=torch.bool)]
    expected = 2 * 11 * float(gap.square().mean())
    assert float(losses.equivariance(x, y, 1)) == pytest.approx(expected, rel=1e-5)


def test_splits_that_do_not_divide_the_batch_are_refused() -> None:
    x, y = rows("random", 10, 4)
    with pytest.raises(ValueError, match="3 splits do not divide a batch of 10"):
        losses.equivariance(x, y, 3)


def test_alignment_and_uniformity_follow_their_definitions() -> None:
    x, y = rows("random", 6, 4)
    distances = [float((a - b).norm()) for a, b in zip(x, y, strict=True)]
    assert float(losses.alignment(x, y)) == pytest.approx(sum(distances) / 6, rel=1e-6)
    pairs = [float(torch.exp(x[i] @ x[j])) for i in range(6) for j in range(6) if i != j]
    expected = float(torch.tensor(sum(pairs) / len(pairs)).log())
    assert float(losses.uniformity(x)) == pytest.approx(expected, rel=1e-5)


def test_losses_ignore_autocast() -> None:
    x, y = rows("random", 32, 16)
    plain = losses.info_nce(x, y, 0.07)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(losses.info_nce(x, y, 0.07), plain)
