"""Rotations are in SO(3) and uniform; a view's are a cloud's own, the pair's are a split's."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny
from torch import Tensor

from care_core import data
from care_core.data.clouds import CloudSet
from care_core.deepset import DeepSet
from care_core.distributed import ALONE, World
from care_core.methods import Step
from care_core.spec import PretrainSpec
from care_core.views.clouds import CloudFeed, about, rotate, rotations

CLOUDS: dict[str, Any] = {
    "name": "tiny/clouds",
    "data": {"name": "chains", "points": 16},
    "model": {"backbone": "deepset", "width": 8, "hidden": 16, "embedding": 8},
}


def cloudy(**changes: Any) -> PretrainSpec:
    return tiny(**{**CLOUDS, **changes})


def drawn(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return rotations(torch.rand(count, 35, generator=generator, dtype=torch.float64))


def test_rotations_are_orthogonal_with_determinant_one() -> None:
    turns = torch.cat([drawn(1000), *(about(axis, torch.linspace(-4, 7, 50)) for axis in range(3))])
    eye = torch.eye(3, dtype=torch.float64).expand(len(turns), 3, 3)
    torch.testing.assert_close(turns @ turns.transpose(1, 2), eye, atol=1e-12, rtol=0)
    torch.testing.assert_close(torch.linalg.det(turns), torch.ones(len(turns)).double())


def test_rotations_are_uniform() -> None:
    """As the mean of every polynomial of degree 1 and 2 in their entries, and the angle's law."""
    count = 40_000
    turns = drawn(count)
    flat = turns.flatten(1)
    # entries have the mean 0, variance 1/3 and no correlation
    limit = 5 / math.sqrt(count)
    assert flat.mean(dim=0).abs().max() < limit
    moment = flat.T @ flat / count
    torch.testing.assert_close(moment, torch.eye(9).double() / 3, atol=limit, rtol=0)
    # the rotation's angle has the density (1 - cos a) / π, of which the share up to a is
    angle = ((flat[:, [0, 4, 8]].sum(dim=1) - 1) / 2).clamp(-1, 1).acos()
    for a in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0):
        share = float((angle < a).double().mean())
        assert share == pytest.approx((a - math.sin(a)) / math.pi, abs=limit)


def test_a_rotation_about_an_axis_leaves_it_and_turns_the_others_ahead() -> None:
    quarter = torch.tensor([math.pi / 2])
    eye = torch.eye(3)[None]
    for axis in range(3):
        turned = rotate(eye, about(axis, quarter))[0]
        torch.testing.assert_close(turned[axis], eye[0, axis])
        torch.testing.assert_close(turned[(axis + 1) % 3], eye[0, (axis + 2) % 3])


