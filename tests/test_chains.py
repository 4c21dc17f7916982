"""Generated chains have a backbone's geometry, and clouds are centred, scaled and resampled."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from care_core import data
from care_core.data import chains, clouds
from care_core.data.chains import ANGLES, CLASSES, LENGTHS, RESIDUES, Chains
from care_core.data.clouds import CloudSet, Floats
from care_core.spec.facts import DATASETS
from care_core.spec.sections import Data


@pytest.fixture(scope="module")
def made() -> Chains:
    return chains.generate(200, 3)


def atoms(made: Chains) -> Floats:
    """(N, 3 M, 3): N, CA, C, N, CA, C, …"""
    return made.atoms.reshape(len(made.atoms), -1, 3)


def dihedrals(line: Floats, start: int) -> Floats:
    """(N, M - 1) degrees about each third bond, from the atom `start` on."""
    a, b, c, d = (line[:, start + n :: 3][:, : RESIDUES[1] - 1] for n in range(4))
    axis = (c - b) / np.linalg.norm(c - b, axis=-1, keepdims=True)
    before, after = a - b, d - c
    v = before - (before * axis).sum(-1, keepdims=True) * axis
    w = after - (after * axis).sum(-1, keepdims=True) * axis
    return np.degrees(np.arctan2((np.cross(axis, v) * w).sum(-1), (v * w).sum(-1)))


def test_bonds_and_angles_are_those_of_a_backbone_everywhere(made: Chains) -> None:
    line = atoms(made)
    bonds = np.diff(line, axis=1)
    lengths = np.linalg.norm(bonds, axis=-1)
    for first, name in enumerate(("N-CA", "CA-C", "C-N")):
        np.testing.assert_allclose(lengths[:, first::3], LENGTHS[name], atol=1e-9)
    unit = bonds / lengths[..., None]
    angles = 180 - np.degrees(np.arccos((unit[:, 1:] * unit[:, :-1]).sum(-1)))
    for first, name in enumerate(("N-CA-C", "CA-C-N", "C-N-CA")):
        np.testing.assert_allclose(angles[:, first::3], ANGLES[name], atol=1e-6)
    omega = dihedrals(line, 1)  # CA, C, N, CA
    np.testing.assert_allclose(np.abs(omega), 180, atol=1e-5)
    apart = np.linalg.norm(np.diff(made.atoms[:, :, 1], axis=1), axis=-1)
    np.testing.assert_allclose(apart, 3.80, atol=0.01)  # of CA, all peptide bonds being trans


def test_dihedrals_lie_where_the_class_of_a_chain_says(made: Chains) -> None:
    line = atoms(made)
    phi, psi = dihedrals(line, 2), dihedrals(line, 0)  # C, N, CA, C and N, CA, C, N
    share = {}
    for label, name in enumerate(CLASSES):
        of = made.labels == label
        f, s = phi[of][:, :-1], psi[of][:, 1:]  # of one and the same residue
        helix = (np.abs(f + 63) < 18) & (np.abs(s + 42) < 18)
        strand = (np.abs(f + 120) < 30) & (np.abs(s - 130) < 30)
        share[name] = helix.mean(), strand.mean()
    assert share["all-alpha"][0] > 0.6 > 0.3 > share["all-alpha"][1]
    assert share["all-beta"][1] > 0.45 > 0.3 > share["all-beta"][0]
    for mixed in ("alpha+beta", "alpha/beta"):
        assert 0.2 < share[mixed][0] < 0.7 and 0.1 < share[mixed][1] < 0.5
    assert max(share["coil"]) < 0.4


def test_a_helix_is_right_handed_and_rises_as_a_helix_does() -> None:
    """1.5 Å a residue; a strand 3.3 to 3.5."""
    rises = {(-57.0, -47.0): 1.5, (-120.0, 130.0): 3.35}
    for (phi, psi), rise in rises.items():
        trace = chains._atoms(np.full((1, 41), phi), np.full((1, 41), psi))[0, :, 1]
        assert np.linalg.norm(trace[38] - trace[2]) / 36 == pytest.approx(rise, abs=0.12)
        if phi == -57.0:
            steps = np.diff(trace, axis=0)
            turn = np.einsum("ij,ij->i", np.cross(steps[:-2], steps[1:-1]), steps[2:])
            assert (turn > 0).all()


def test_the_same_seed_makes_the_same_chains_and_another_one_others() -> None:
    one, same, other = chains.generate(20, 0), chains.generate(20, 0), chains.generate(20, 1)
    assert np.array_equal(one.atoms, same.atoms) and np.array_equal(one.lengths, same.lengths)
    assert not np.allclose(one.atoms[0, :50], other.atoms[0, :50])
    assert RESIDUES[0] <= one.lengths.min() and one.lengths.max() <= RESIDUES[1]


@pytest.mark.parametrize("points", [16, 64])
def test_clouds_are_about_their_centroid_with_a_radius_of_one(points: int) -> None:
    found = data.load(Data(name="chains", points=points), "test", Path())
    assert isinstance(found, CloudSet) and found.images.dtype == torch.float32
    assert found.images.shape == (DATASETS["chains"].test_images, points, 3)
    assert (found.size, found.classes) == (points, len(CLASSES))
    torch.testing.assert_close(found.images.mean(dim=1), torch.zeros(len(found), 3),
                               atol=1e-5, rtol=0)  # fmt: skip
    radius = found.images.square().sum(dim=2).mean(dim=1)
    torch.testing.assert_close(radius, torch.ones(len(found)), atol=1e-5, rtol=0)
    assert found.labels.bincount().tolist() == [205, 205, 205, 205, 204]


def test_training_and_test_chains_are_different_ones() -> None:
    train, test = (data.load(Data(name="chains"), split, Path()) for split in ("train", "test"))
    assert isinstance(train, CloudSet) and isinstance(test, CloudSet)
    assert torch.cdist(train.images[:500].flatten(1), test.images.flatten(1)).min() > 0.1
    index = torch.tensor([7, 3])
    part = train.take(index)
    assert isinstance(part, CloudSet) and torch.equal(part.labels, train.labels[index])
    assert torch.equal(torch.cat(list(part.batches(1))), train.images[index])


def test_a_trace_is_sampled_evenly_from_end_to_end() -> None:
    random = np.random.default_rng(0)
    trace = random.standard_normal((30, 3))
    assert np.array_equal(clouds.resampled(trace, 30), trace)
    twice = clouds.resampled(trace, 59)
    np.testing.assert_allclose(twice[::2], trace)
    np.testing.assert_allclose(twice[1::2], (trace[1:] + trace[:-1]) / 2)
    few = clouds.resampled(trace, 5)
    np.testing.assert_allclose(few[[0, 4]], trace[[0, 29]])
    assert math.isclose(float(np.linalg.norm(few[1] - (0.75 * trace[7] + 0.25 * trace[8]))), 0,
                        abs_tol=1e-12)  # fmt: skip


def test_the_fingerprint_is_that_of_the_code_and_needs_no_files(tmp_path: Path) -> None:
    spec = Data(name="chains")
    assert data.fingerprint(spec, tmp_path) == data.fingerprint(
        Data(name="chains", points=8), Path()
    )
    assert data.available(spec, tmp_path).present
    assert data.verify("chains", tmp_path) == ([], [])
    assert not list(tmp_path.iterdir())
