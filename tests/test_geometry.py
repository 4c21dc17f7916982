"""γ_f, Wahba error and composition: zero for rotations, else equal to the literal formulas."""

from __future__ import annotations

import math

import digit_files
import numpy as np
import pytest
import torch
from conftest import tiny
from torch import Tensor
from torch.nn import functional as F

from care_core import geometry, models
from care_core.measures.features import extract

SMALL = {"backbone": "small", "width": 4, "hidden": 16}


def sphere(count: int = 40, dim: int = 6, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, dim, dtype=torch.float64, generator=generator), dim=1)


def rotation(dim: int = 6, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(100 + seed)
    q, _ = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64, generator=generator))
    if torch.linalg.det(q) < 0:
        q[:, 0] *= -1
    return q


def slight(angle: float, dim: int = 6, seed: int = 0) -> Tensor:
    """A rotation by about `angle` radians in all planes."""
    generator = torch.Generator().manual_seed(200 + seed)
    a = torch.randn(dim, dim, dtype=torch.float64, generator=generator)
    a = a - a.T
    return torch.linalg.matrix_exp(a / torch.linalg.matrix_norm(a, 2) * angle)


def embeddings(dim: int) -> Tensor:
    """Unit projections of 200 real digits, in float64."""
    encoder = models.build(tiny(model={**SMALL, "embedding": dim}))
    images = digit_files.digits("test", 200)
    found = extract(encoder, images, tiny().data.normalization).projection.double()
    return F.normalize(found, dim=1)


@pytest.mark.parametrize("dim", [8, 128])
@pytest.mark.parametrize("angle", [math.pi / 2, 0.1, 1e-3])
def test_an_exact_rotation_of_real_embeddings_leaves_no_error(dim: int, angle: float) -> None:
    f, r = embeddings(dim), slight(angle, dim)
    error, found = geometry.wahba_error(f, f @ r.T)
    assert float(error) < 1e-9
    assert float(torch.linalg.det(found)) == pytest.approx(1, abs=1e-9)
    torch.testing.assert_close(found @ found.T, torch.eye(dim, dtype=torch.float64))
    gamma = geometry.relative_rotational_equivariance(f, f @ r.T)
    assert gamma.mean <= 1e-9
    assert gamma.displacement > angle / 100


def test_the_rotation_is_found_where_the_embeddings_span_the_space() -> None:
    f, r = sphere(), rotation()
    assert torch.allclose(geometry.wahba_error(f, f @ r.T)[1], r, atol=1e-12)


def test_gamma_does_not_cancel_where_some_samples_hardly_move() -> None:
    f, r = sphere(60, 8) * torch.logspace(0, -3, 8, dtype=torch.float64), torch.eye(8).double()
    f = F.normalize(f, dim=1)
    r[-2:, -2:] = torch.linalg.matrix_exp(torch.tensor([[0, -1e-3], [1e-3, 0]]).double())
    gamma = geometry.relative_rotational_equivariance(f, f @ r.T)
    assert gamma.displacement < 1e-5 and gamma.excluded == 0
    assert gamma.mean <= 1e-9


def test_a_reflection_is_not_taken_for_a_rotation() -> None:
    f, r = sphere(), rotation()
    mirror = torch.diag(torch.tensor([-1.0, 1, 1, 1, 1, 1], dtype=torch.float64))
    error, found = geometry.wahba_error(f, f @ (r @ mirror).T)
    assert float(torch.linalg.det(found)) == pytest.approx(1)
    assert float(error) > 0.1


def test_no_random_rotation_does_better_than_the_one_found() -> None:
    f, fa = sphere(seed=1), sphere(seed=2)
    error, found = geometry.wahba_error(f, fa)
    others = [rotation(seed=n) for n in range(50)] + [
        found @ slight(1e-2, seed=n) for n in range(9)
    ]
    assert all(float((f @ r.T - fa).norm()) > float(error) for r in others)


def literal_rotation(f: Tensor, fa: Tensor) -> np.ndarray:
    """R* = U diag(1, …, 1, det U · det V) Vᵀ from the SVD of F_a Fᵀ, samples as columns."""
    big_f, big_fa = f.numpy().T, fa.numpy().T
    u, _, vt = np.linalg.svd(big_fa @ big_f.T)
    ones = [1.0] * (len(u) - 1) + [np.linalg.det(u) * np.linalg.det(vt.T)]
    return np.asarray(u @ np.diag(ones) @ vt)


