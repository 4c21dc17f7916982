"""`chains`: synthetic protein backbones, generated when they are needed; no files, no download.

A chain is a random walk N-CA-C-N-CA-C-… with the bond lengths and angles of Engh and Huber (Acta
Cryst. A47, 1991) and flat peptide bonds, so that neighbouring CA are 3.80 Å apart. Its dihedrals φ
and ψ come in segments of helix, strand and coil, about the centres of the Ramachandran plot's
regions. Nothing keeps a chain from crossing itself: it is a backbone's geometry, not a fold.

A class says which segments a chain has, after the classes of folds of Levitt and Chothia (Nature
261, 1976): all-α, all-β, α+β (first the helices, then the strands), α/β (in turns), or coil alone.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from care_core.data.clouds import CloudSet, Floats, as_set, resampled, standardised
from care_core.spec.facts import DATASETS

LENGTHS = {"N-CA": 1.458, "CA-C": 1.525, "C-N": 1.329}  # Å
ANGLES = {"N-CA-C": 111.2, "CA-C-N": 116.2, "C-N-CA": 121.7}  # degrees
OMEGA = 180.0  # degrees, of the peptide bond CA-C-N-CA: trans

CLASSES = ("all-alpha", "all-beta", "alpha+beta", "alpha/beta", "coil")
RESIDUES = (50, 150)  #: a chain's length: uniform, both ends included

HELIX, STRAND, LOOP = 0, 1, 2
_SEGMENT = ((8, 20), (4, 10), (3, 8))  # residues of a helix, a strand and a loop: uniform

# centre (φ, ψ) and spread of the regions, in degrees: α, β, polyproline II, left-handed α
_REGIONS: Floats = np.array(
    [(-63, -42, 6), (-120, 130, 12), (-75, 145, 15), (57, 45, 12)], dtype=np.float64
)
_COIL = (0.35, 0.25, 0.32, 0.08)  # how often a residue of a loop is in each


class Chains(NamedTuple):
    """N backbones of up to M residues: what is beyond a chain's length is not part of it."""

    atoms: Floats  #: (N, M, 3, 3) float64, in Å: N, CA and C of each residue
    lengths: npt.NDArray[np.int64]  #: (N,) residues
    labels: npt.NDArray[np.int64]  #: (N,) positions in CLASSES


def load(split: str, points: int) -> CloudSet:
    """One part of the fixed split; `pretrain` and `train` are the same 4,096 chains."""
    facts = DATASETS["chains"]
    count = facts.test_images if split == "test" else facts.pretrain_images
    return _clouds(int(count or 0), 1 if split == "test" else 0, points)


@functools.lru_cache(maxsize=4)  # a run asks for the training chains twice
def _clouds(count: int, seed: int, points: int) -> CloudSet:
    made = generate(count, seed)
    traces = made.atoms[:, :, 1]
    clouds = [resampled(trace[:n], points) for trace, n in zip(traces, made.lengths, strict=True)]
    return as_set(standardised(np.stack(clouds)), made.labels, len(CLASSES), skipped=0)


def generate(count: int, seed: int) -> Chains:
    """`count` chains, the classes in turns; the same seed makes the same chains."""
    random = np.random.Generator(np.random.PCG64([20240507, seed]))
    labels = np.arange(count) % len(CLASSES)
    lengths = random.integers(RESIDUES[0], RESIDUES[1] + 1, count)
    each = zip(labels.tolist(), lengths.tolist(), strict=True)
    kinds = np.stack([_segments(label, length, random) for label, length in each])
    phi, psi = _dihedrals(kinds, random)
    return Chains(_atoms(phi, psi), lengths, labels)


def _segments(label: int, length: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """(M,) HELIX, STRAND or LOOP a residue, of a chain of `length` residues, in segments."""
    found: list[int] = []
    number = 0
    while len(found) < RESIDUES[1]:
        first, last = _SEGMENT[LOOP]
        found += [LOOP] * int(random.integers(first, last + 1))
        kind = _kind(CLASSES[label], number, len(found) / length)
        if kind != LOOP:
            first, last = _SEGMENT[kind]
            found += [kind] * int(random.integers(first, last + 1))
        number += 1
    return np.array(found[: RESIDUES[1]])


def _kind(name: str, number: int, place: float) -> int:
    """What the segment `number` of a chain is, that begins at a share `place` of its length."""
    return {
        "all-alpha": HELIX,
        "all-beta": STRAND,
        "alpha+beta": HELIX if place < 0.5 else STRAND,
        "alpha/beta": STRAND if number % 2 == 0 else HELIX,
        "coil": LOOP,
    }[name]


def _dihedrals(kinds: npt.NDArray[np.int64], random: np.random.Generator) -> tuple[Floats, Floats]:
    """(N, M) φ and ψ in degrees, normal about the centre of each residue's region."""
    coil = np.searchsorted(np.cumsum(_COIL)[:-1], random.random(kinds.shape), side="right")
    region = _REGIONS[np.where(kinds == LOOP, coil, kinds)]
    phi, psi = (
        region[..., n] + region[..., 2] * random.standard_normal(kinds.shape) for n in range(2)
    )
    return phi, psi


def _atoms(phi: Floats, psi: Floats) -> Floats:
    """(N, M, 3, 3) atoms from (N, M) dihedrals, each placed by the three before it."""
    count, residues = phi.shape
    half = np.full(count, OMEGA)
    atoms = np.empty((3 * residues, count, 3))
    bend = np.radians(180 - ANGLES["N-CA-C"])
    atoms[0] = 0.0
    atoms[1] = [LENGTHS["N-CA"], 0.0, 0.0]
    atoms[2] = atoms[1] + LENGTHS["CA-C"] * np.array([np.cos(bend), np.sin(bend), 0.0])
    for n in range(1, residues):
        for atom, (bond, angle, turn) in enumerate(
            (
                (LENGTHS["C-N"], ANGLES["CA-C-N"], psi[:, n - 1]),
                (LENGTHS["N-CA"], ANGLES["C-N-CA"], half),
                (LENGTHS["CA-C"], ANGLES["N-CA-C"], phi[:, n]),
            )
        ):
            at = 3 * n + atom
            atoms[at] = _next(atoms[at - 3 : at], bond, np.radians(angle), np.radians(turn))
    return atoms.reshape(residues, 3, count, 3).transpose(2, 0, 1, 3)


def _next(before: Floats, bond: float, angle: float, turn: Floats) -> Floats:
    """(N, 3) the atom d after a, b, c (3, N, 3): at |cd| = bond, with b-c-d and a-b-c-d in radians.

    NeRF: Parsons et al., J. Comput. Chem. 26 (2005).
    """
    a, b, c = before
    along_bond = _unit(c - b)
    normal = _unit(np.cross(b - a, along_bond))
    aside = np.cross(normal, along_bond)
    flat = bond * np.sin(angle)
    return np.asarray(
        c
        - bond * np.cos(angle) * along_bond
        + flat * np.cos(turn)[:, None] * aside
        + flat * np.sin(turn)[:, None] * normal
    )


def _unit(rows: Floats) -> Floats:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True))
