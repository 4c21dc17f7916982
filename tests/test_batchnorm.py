"""Batch norm takes its statistics over the images that a spec names, and is exact in doing so."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import Launch, ask, meet
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from care_core import batchnorm
from care_core.distributed import ALONE, World
from care_core.spec.sections import BatchNorm

ROWS = 12

#: Layers, and the shapes that follow the batch.
LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "1d": (lambda: nn.BatchNorm1d(5), (5,)),
    "1d without scale and shift": (lambda: nn.BatchNorm1d(5, affine=False), (5,)),
    "2d": (lambda: nn.BatchNorm2d(5), (5, 3, 4)),
    "2d without scale and shift": (lambda: nn.BatchNorm2d(5, affine=False), (5, 3, 4)),
    "another momentum and ε": (lambda: nn.BatchNorm2d(5, eps=0.1, momentum=0.3), (5, 3, 4)),
    "timm's with an activation": (lambda: BatchNormAct2d(5, act_layer=nn.SiLU), (5, 3, 4)),
}


def layer_and_rows(kind: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor]:
    """A layer with weights of its own, and rows whose means rise, so that the ranks' differ."""
    make, shape = LAYERS[kind]
    source = torch.Generator().manual_seed(0)
    layer = make().to(dtype)
    for weight in layer.parameters():
        weight.data.copy_(torch.rand(weight.shape, generator=source) + 0.5)
    rising = torch.arange(ROWS).view(-1, *[1] * len(shape))
    rows = torch.randn(ROWS, *shape, generator=source) * (1 + rising) + 3 * rising
    return layer, rows.to(dtype)


def passed(layer: nn.Module, rows: Tensor, upstream: Tensor) -> dict[str, Tensor]:
    """Outputs, gradients and buffers after two passes, of which the second goes backward."""
    rows = rows.clone().requires_grad_()
    layer(2 * rows.detach() - 1)
    outputs = layer(rows)
    outputs.backward(upstream.to(outputs.dtype))
    found = {"outputs": outputs.detach(), "rows": rows.grad, **dict(layer.named_buffers())}
    return found | {f"gradient of {k}": p.grad for k, p in layer.named_parameters()}


def upstream(rows: Tensor) -> Tensor:
    return torch.randn(rows.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def synchronised(rank: int, size: int, folder: Path, dtype: str) -> dict[str, dict[str, Tensor]]:
    """What each layer makes of a rank's share."""
    world, found = meet(rank, size, folder), {}
    for kind in LAYERS:
        layer, rows = layer_and_rows(kind, getattr(torch, dtype))
        batchnorm.adopt(layer, BatchNorm(sync=True), world)
        mine = world.share(ROWS)
        found[kind] = passed(layer, rows[mine], upstream(rows)[mine])
    world.close()
    return found


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("size", [2, 3])
def test_over_ranks_it_is_batch_norm_of_all_rows(
    launch: Launch, tmp_path: Path, size: int, dtype: str
) -> None:
    ranks = ask(launch, synchronised, size, tmp_path, dtype=dtype)
    close = {"rtol": 1e-10, "atol": 1e-10} if dtype == "float64" else {"rtol": 1e-4, "atol": 1e-5}
    for kind in LAYERS:
        layer, rows = layer_and_rows(kind)
        wanted = passed(layer, rows, upstream(rows))
        found = [rank[kind] for rank in ranks]
        assert found[0].keys() == wanted.keys()
        for key, value in wanted.items():
            if key in ("outputs", "rows"):
                whole = torch.cat([one[key] for one in found])
            elif key.startswith("gradient"):  # summed over the ranks, as their losses are
                whole = sum(one[key] for one in found)
            else:
                whole = found[0][key]
                assert all(torch.equal(one[key], whole) for one in found)
            torch.testing.assert_close(whole.to(value.dtype), value, **close, msg=f"{kind} {key}")


def far_from_zero(rank: int, size: int, folder: Path) -> dict[str, Tensor]:
    """fp32 rows near 1000, whose squares lose all digits of their spread."""
    world = meet(rank, size, folder)
    rows = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)) * 0.1 + 1000
    layer = nn.BatchNorm1d(3)
    batchnorm.adopt(layer, BatchNorm(sync=True), world)
    outputs = layer(rows[world.share(64)]).detach()
    world.close()
    return {"outputs": outputs, "var": layer.running_var}


def test_statistics_over_ranks_do_not_cancel(launch: Launch, tmp_path: Path) -> None:
    ranks = ask(launch, far_from_zero, 2, tmp_path)
    rows = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)) * 0.1 + 1000
    exact = nn.BatchNorm1d(3).double()
    wanted = exact(rows.double()).detach()
    outputs = torch.cat([rank["outputs"] for rank in ranks])
    assert (outputs - wanted).abs().max() < 1e-2  # a mean of 1000 has an error of 6e-5 in fp32
    torch.testing.assert_close(ranks[0]["var"].double(), exact.running_var, rtol=1e-4, atol=0)


def test_without_synchronisation_a_rank_has_statistics_of_its_own() -> None:
    layer, rows = layer_and_rows("2d")
    plain = copy.deepcopy(layer)
    batchnorm.adopt(layer, BatchNorm(sync=False), World(0, 2))  # no group: it may not ask
    found, wanted = passed(layer, rows, upstream(rows)), passed(plain, rows, upstream(rows))
    for key, value in found.items():
        torch.testing.assert_close(value, wanted[key], rtol=0, atol=0, msg=key)