@pytest.mark.parametrize("seed", range(4))
def test_wahba_equals_its_literal_transcription(seed: int) -> None:
    f, fa = sphere(12, seed=seed), sphere(12, seed=50 + seed)
    wanted = literal_rotation(f, fa)
    error, found = geometry.wahba_error(f, fa)
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-10)
    columns = [wanted @ f[n].numpy() - fa[n].numpy() for n in range(12)]
    assert float(error) == pytest.approx(math.sqrt(sum(float(c @ c) for c in columns)), rel=1e-10)


@pytest.mark.parametrize("near", [1.0, 0.01])
def test_gamma_equals_its_literal_transcription(near: float) -> None:
    f = sphere(12, seed=1)
    fa = F.normalize(f + near * sphere(12, seed=2), dim=1)
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
    assert found.displacement == pytest.approx(float((fa - f).norm(dim=1).mean()), rel=1e-12)


def test_pairs_that_do_not_move_are_left_out_and_counted() -> None:
    f = sphere(10)
    fa = f.clone()
    fa[0] = -fa[0]
    found = geometry.relative_rotational_equivariance(f, fa)
    assert found.excluded == 36  # the pairs among the nine that stayed
    assert found.displacement == pytest.approx(0.2)


def test_what_moves_by_rounding_alone_does_not_count_as_moved() -> None:
    f = sphere(30).float()
    jittered = torch.where(torch.arange(30)[:, None] % 2 == 0, f, f * (1 + 1e-7))
    found = geometry.relative_rotational_equivariance(f, jittered)
    assert found.excluded == 30 * 29 // 2 and math.isnan(found.mean)


def test_shuffled_pairs_each_sample_with_another_ones_image() -> None:
    rows = torch.arange(100.0)[:, None]
    mixed = geometry.shuffled(rows)
    assert sorted(mixed[:, 0].tolist()) == rows[:, 0].tolist()
    assert (mixed == rows).float().mean() < 0.1
    assert torch.equal(geometry.shuffled(rows), mixed)


@pytest.mark.parametrize("dim", [8, 128])
def test_rotations_of_real_embeddings_compose_on_samples_that_were_held_out(dim: int) -> None:
    f = embeddings(dim)
    where = torch.linalg.svd(f, full_matrices=False)[2][:6].T  # in which the rotations act

    def within(seed: int) -> Tensor:
        turn = slight(0.5, 6, seed) - torch.eye(6, dtype=torch.float64)
        return torch.eye(dim, dtype=torch.float64) + where @ turn @ where.T

    a, b = within(1), within(2)
    train, held = f[:150], f[150:]
    found = geometry.composition(train, train @ a.T, train @ b.T, train @ (b @ a).T, held)
    assert found.error < 1e-3 and found.shuffled > 0.5  # but for what the subspace leaves out
    assert found.rank < 20 and found.held > 0.99
    whole = float((held @ (b @ a).T - held).norm(dim=1).mean())
    assert found.displacement == pytest.approx(whole, rel=0.02)


def test_augmentations_in_the_other_order_compose_to_another_rotation() -> None:
    f, a, b = sphere(60), rotation(seed=1), rotation(seed=2)
    right = geometry.composition(f[:40], f[:40] @ a.T, f[:40] @ b.T, f[:40] @ (b @ a).T, f[40:])
    wrong = geometry.composition(f[:40], f[:40] @ a.T, f[:40] @ b.T, f[:40] @ (a @ b).T, f[40:])
    assert right.error < 1e-12 and wrong.error > 0.5
    assert right.rank == wrong.rank == 6


def test_augmentations_that_do_nothing_by_themselves_have_error_one() -> None:
    f, r = sphere(60), rotation()
    found = geometry.composition(f[:40], f[:40], f[:40], f[:40] @ r.T, f[40:])
    assert found.error == pytest.approx(1)


def test_composition_equals_its_literal_transcription() -> None:
    parts = [sphere(30, seed=n) for n in range(4)]
    held = sphere(9, seed=7)
    a, b, ba = (literal_rotation(parts[0], image) for image in parts[1:])
    gaps = [(ba - b @ a) @ row.numpy() for row in held]
    steps = [(ba - np.eye(6)) @ row.numpy() for row in held]
    wanted = math.sqrt(sum(float(g @ g) for g in gaps) / sum(float(s @ s) for s in steps))
    found = geometry.composition(*parts, held, share=1.0)
    assert found.error == pytest.approx(wanted, rel=1e-9)
    assert found.displacement == pytest.approx(float(np.mean([np.linalg.norm(s) for s in steps])))


