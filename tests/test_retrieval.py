"""Neighbours before and after an augmentation."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from care_core.measures import hue, knn, retrieval
from care_core.measures.retrieval import Neighbours


def embeddings(count: int = 300, dim: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def test_the_nearest_are_those_of_a_sorted_list_without_the_query_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queries, bank = embeddings(seed=1), embeddings(seed=2)
    cosines = F.normalize(queries, dim=1) @ F.normalize(bank, dim=1).T
    wanted = [
        [n for n in row.argsort(descending=True).tolist() if n != own][:4]
        for own, row in enumerate(cosines)
    ]
    assert retrieval.nearest(queries, bank, 4).tolist() == wanted
    monkeypatch.setattr(knn, "_COSINES", 300 * 7)  # in parts of seven queries
    assert retrieval.nearest(queries, bank, 4).tolist() == wanted


def test_neighbours_of_an_embedding_that_does_not_move_agree_wholly() -> None:
    f = embeddings()
    still = retrieval.nearest(f, f, 5)
    assert retrieval.overlap(still, retrieval.nearest(2 * f, f, 5)).tolist() == [1.0] * 300
    assert float(retrieval.overlap(still, retrieval.nearest(-f, f, 5)).max()) == 0
    half = torch.tensor([[0, 1, 2, 3]])
    assert retrieval.overlap(half, torch.tensor([[9, 3, 0, 8]])).tolist() == [0.5]


def test_an_embedding_that_turns_with_the_hue_finds_the_shifted_hue() -> None:
    generator = torch.Generator().manual_seed(1)
    hues = torch.rand(2000, generator=generator)
    f, moved = hue.circle(hues), hue.circle(hues + 0.2)
    found = Neighbours(retrieval.nearest(f, f, 5), retrieval.nearest(moved, f, 5))
    judged = retrieval.judge(found, torch.arange(2000) % 2, hues, hues >= 0, 0.2)
    assert judged["agreement"] == 0
    assert judged["hue_gap_still"] < 0.01 and judged["hue_gap_moved"] < 0.01
    assert judged["hue_gap_stayed"] == pytest.approx(0.2, abs=0.01)
    assert judged["same_class_still"] == pytest.approx(0.5, abs=0.05)
    assert retrieval.hue_gap_by_chance(hues, 0.2) == pytest.approx(0.25, abs=0.01)


def test_images_without_a_hue_are_not_spoken_of() -> None:
    hues = torch.tensor([0.0, 0.1, 0.5])
    neighbours = torch.tensor([[1, 2], [0, 2], [0, 1]])
    definite = torch.tensor([True, True, False])
    judged = retrieval.judge(
        Neighbours(neighbours, neighbours), torch.tensor([0, 0, 1]), hues, definite, 0.0
    )
    assert judged["hue_gap_still"] == pytest.approx(0.1)
    assert judged["same_class_still"] == pytest.approx(1 / 3)
    none = retrieval.judge(
        Neighbours(neighbours, neighbours), torch.zeros(3), hues, torch.zeros(3).bool(), 0.0
    )
    assert math.isnan(none["hue_gap_moved"])
