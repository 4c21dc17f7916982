"""MoCo's keys: shuffled over ranks or parts, and alike on every rank ever after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FAST, tiny
from ranks import Launch, ask, assert_equal, left, meet, newest, run
from torch import Tensor

from care_core import draws, methods
from care_core.distributed import ALONE
from care_core.methods.moco import MoCo
from care_core.spec import PretrainSpec

BATCH = 32
FIRST = "keys.backbone.1.running_mean"  # of the key encoder's first batch norm


def spec_of(**changes: Any) -> PretrainSpec:
    method = {"name": "moco", "queue": 2 * BATCH, **changes.pop("method", {})}
    return tiny(
        training={"batch_size": BATCH}, equivariance={"weight": 0}, method=method, **changes
    )


def images() -> Tensor:
    """Each brighter than the one before, so that ranks' own statistics differ."""
    noise = torch.randn(BATCH, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    return noise + torch.linspace(-3, 3, BATCH, dtype=torch.float64).view(-1, 1, 1, 1)


def _keys(method: MoCo, mine: Tensor, number: int) -> Tensor:
    method.before_step(number)
    return method._encode_keys(mine)


def keys_of(rank: int, size: int, folder: Path, spec: str) -> dict[str, Tensor]:
    """The keys of a rank's images in two steps, their statistics, and keys of fresh statistics."""
    world = meet(rank, size, folder)
    method = methods.build(PretrainSpec.model_validate_json(spec), world).double()
    assert isinstance(method, MoCo)
    mine = images()[world.share(BATCH)]
    method.eval()
    found = {"evaluated": _keys(method, mine, 0), "image by image": method._encode(mine)}
    method.train()
    found |= {"keys": _keys(method, mine, 0), "mean": method.get_buffer(FIRST).clone()}
    found["next"] = _keys(method, mine, 1)
    world.close()
    return found


def whole(ranks: list[dict[str, Tensor]], key: str) -> Tensor:
    return torch.cat([rank[key] for rank in ranks])


@pytest.fixture(scope="module")
def shuffled(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("shuffled")
    return ask(launch, keys_of, 2, folder, spec=spec_of().model_dump_json())


def test_keys_come_back_in_the_order_of_their_images(shuffled: list[dict[str, Tensor]]) -> None:
    """With fixed statistics a key depends on its image alone, wherever it is encoded."""
    for rank in shuffled:
        torch.testing.assert_close(rank["evaluated"], rank["image by image"])
        assert (rank["evaluated"] - rank["evaluated"].flip(0)).abs().max() > 1e-2


def test_each_batch_of_keys_is_a_random_half_of_all_images(
    shuffled: list[dict[str, Tensor]],
) -> None:
    """What a literal shuffle of the global batch makes of it; of another order in another step."""
    for number, key in enumerate(("keys", "next")):
        method = methods.build(spec_of(), ALONE).double()
        assert isinstance(method, MoCo)
        order = torch.randperm(BATCH, generator=draws.generator(0, "shuffle", number))
        assert order.tolist() != sorted(order.tolist())
        wanted = torch.empty(BATCH, 8, dtype=torch.float64)
        for half in order.chunk(2):
            wanted[half] = method._encode(images()[half])
        torch.testing.assert_close(whole(shuffled, key), wanted)
    assert not torch.allclose(whole(shuffled, "keys"), whole(shuffled, "next"), atol=1e-3)


def test_statistics_are_mixed_over_the_ranks_and_else_they_are_not(
    launch: Launch, tmp_path: Path, shuffled: list[dict[str, Tensor]]
) -> None:
    off = spec_of(method={"shuffle_bn": False}).model_dump_json()
    own = ask(launch, keys_of, 2, tmp_path, spec=off)

    def gap(ranks: list[dict[str, Tensor]]) -> float:
        return float((ranks[0]["mean"] - ranks[1]["mean"]).norm())

    assert gap(shuffled) < gap(own) / 2
    assert not torch.allclose(whole(shuffled, "keys"), whole(own, "keys"), atol=1e-2)
    method = methods.build(spec_of(), ALONE).double()
    assert isinstance(method, MoCo)
    halves = [method._encode(half) for half in images().chunk(2)]
    torch.testing.assert_close(whole(own, "keys"), torch.cat(halves))


def test_the_shuffle_is_the_same_on_every_start(
    launch: Launch, tmp_path: Path, shuffled: list[dict[str, Tensor]]
) -> None:
    again = ask(launch, keys_of, 2, tmp_path, spec=spec_of().model_dump_json())
    for first, second in zip(shuffled, again, strict=True):
        assert_equal(first, second)


def test_the_parts_of_one_rank_are_shuffled_as_ranks_are(
    shuffled: list[dict[str, Tensor]],
) -> None:
    method = methods.build(spec_of(bn={"replicas": 2}), ALONE).double()
    assert isinstance(method, MoCo)
    torch.testing.assert_close(_keys(method, images(), 0), whole(shuffled, "keys"))
    torch.testing.assert_close(method.get_buffer(FIRST), shuffled[0]["mean"])


def test_with_synchronised_batch_norm_there_is_nothing_to_shuffle(
    launch: Launch, tmp_path: Path
) -> None:
    spec = spec_of(bn={"sync": True}).model_dump_json()
    ranks = ask(launch, keys_of, 2, tmp_path, spec=spec)
    (alone,) = ask(launch, keys_of, 1, tmp_path / "1", spec=spec)
    torch.testing.assert_close(whole(ranks, "keys"), alone["keys"])


def test_queue_pointer_and_key_encoder_are_alike_on_all_ranks_after_training(
    launch: Launch, tmp_path: Path
) -> None:
    method = {"name": "moco", "queue": 512, "momentum": 0.9}
    run(launch, tmp_path, tiny(**FAST, method=method))
    first, second = left(tmp_path, 2)
    assert_equal(first["parameters"], second["parameters"])
    assert any(name.startswith("keys.") for name in first["parameters"])
    for name in ("queue", "pointer"):
        assert torch.equal(first["buffers"][name], second["buffers"][name])
    assert first["buffers"]["pointer"] == 15 * 256 % 512
    start = methods.build(tiny(**FAST, method=method), ALONE).get_buffer("queue")
    now = first["buffers"]["queue"]
    assert ((now - start).norm(dim=1) > 1e-3).all()
    torch.testing.assert_close(now.norm(dim=1), torch.ones(512))
    assert len(now.unique(dim=0)) == 512  # keys of both ranks, no image's twice
    saved = newest(tmp_path)["method"]
    assert torch.equal(saved["queue"], now) and saved["pointer"] == 256