def test_an_evaluated_layer_uses_its_saved_statistics_and_leaves_them() -> None:
    for kind in LAYERS:
        layer, rows = layer_and_rows(kind)
        layer(rows)
        adopted = copy.deepcopy(layer)
        batchnorm.adopt(adopted, BatchNorm(sync=True), World(0, 2))  # no group: it may not ask
        assert isinstance(adopted, type(layer))
        before = copy.deepcopy(adopted.state_dict())
        torch.testing.assert_close(adopted.eval()(rows), layer.eval()(rows), rtol=0, atol=0)
        assert all(torch.equal(value, before[key]) for key, value in adopted.state_dict().items())


@pytest.mark.parametrize("parts", [2, 3])
@pytest.mark.parametrize("kind", ["1d", "2d", "timm's with an activation"])
def test_parts_have_statistics_of_their_own_and_the_first_ones_are_kept(
    kind: str, parts: int
) -> None:
    layer, rows = layer_and_rows(kind)
    replicas = [copy.deepcopy(layer) for _ in range(parts)]  # as DataParallel has them
    batchnorm.adopt(layer, BatchNorm(replicas=parts), ALONE)
    found = passed(layer, rows, upstream(rows))
    wanted = [
        passed(replica, part, above)
        for replica, part, above in zip(
            replicas, rows.chunk(parts), upstream(rows).chunk(parts), strict=True
        )
    ]
    for key, value in found.items():
        if key in ("outputs", "rows"):
            truth = torch.cat([one[key] for one in wanted])
        elif key.startswith("gradient"):
            truth = sum(one[key] for one in wanted)
        else:
            truth = wanted[0][key]
        torch.testing.assert_close(value, truth, rtol=1e-10, atol=1e-10, msg=key)
    assert not torch.allclose(wanted[0]["running_mean"], wanted[1]["running_mean"])


def test_parts_of_an_uneven_batch_are_those_of_data_parallel() -> None:
    layer, rows = layer_and_rows("2d")
    batchnorm.adopt(layer, BatchNorm(replicas=2), ALONE)
    outputs = layer(rows[:7])
    plain, _ = layer_and_rows("2d")
    torch.testing.assert_close(outputs, torch.cat([plain(rows[:4]), plain(rows[4:7])]))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        nn.Linear(4 * 36, 6), nn.BatchNorm1d(6),
    ).double()  # fmt: skip


@pytest.mark.parametrize("adopted", [True, False])
def test_separate_views_are_separate_forwards_and_views_together_are_one(adopted: bool) -> None:
    """Outputs, gradients and running statistics, for views of several sizes and scales.

    A batch norm that was not adopted cannot tell views apart: they come one at a time then.
    """
    source = torch.Generator().manual_seed(0)
    views = [
        torch.randn(count, 3, 8, 8, generator=source, dtype=torch.float64) * (n + 1) + n
        for n, count in enumerate((8, 8, 4))
    ]

    def found(how: str | None) -> dict[str, Tensor]:
        model = network()
        if how is None:
            outputs = [model(view) for view in views]
        else:
            spec = BatchNorm.model_validate({"views": how})
            if adopted:
                batchnorm.adopt(model, spec, ALONE)
            outputs = batchnorm.through(model, views, spec)
        assert [len(rows) for rows in outputs] == [8, 8, 4]
        sum((n + 1) * rows.sin().sum() for n, rows in enumerate(outputs)).backward()
        gradients = {f"d {k}": p.grad for k, p in model.named_parameters()}
        return {"outputs": torch.cat(outputs).detach(), **gradients, **dict(model.named_buffers())}

    forwards, separate, together = found(None), found("separate"), found("together")
    for key, value in forwards.items():
        torch.testing.assert_close(separate[key], value, rtol=1e-5, atol=1e-12, msg=key)
    joint = network()
    torch.testing.assert_close(together["outputs"], joint(torch.cat(views)).detach())
    torch.testing.assert_close(together["1.running_var"], joint[1].running_var)
    assert (together["outputs"] - forwards["outputs"]).abs().max() > 0.1
    for key in ("d 0.weight", "1.running_mean", "5.running_var"):
        assert not torch.allclose(together[key], forwards[key], rtol=1e-2)
    assert (separate["1.num_batches_tracked"], together["1.num_batches_tracked"]) == (3, 1)


@pytest.mark.parametrize("parts", [1, 2])
def test_all_views_pass_at_once_and_leave_nothing_behind(parts: int) -> None:
    """One call of the network a step; and afterwards a batch is one view again."""
    model, spec = network(), BatchNorm(replicas=parts)
    batchnorm.adopt(model, spec, ALONE)
    calls: list[int] = []
    model[0].register_forward_pre_hook(lambda layer, given: calls.append(len(given[0])))
    views = [torch.randn(n, 3, 8, 8, dtype=torch.float64) + n for n in (8, 4)]
    batchnorm.through(model, views, spec)
    assert calls == [12]
    whole = torch.cat(views)
    again = copy.deepcopy(model)
    torch.testing.assert_close(model(whole), again(whole), rtol=0, atol=0)
    assert all(getattr(layer, "views", None) is None for layer in model.modules())