def test_a_row_of_rotations_holds_for_its_share_of_the_clouds() -> None:
    clouds, turns = torch.randn(6, 5, 3), drawn(2).float()
    found = rotate(clouds, turns)
    for number in range(6):
        torch.testing.assert_close(found[number], clouds[number] @ turns[number // 3].T)
    with pytest.raises(ValueError, match="5 clouds cannot be shared out evenly to 2 rotations"):
        rotate(clouds[:5], turns)


@pytest.fixture(scope="module")
def chains() -> CloudSet:
    found = data.load(cloudy().data, "train", Path())
    assert isinstance(found, CloudSet)
    return found


def step_of(spec: PretrainSpec, chains: CloudSet, world: World = ALONE, number: int = 5) -> Step:
    feed = CloudFeed(spec, chains, world, torch.device("cpu"))
    return next(feed.steps(number, number + 1))


def turns_between(one: Tensor, other: Tensor) -> Tensor:
    """(B, 3, 3) rotations that take clouds of one to those of the other, exactly."""
    u, _, vt = torch.linalg.svd(other.double().transpose(1, 2) @ one.double())
    found = u @ vt
    gap = (one.double() @ found.transpose(1, 2) - other).abs().max()
    assert gap < 1e-4, "they are not rotations of each other"
    assert (torch.linalg.det(found) > 0).all()
    return found


def test_each_view_has_a_rotation_a_cloud_and_the_pair_one_a_split(chains: CloudSet) -> None:
    spec = cloudy(equivariance={"weight": 0.1, "splits": 16}, training={"batch_size": 128})
    step = step_of(spec, chains)
    assert [view.shape for view in (*step.views, *step.pair)] == [(128, 16, 3)] * 4
    own = turns_between(step.views[0], step.views[1])
    assert torch.cdist(own.flatten(1), own.flatten(1)).fill_diagonal_(9).min() > 0.01
    shared = turns_between(step.pair[0], step.pair[1]).view(16, 8, 3, 3)
    torch.testing.assert_close(shared, shared[:, :1].expand_as(shared), atol=1e-4, rtol=0)
    assert (
        torch.cdist(shared[:, 0].flatten(1), shared[:, 0].flatten(1)).fill_diagonal_(9).min() > 0.01
    )


@pytest.mark.parametrize(("shared_by", "count"), [("step", 1), (32, 4)])
def test_who_shares_a_pair_is_said_by_the_spec(
    chains: CloudSet, shared_by: Any, count: int
) -> None:
    term = {"weight": 0.1, "splits": 16, "shared_by": shared_by}
    step = step_of(cloudy(equivariance=term, training={"batch_size": 128}), chains)
    shared = turns_between(step.pair[0], step.pair[1]).view(count, -1, 9)
    torch.testing.assert_close(shared, shared[:, :1].expand_as(shared), atol=1e-4, rtol=0)


def test_ranks_see_their_shares_of_the_step_that_one_would_see(chains: CloudSet) -> None:
    spec = cloudy(training={"batch_size": 128})
    whole = step_of(spec, chains)
    parts = [step_of(spec, chains, World(rank, 2)) for rank in range(2)]
    for name in ("views", "pair"):
        for n in range(2):
            both = torch.cat([getattr(part, name)[n] for part in parts])
            torch.testing.assert_close(both, getattr(whole, name)[n])
    again = step_of(spec, chains)
    assert all(torch.equal(a, b) for a, b in zip(again.views, whole.views, strict=True))
    other = step_of(spec, chains, number=6)
    assert not torch.equal(other.views[0], whole.views[0])


def test_a_deepset_knows_no_order_of_points_and_takes_any_number() -> None:
    torch.manual_seed(0)
    network, clouds = DeepSet(8), torch.randn(4, 20, 3)
    found = network(clouds)
    assert found.shape == (4, 8)
    torch.testing.assert_close(network(clouds[:, torch.randperm(20)]), found)
    assert network(clouds[:, :7]).shape == (4, 8)
    assert not torch.allclose(network(rotate(clouds, drawn(1))), found, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"model": {"backbone": "small"}},
            "model.backbone: small takes images, and chains has poi",
        ),
        ({"data": {"name": "digits"}}, "model.backbone: deepset takes point clouds, and digits ha"),
        ({"data": {"name": "chains", "image_size": 16}}, "image_size: chains has point clouds"),
        ({"augment": {"hue": 0.2}}, "augment.hue: is of images; a cloud is rotated"),
        ({"method": {"name": "equimod"}}, "method.name: equimod reads what augmented an image"),
        ({"equivariance": {"weight": 1, "crop": False}}, "equivariance.crop: is of images"),
        ({"fidelity": "official"}, "fidelity: the official code has nothing on point clouds"),
        ({"probe": {"data": {"name": "digits"}}}, "probe.data: digits has images, which an encod"),
        ({"probe": {"linear": {"augmentation": "simclr"}}}, "probe.linear.augmentation: is of im"),
        ({"data": {"name": "proteins"}}, "path: the proteins dataset needs one"),
        (
            {"data": {"name": "proteins", "path": "p"}, "monitor": {"every_epochs": 1}},
            "monitor.every_epochs: proteins has no classes to check by; take 0",
        ),
    ],
)
def test_what_does_not_go_with_clouds_is_refused_by_its_key(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        cloudy(**changes)


def test_points_are_of_clouds_alone() -> None:
    with pytest.raises(ValueError, match="points: digits has images, which have none"):
        tiny(data={"name": "digits", "points": 16})


def test_a_runs_identity_has_nothing_of_images() -> None:
    fields = cloudy().determining()
    assert fields["data"] == {"name": "chains", "points": 16}
    assert fields["augment"] == {} and "crop" not in fields["equivariance"]
    assert "stem" not in fields["model"] and fields["model"]["width"] == 8
    assert (
        cloudy(data={"name": "chains", "points": 64}).determining()
        == cloudy(data={"name": "chains"}).determining()
    )


def test_a_set_without_classes_has_no_check_unless_it_is_asked_for() -> None:
    fields = {**CLOUDS, "data": {"name": "proteins", "path": "p"}}
    assert PretrainSpec.model_validate(fields).monitor.every_epochs == 0
    assert PretrainSpec.model_validate(CLOUDS).monitor.every_epochs == 10