def test_rotations_are_fitted_where_the_embeddings_lie() -> None:
    basis = rotation(16)[:, :5]
    turns = [torch.eye(5).double(), rotation(5, 1), rotation(5, 2)]
    turns.append(turns[2] @ turns[1])
    f = sphere(60, 5)
    parts = [f[:40] @ turn.T @ basis.T for turn in turns]
    found = geometry.composition(*parts, f[40:] @ basis.T)
    assert found.rank == 5 and found.error < 1e-9 and found.held == pytest.approx(1)
    noisy = [part + 1e-3 * sphere(40, 16, seed=n) for n, part in enumerate(parts)]
    assert geometry.composition(*noisy, f[40:] @ basis.T, share=0.999).rank == 5


def test_the_cosines_of_a_histogram_are_counted_as_numpy_does() -> None:
    f, fa = sphere(500, 6, seed=1), sphere(500, 6, seed=2)
    counts = geometry.cosine_counts(f, 3 * fa)
    wanted, _ = np.histogram((f * fa).sum(dim=1).numpy(), bins=100, range=(-1, 1))
    assert counts.tolist() == wanted.tolist() and counts.sum() == 500


def test_an_image_that_does_not_move_is_in_the_last_bin_and_its_opposite_in_the_first() -> None:
    f = sphere(40).float()
    for sign, place in ((1, -1), (-1, 0)):
        counts = geometry.cosine_counts(f, sign * f)
        assert counts[place] == 40 and counts.sum() == 40


def test_a_constant_embedding_is_collapsed_and_a_random_one_is_not() -> None:
    point = sphere(1, 8).expand(200, 8)
    near = F.normalize(point + 1e-2 * sphere(200, 8), dim=1)
    for f in (point, near):
        found = geometry.spread(f)
        assert found.collapsed
        assert found.mean_cosine > 0.999 and found.sd < 0.02 and found.effective_rank < 1.01
    found = geometry.spread(sphere(200, 8))
    assert not found.collapsed
    assert abs(found.mean_cosine) < 0.05 and found.sd > 0.95 and found.effective_rank > 7


def test_an_embedding_in_two_opposite_points_is_not_one_point() -> None:
    found = geometry.spread(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).repeat(50, 1))
    assert not found.collapsed and found.effective_rank == pytest.approx(1)


def test_the_mean_cosine_is_over_pairs_of_different_images() -> None:
    f = F.normalize(sphere(30) + 0.5, dim=1)
    cosines = f @ f.T
    wanted = (cosines.sum() - cosines.diagonal().sum()) / (30 * 29)
    assert geometry.spread(f).mean_cosine == pytest.approx(float(wanted))


def test_a_rotation_of_few_samples_in_many_dimensions_is_judged_on_others() -> None:
    f, r = sphere(20, 16), rotation(16)
    noise = sphere(20, 16, seed=9)
    fitted = float(geometry.wahba_error(f, noise)[0]) / math.sqrt(20)
    assert fitted < 0.9 and geometry.held_out_error(f, noise) > 1.2
    assert geometry.held_out_error(sphere(60, 16), sphere(60, 16) @ r.T) < 1e-9


def test_a_principal_plane_keeps_the_distances_of_what_lies_in_it() -> None:
    source = torch.Generator().manual_seed(0)
    flat = torch.randn(30, 2, generator=source, dtype=torch.float64) * torch.tensor([3.0, 1.0])
    basis = torch.linalg.qr(torch.randn(5, 2, generator=source, dtype=torch.float64)).Q
    rows = flat @ basis.T + 7
    plane = geometry.principal_plane(rows)
    assert plane.share == pytest.approx(1)
    found = plane.coordinates(rows)
    torch.testing.assert_close(torch.cdist(found, found), torch.cdist(flat, flat))
    assert found[:, 0].var() > found[:, 1].var()  # the first direction is that of most variance
    torch.testing.assert_close(found.mean(dim=0), torch.zeros(2).double(), rtol=0, atol=1e-12)
    thick = geometry.principal_plane(torch.eye(4)[:, :3].double())
    assert 0 < thick.share < 1
    assert math.isnan(geometry.principal_plane(torch.ones(4, 3)).share)
