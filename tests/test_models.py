"""Backbones and projector: the paper's stem and sizes, and weights from the seed alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from care_core import draws, models
from care_core.spec import Model

SMALL = Model(backbone="small", width=4, hidden=16, embedding=8)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_resnets_have_the_cifar_stem(name: str) -> None:
    network, _ = models.backbone(Model.model_validate({"backbone": name}))
    stem = network.conv1
    assert (stem.in_channels, stem.out_channels) == (3, 64)
    assert (stem.kernel_size, stem.stride, stem.padding) == ((3, 3), (1, 1), (1, 1))
    assert stem.bias is None
    assert not any(isinstance(module, nn.MaxPool2d) for module in network.modules())
    sides: list[int] = []
    network.layer1.register_forward_pre_hook(lambda _, given: sides.append(given[0].shape[-1]))
    network.eval()(torch.zeros(1, 3, 32, 32))
    assert sides == [32]  # the first stage sees every pixel


@pytest.mark.parametrize(
    ("spec", "features"),
    [
        (Model(backbone="resnet18"), 512),
        (Model(backbone="resnet50"), 2048),
        (Model(backbone="small"), 8 * 24),
        (SMALL, 8 * 4),
    ],
)
def test_backbones_give_as_many_features_as_they_say(spec: Model, features: int) -> None:
    network, said = models.backbone(spec)
    assert said == features
    with torch.inference_mode():
        assert network.eval()(torch.rand(2, 3, 16, 16)).shape == (2, features)


def test_the_projector_has_the_sizes_of_the_spec_and_no_first_bias() -> None:
    encoder = models.Encoder(SMALL)
    first, _, _, last = encoder.projector
    assert (first.in_features, first.out_features, last.out_features) == (32, 16, 8)
    assert first.bias is None
    assert last.bias is not None


def test_projections_are_fp32_unit_rows_even_in_autocast() -> None:
    encoder = models.build(SMALL, draws.generator(0, "init"))
    images = torch.rand(16, 3, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows = encoder(images)
    for z in (rows, encoder(images)):
        assert z.shape == (16, 8)
        assert z.dtype == torch.float32
        torch.testing.assert_close(z.norm(dim=1), torch.ones(16), rtol=0, atol=1e-6)


def test_weights_come_from_the_generator_and_the_global_one_is_left_alone() -> None:
    def weights(seed: int) -> dict[str, torch.Tensor]:
        return models.build(SMALL, draws.generator(seed, "init")).state_dict()

    torch.manual_seed(1)
    outside = torch.get_rng_state()
    first = weights(0)
    assert torch.equal(torch.get_rng_state(), outside)
    torch.manual_seed(2)
    again, other = weights(0), weights(1)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["backbone.0.weight"], other["backbone.0.weight"])
    assert not torch.equal(first["projector.0.weight"], other["projector.0.weight"])
