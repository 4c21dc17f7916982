"""A frozen encoder's features: alike at every precision and pass, and fp32 wherever they go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import digit_files
import probes
import pytest
import torch
from conftest import tiny
from torch import Tensor, nn
from torch.nn import functional as F

from care_core import models
from care_core.data.base import ImageSet
from care_core.measures import knn
from care_core.measures.augmented import Augmented
from care_core.measures.features import Features, extract, pass_size
from care_core.measures.linear import Stored, classify
from care_core.models import Encoder
from care_core.spec import LinearProbe, Optimizer, ProbeSpec

NORMALIZATION = tiny().data.normalization
KNOWN = digit_files.digits("train", 300)
ASKED = digit_files.digits("test", 200)


def encoder(backbone: str = "small") -> Encoder:
    """As initialised, with statistics of batch norm that are not the identity's."""
    model = {**tiny().model.model_dump(), "backbone": backbone}
    if backbone != "small":
        model["width"] = None
    made = models.build(tiny(model=model)).train()
    with torch.no_grad():
        made(torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    return made.eval()


@contextmanager
def seen(network: Encoder) -> Iterator[list[Tensor]]:
    """What the first convolution gives, pass by pass: its rows and its precision."""
    found: list[Tensor] = []
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    hook = first.register_forward_hook(lambda module, inputs, output: found.append(output))
    yield found
    hook.remove()


@pytest.mark.parametrize("backbone", ["small", "resnet18"])
def test_features_in_bf16_point_where_those_in_fp32_do(backbone: str) -> None:
    network, images = encoder(backbone), ASKED.take(torch.arange(40))
    exact = extract(network, images, NORMALIZATION)
    with seen(network) as passes:
        rounded = extract(network, images, NORMALIZATION, precision="bf16")
    assert {part.dtype for part in passes} == {torch.bfloat16}
    for layer, other in zip(exact, rounded, strict=True):
        assert layer.dtype == other.dtype == torch.float32
        assert not torch.equal(layer, other)
        assert float(F.cosine_similarity(layer, other).min()) > 0.999
        torch.testing.assert_close(other, layer, rtol=0, atol=0.03 * float(layer.abs().max()))


def test_projections_are_unit_rows_of_fp32_at_every_precision() -> None:
    for precision in ("fp32", "bf16"):
        found = extract(encoder(), ASKED, NORMALIZATION, precision=precision).projection
        # rows rounded to bf16 after they were normalised would be off by 1e-3
        torch.testing.assert_close(found.norm(dim=1), torch.ones(len(ASKED)), rtol=0, atol=1e-6)


def test_fp32_is_fp32_within_somebody_elses_autocast() -> None:
    network = encoder()
    exact = extract(network, ASKED, NORMALIZATION)
    with torch.autocast("cpu", torch.bfloat16):
        again = extract(network, ASKED, NORMALIZATION)
    assert all(torch.equal(a, b) for a, b in zip(exact, again, strict=True))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_asking_again_gives_the_same_features_to_the_last_bit(precision: str) -> None:
    found = [extract(encoder(), ASKED, NORMALIZATION, precision=precision) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_pass_is_as_large_as_suits_the_device_except_where_its_size_would_matter() -> None:
    network = encoder()
    images = ImageSet(torch.zeros(600, 3, 8, 8, dtype=torch.uint8), torch.zeros(600).long(), 1)
    size = pass_size(network, images.size)
    for settings, most in (({}, size), ({"drift": True}, 512), ({"batch": 70}, 70)):
        with seen(network) as passes:
            extract(network, images, NORMALIZATION, **settings)  # type: ignore[arg-type]
        assert [len(part) for part in passes] == [
            len(part) for part in torch.arange(600).split(most)
        ]


def test_a_probe_of_features_in_bf16_scores_as_one_of_features_in_fp32() -> None:
    network = encoder()
    spec = LinearProbe(epochs=20, batch_size=64, optimizer=Optimizer(lr=1e-2))

    def scores(precision: str) -> list[float]:
        known, asked = (
            extract(network, images, NORMALIZATION, precision=precision)
            for images in (KNOWN, ASKED)
        )
        source = Stored(known, KNOWN.labels, asked, seed=0, batch_size=64)
        linear = classify(spec, 0, source, ASKED.labels, 10)
        guess = knn.predict(
            known.backbone, KNOWN.labels, asked.backbone, k=20, temperature=0.5, classes=10
        )
        votes = 100 * float((guess == ASKED.labels).float().mean())
        return [*(score.reported for score in linear.values()), votes]

    exact, rounded = scores("fp32"), scores("bf16")
    assert rounded == scores("bf16")
    assert exact[0] > 40 and exact[2] > 40  # by chance it is 10
    assert rounded == pytest.approx(exact, abs=2.5)  # per cent: 5 of 200 images


def probe_spec(precision: str, **linear: Any) -> ProbeSpec:
    return probes.probe_spec(
        tiny(), probe={"precision": precision, "linear": {**probes.LINEAR, **linear}}
    )


@pytest.mark.parametrize("augmentation", ["none", "simclr"])
def test_images_that_pass_anew_each_epoch_do_so_at_the_probes_precision(augmentation: str) -> None:
    found: dict[str, list[Features]] = {}
    for precision, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        network = encoder()
        source = Augmented(
            probe_spec(precision, augmentation=augmentation), network, KNOWN,
            lambda asked: extract(asked, ASKED, NORMALIZATION), seed=0, decoders=0,
        )  # fmt: skip
        with seen(network) as passes:
            found[precision] = [batch for batch, _ in source.epoch(0)]
        assert {part.dtype for part in passes} == {kind}
    for exact, rounded in zip(*found.values(), strict=True):
        for layer, other in zip(exact, rounded, strict=True):
            assert other.dtype == torch.float32
            assert float(F.cosine_similarity(layer, other).min()) > 0.999


@pytest.mark.parametrize(
    ("precision", "kind"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.bfloat16)],
)
def test_the_check_while_training_is_at_the_trainings_precision(
    precision: str, kind: torch.dtype
) -> None:
    network = encoder()
    training = {"epochs": 2, "batch_size": 128, "precision": precision}
    with seen(network) as passes:
        found = knn.check(network, KNOWN, ASKED, spec=tiny(training=training))
    assert {part.dtype for part in passes} == {kind}  # a CPU has no products of fp16
    assert found == pytest.approx(knn.check(network, KNOWN, ASKED, spec=tiny()), abs=2.5)
