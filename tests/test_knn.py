"""kNN: equal to a literal loop, and a check while training that leaks only where it is told to."""

from __future__ import annotations

import math
from pathlib import Path

import digit_files
import pytest
import torch
from conftest import tiny
from torch import Tensor

from care_core import data, models
from care_core.data.base import ImageSet
from care_core.measures import knn


def literal(
    bank: Tensor, labels: Tensor, queries: Tensor, k: int, temperature: float, classes: int
) -> list[int]:
    found = []
    for q in queries.double():
        cosines = [float(q @ row / (q.norm() * row.norm())) for row in bank.double()]
        nearest = sorted(range(len(bank)), key=lambda n: -cosines[n])[:k]
        votes = [0.0] * classes
        for n in nearest:
            votes[int(labels[n])] += math.exp(cosines[n] / temperature)
        found.append(max(range(classes), key=lambda c: votes[c]))
    return found


@pytest.mark.parametrize(
    ("k", "temperature"), [(1, 0.5), (7, 0.5), (7, 0.02), (60, 0.1), (500, 0.5)]
)
def test_knn_equals_a_literal_loop(k: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(k)
    bank = torch.randn(60, 6, generator=generator) * torch.rand(60, 1, generator=generator) * 9
    queries = torch.randn(40, 6, generator=generator)
    labels = torch.randint(0, 4, (60,), generator=generator)
    found = knn.predict(bank, labels, queries, k=k, temperature=temperature, classes=4)
    assert found.tolist() == literal(bank, labels, queries, k, temperature, 4)


def test_knn_looks_at_few_cosines_at_a_time_and_finds_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = torch.Generator().manual_seed(0)
    bank, queries = (torch.randn(n, 6, generator=generator) for n in (60, 41))
    labels = torch.arange(60) % 4
    asked = {"k": 7, "temperature": 0.5, "classes": 4}
    whole = knn.predict(bank, labels, queries, **asked)
    monkeypatch.setattr(knn, "_COSINES", 200)
    assert torch.equal(knn.predict(bank, labels, queries, **asked), whole)


def test_the_check_while_training_holds_out_a_fixed_tenth_of_the_images() -> None:
    images = ImageSet(torch.zeros(57, 3, 8, 8, dtype=torch.uint8), torch.arange(57), 57)
    bank, queries = knn.hold_out(images)
    assert (len(bank), len(queries)) == (52, 5)
    assert sorted([*bank.labels.tolist(), *queries.labels.tolist()]) == list(range(57))
    assert torch.equal(knn.hold_out(images)[1].labels, queries.labels)


def test_the_check_of_files_is_that_of_the_images_they_hold(tmp_path: Path) -> None:
    folder = digit_files.write(tmp_path, train=120)
    files = data.load(folder, "train", Path())
    pixels = torch.cat(list(files.batches(50, 0)))
    memory = ImageSet(pixels, files.labels, files.classes)
    encoder, spec = models.build(tiny()), tiny(launch={"workers": 2})
    found = [knn.check(encoder, *knn.hold_out(images), spec=spec) for images in (files, memory)]
    assert found[0] == found[1] > 10


def test_the_check_counts_the_classes_of_the_images_it_is_given() -> None:
    images = digit_files.digits("train", 40)
    many = ImageSet(images.images, images.labels + 90, 100)
    encoder = models.build(tiny())
    assert knn.check(encoder, many, many, spec=tiny(monitor={"k": 1})) == 100


def test_the_check_changes_nothing_unless_it_is_to_drift() -> None:
    bank, queries = knn.hold_out(digit_files.digits("train", 200))
    encoder = models.build(tiny()).train()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    honest = knn.check(encoder, bank, queries, spec=tiny())
    assert all(module.training for module in encoder.modules())
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    assert knn.check(encoder, bank, queries, spec=tiny()) == honest

    knn.check(encoder, bank, queries, spec=tiny(), train_mode=True)
    assert all(module.training for module in encoder.modules())
    after = encoder.state_dict()
    moved = {key for key in before if not torch.equal(after[key], before[key])}
    assert moved == {key for key in before if "running" in key or "num_batches" in key}
    assert after["backbone.1.num_batches_tracked"] == 2  # the bank, then the queries


def test_a_drift_over_the_queries_is_seen_in_the_statistics() -> None:
    bank, queries = knn.hold_out(digit_files.digits("train", 200))
    bright = ImageSet(queries.images // 2 + 120, queries.labels, queries.classes)
    found = []
    for asked in (queries, bright):
        encoder = models.build(tiny())
        knn.check(encoder, bank, asked, spec=tiny(), train_mode=True)
        found.append(encoder.state_dict()["backbone.1.running_mean"])
    assert not torch.allclose(*found, atol=1e-3)
