"""The losses against a float64 oracle that transcribes the formulas, on the same fp32 inputs."""

from __future__ import annotations

import pytest
import torch
from lightly.loss import BarlowTwinsLoss, NTXentLoss
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_info_nce_with_a_queue_keeps_five_digits(kind: str, temperature: float) -> None:
    """Against lightly's loss with a memory bank in float64, and its gradient."""
    torch.manual_seed(0)
    queue, _ = rows(kind, 256)
    oracle = NTXentLoss(temperature=temperature, memory_bank_size=(256, 128))

    def wanted(queries: Tensor, keys: Tensor) -> Tensor:
        oracle.memory_bank.bank = queue.double()
        oracle.memory_bank.bank_ptr = torch.zeros(1, dtype=torch.int64)
        return oracle(queries, keys)

    def ours(queries: Tensor, keys: Tensor) -> Tensor:  # the oracle makes unit rows, too
        unit = (F.normalize(part.double(), dim=1) for part in (queries, keys))
        return losses.info_nce_queue(*unit, queue, temperature)

    value, gradient = errors(ours, wanted, *rows(kind, 16))
    assert value <= 1e-5
    assert gradient <= 1e-5


@pytest.mark.parametrize("kind", ["random", "aligned", "collapsed"])
@pytest.mark.parametrize("batch", [8, 256])
def test_barlow_twins_is_that_of_its_paper(kind: str, batch: int) -> None:
    """Its equation 1 in a loop over the dimensions, and lightly's loss, in float64."""
    torch.manual_seed(batch)
    x, y = (3 * part + 1 for part in rows(kind, batch, 12))

    def standard(part: Tensor) -> Tensor:
        return (part - part.mean(0)) / (part.var(0, unbiased=False) + 1e-5).sqrt()

    a, b = standard(x.double()), standard(y.double())
    on = off = 0.0
    for i in range(12):
        for j in range(12):
            c = float((a[:, i] * b[:, j]).mean())
            on, off = (on + (1 - c) ** 2, off) if i == j else (on, off + c**2)
    found = losses.barlow_twins(x, y)
    assert [part.dtype for part in found] == [torch.float32] * 2
    assert [float(part) for part in found] == pytest.approx([on, off], rel=1e-4, abs=1e-6)
    value, gradient = errors(
        lambda a, b: sum(w * part for w, part in zip((1, 0.02), losses.barlow_twins(a, b))),  # noqa: B905
        BarlowTwinsLoss(lambda_param=0.02), x, y,
    )  # fmt: skip
    assert value <= 1e-4
    assert gradient <= 1e-4


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_the_official_terms_are_info_nce_without_the_positive_below(temperature: float) -> None:
    """Row by row, InfoNCE is the softplus of their sum; it follows them the better it separates."""
    x, y = rows("random", 16)
    z = torch.cat([x, y]).double()
    gaps = []
    for i in range(32):
        partner = (i + 16) % 32
        others = [z[i] @ z[j] / temperature for j in range(32) if j not in (i, partner)]
        gaps.append(torch.stack(others).logsumexp(0) - z[i] @ z[partner] / temperature)
    total = losses.alignment_official(x, y, temperature) + losses.uniformity_official(
        x, y, temperature
    )
    assert float(total) == pytest.approx(float(torch.stack(gaps).mean()), rel=1e-5)
    wanted = float(F.softplus(torch.stack(gaps)).mean())
    assert float(losses.info_nce(x, y, temperature)) == pytest.approx(wanted, rel=1e-5)
    assert wanted > float(total)
    together = -float((x * y).sum(dim=1).mean()) / temperature
    assert float(losses.alignment_official(x, y, temperature)) == pytest.approx(together, rel=1e-5)


def test_the_official_uniformity_is_a_sum_where_the_papers_is_a_mean() -> None:
    """Over all embeddings alike each cosine is 1: log(2B − 2) + 1/τ against 1."""
    one = F.normalize(torch.ones(8, 5), dim=1)
    assert float(losses.uniformity(one)) == pytest.approx(1, abs=1e-6)
    wanted = torch.tensor(14.0).log() + 1 / 0.5
    assert float(losses.uniformity_official(one, one, 0.5)) == pytest.approx(float(wanted))
