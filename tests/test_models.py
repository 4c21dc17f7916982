"""Backbones and projector: the paper's stem and sizes, and weights from the seed alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from conftest import tiny
from torch import nn

from care_core import models
from care_core.errors import SpecError
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


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_projector_has_as_many_layers_as_the_spec_says(layers: int, norm: bool) -> None:
    spec = SMALL.model_copy(update={"projector_layers": layers, "projector_norm": norm})
    projector = models.Encoder(spec).projector
    linear = [layer for layer in projector if isinstance(layer, nn.Linear)]
    sizes = [32, *[16] * (layers - 1), 8]
    assert [(layer.in_features, layer.out_features) for layer in linear] == list(pairwise(sizes))
    assert [layer.bias is None for layer in linear] == [norm] * (layers - 1) + [False]
    kinds = [nn.Linear, nn.BatchNorm1d, nn.ReLU] if norm else [nn.Linear, nn.ReLU]
    assert [type(layer) for layer in projector] == kinds * (layers - 1) + [nn.Linear]


def test_the_imagenet_stem_is_torchvisions() -> None:
    network, _ = models.backbone(Model(backbone="resnet18"), "imagenet")
    assert (network.conv1.kernel_size, network.conv1.stride) == ((7, 7), (2, 2))
    assert isinstance(network.maxpool, nn.MaxPool2d)
    fields = {"model": {"backbone": "resnet18"}, "data": {"name": "digits", "image_size": 96}}
    assert models.build(tiny(**fields)).backbone.conv1.kernel_size == (7, 7)
    fields["data"] = {"name": "digits", "image_size": 32}
    assert models.build(tiny(**fields)).backbone.conv1.kernel_size == (3, 3)


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "convnext_atto"])
def test_a_timm_model_gives_as_many_features_as_it_says(name: str) -> None:
    """Of one with batch norm, one whose head widens the features, and one with layer norm."""
    network, features = models.backbone(Model(backbone=f"timm/{name}"))
    with torch.inference_mode():
        assert network.eval()(torch.rand(2, 3, 64, 64)).shape == (2, features)


def test_a_transformer_of_timm_is_made_for_the_images_of_the_spec() -> None:
    fields = {"model": {"backbone": "timm/vit_tiny_patch16_224", "hidden": 8, "embedding": 4}}
    encoder = models.build(tiny(**fields, data={"name": "digits", "image_size": 32}))
    with torch.inference_mode():
        assert encoder.eval()(torch.rand(2, 3, 32, 32)).shape == (2, 4)
    assert models.timm_options("resnet10t", 32) == {}


def test_a_model_that_timm_has_not_is_told_with_those_like_it() -> None:
    with pytest.raises(
        SpecError, match=r"model\.backbone: timm has no model 'resnet9'; it has .*res"
    ):
        models.backbone(Model.model_construct(backbone="timm/resnet9"))
    with pytest.raises(ValueError, match="timm has no model 'resnet9', did you mean timm/resnet"):
        Model(backbone="timm/resnet9")


def test_projections_are_fp32_unit_rows_even_in_autocast() -> None:
    encoder = models.build(tiny())
    images = torch.rand(16, 3, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows = encoder(images)
    for z in (rows, encoder(images)):
        assert z.shape == (16, 8)
        assert z.dtype == torch.float32
        torch.testing.assert_close(z.norm(dim=1), torch.ones(16), rtol=0, atol=1e-6)


@pytest.mark.parametrize("backbone", ["small", "resnet18", "timm/resnet10t"])
def test_weights_come_from_the_seed_and_the_global_generator_is_left_alone(backbone: str) -> None:
    def weights(seed: int) -> dict[str, torch.Tensor]:
        model = {"backbone": backbone, "hidden": 16, "embedding": 8}
        return models.build(tiny(model=model, seed=seed)).state_dict()

    torch.manual_seed(1)
    outside = torch.get_rng_state()
    first = weights(0)
    assert torch.equal(torch.get_rng_state(), outside)
    torch.manual_seed(2)
    again, other = weights(0), weights(1)
    assert all(torch.equal(first[key], again[key]) for key in first)
    drawn = [key for key, value in first.items() if value.ndim > 1]
    assert not any(torch.equal(first[key], other[key]) for key in drawn)


def test_what_a_timm_model_draws_itself_is_counted_and_the_global_generator_left_alone() -> None:
    fields = {"model": {"backbone": "timm/resnet10t", "hidden": 8, "embedding": 4}}
    spec, here = tiny(**fields), torch.device("cpu")
    state = torch.get_rng_state()

    def drawn(step: int, rank: int) -> list[float]:
        with models.seeded_dropout(spec, step, rank, here):
            return torch.rand(3).tolist()

    assert drawn(5, 0) == drawn(5, 0)
    assert len({tuple(drawn(step, rank)) for step in (5, 6) for rank in (0, 1)}) == 4
    assert torch.equal(torch.get_rng_state(), state)
