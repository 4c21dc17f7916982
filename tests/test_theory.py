"""The theory of CARE on real digits: a small L_equi makes augmentations act as rotations.

Measured by benchmarks/theory.py, which says how; docs/theory.md has the figures. Bounds lie far
from what was measured over seeds, so that another machine's rounding does not decide.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
from theory import Shape, Worth, hue_spec, shape, train, untrained, worth

SEEDS = (0, 1)
PAIRS = 4


class Measured(NamedTuple):
    """One encoder's shape, and what it knows."""

    shape: Shape
    worth: Worth


def measured(variant: str, seed: int, *, trained: bool = True) -> Measured:
    spec = hue_spec(variant, seed)
    encoder = train(spec) if trained else untrained(spec)
    return Measured(shape(spec, encoder, PAIRS), worth(spec, encoder))


@pytest.fixture(
    scope="module", params=[SEEDS[0], *(pytest.param(s, marks=pytest.mark.long) for s in SEEDS[1:])]
)
def seed(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def equivariant(seed: int) -> Measured:
    """Trained by equivariance and uniformity, with no term that asks for invariance."""
    return measured("equivariance + uniformity", seed)


@pytest.fixture(scope="module")
def collapsed(seed: int) -> Measured:
    """Trained by the equivariance term alone."""
    return measured("equivariance alone", seed)


@pytest.fixture(scope="module")
def invariant(seed: int) -> Measured:
    return measured("SimCLR", seed)


@pytest.fixture(scope="module")
def random(seed: int) -> Measured:
    return measured("SimCLR", seed, trained=False)


def test_a_rotation_fitted_on_half_of_the_images_predicts_the_other_half(
    equivariant: Measured,
) -> None:
    found = equivariant.shape
    assert found.gram < 0.12  # L_equi is small on images that were not trained on
    assert found.still > 0.8  # the augmentations move the embedding
    assert found.rotated < found.still / 3
    assert found.rotated < found.shuffled / 3


def test_two_augmentations_in_a_row_act_as_the_product_of_their_rotations(
    equivariant: Measured, invariant: Measured, random: Measured
) -> None:
    found = equivariant.shape
    assert found.displacement > 0.6
    assert found.dimensions >= 3
    assert found.composed < 0.3  # the product of R = I with itself would give 1
    assert invariant.shape.composed > 0.5
    assert random.shape.composed > 0.5


def test_equivariance_and_uniformity_do_not_collapse_though_nothing_asks_for_invariance(
    equivariant: Measured, random: Measured
) -> None:
    assert equivariant.shape.spread > 0.6
    assert equivariant.shape.rank > 3
    assert equivariant.worth.hue_projection > 0.9
    assert equivariant.worth.hue_projection > random.worth.hue_projection + 0.1


def test_equivariance_alone_collapses(collapsed: Measured, equivariant: Measured) -> None:
    """Equal embeddings are moved by no augmentation, so its loss is least of all there."""
    assert collapsed.shape.gram < equivariant.shape.gram / 2
    assert collapsed.shape.spread < 0.05
    assert collapsed.shape.rank < 1.3
    assert collapsed.worth.hue_projection < 0.5
    assert collapsed.worth.projection < 35  # per cent; by chance it is 10


def test_an_invariant_embedding_is_moved_by_no_hue(
    invariant: Measured, equivariant: Measured
) -> None:
    """So R = I fits it as well as any rotation, and the hue is forgotten."""
    assert invariant.shape.spread > 0.6
    assert invariant.shape.rotated > 0.7 * invariant.shape.still
    assert invariant.shape.displacement < equivariant.shape.displacement / 5
    assert invariant.worth.hue_projection < 0.3
