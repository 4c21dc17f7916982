"""γ_f and the Wahba error: zero for rotations, and equal to the literal formulas otherwise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from care_core import geometry


def sphere(count: int = 40, dim: int = 6) -> Tensor:
    return F.normalize(torch.randn(count, dim, dtype=torch.float64), dim=1)


def rotation(dim: int = 6) -> Tensor:
    q, _ = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64))
    if torch.linalg.det(q) < 0:
        q[:, 0] *= -1
    return q


def test_an_exact_rotation_is_found_and_leaves_no_error() -> None:
    torch.manual_seed(0)
    f, r = sphere(), rotation()
    error, found = geometry.wahba_error(f, f @ r.T)
    assert float(error) < 1e-12
    assert torch.allclose(found, r, atol=1e-12)
    assert geometry.relative_rotational_equivariance(f, f @ r.T).mean < 1e-20


def test_a_reflection_is_not_taken_for_a_rotation() -> None:
    torch.manual_seed(0)
    f, r = sphere(), rotation()
    mirror = torch.diag(torch.tensor([-1.0, 1, 1, 1, 1, 1], dtype=torch.float64))
    error, found = geometry.wahba_error(f, f @ (r @ mirror).T)
    assert float(torch.linalg.det(found)) == pytest.approx(1)
    assert float(error) > 0.1


def test_no_random_rotation_does_better_than_the_one_found() -> None:
    torch.manual_seed(0)
    f, fa = sphere(), sphere()
    error, found = geometry.wahba_error(f, fa)
    near = torch.linalg.matrix_exp(
        1e-3 * (torch.ones(6, 6).triu(1) - torch.ones(6, 6).tril(-1)).double()
    )
    others = [rotation() for _ in range(50)] + [found @ near]
    assert all(float((f @ r.T - fa).norm()) > float(error) for r in others)


def test_gamma_equals_its_literal_transcription() -> None:
    torch.manual_seed(0)
    f, fa = sphere(12), sphere(12)
    values = []
    for i in range(12):
        for j in range(i + 1, 12):
            change = (fa[j] - fa[i]).norm() ** 2 - (f[j] - f[i]).norm() ** 2
            moved = (fa[j] - f[j]).norm() ** 2 + (fa[i] - f[i]).norm() ** 2
            values.append(float(change**2 / moved**2))
    found = geometry.relative_rotational_equivariance(f, fa)
    assert found.mean == pytest.approx(sum(values) / len(values), rel=1e-9)
    assert found.median == pytest.approx(float(torch.tensor(values).median()), rel=1e-6)
    assert found.excluded == 0


def test_pairs_that_do_not_move_are_left_out_and_counted() -> None:
    f = sphere(10)
    fa = f.clone()
    fa[0] = -fa[0]
    found = geometry.relative_rotational_equivariance(f, fa)
    assert found.excluded == 36  # the pairs among the nine that stayed
    assert found.displacement == pytest.approx(0.2)
