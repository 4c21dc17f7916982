"""What ranks exchange, and how they find each other: real processes over gloo."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny
from ranks import Launch, left, meet
from torch import Tensor, nn
from torch.distributed import TCPStore
from torch.nn import functional as F

from care_core import pretrain
from care_core.distributed import World
from care_core.errors import CareError, SpecError
from care_core.files import write_json
from care_core.losses import info_nce


class Rows(nn.Module):
    """InfoNCE of two linear views on the sphere, over the rows of all ranks."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.layer, self.world = nn.Linear(6, 4, bias=False), world
        self.layer.weight.data = torch.linspace(-1, 1, 24).view(4, 6)
        self.register_buffer("own", torch.tensor(-1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        z1, z2 = (self.world.gather(F.normalize(self.layer(v), dim=1)) for v in (x, y))
        return info_nce(z1, z2, 0.1)


def gathered(rank: int, size: int, folder: Path) -> dict[str, Tensor]:
    """The gradient of the InfoNCE of gathered rows, averaged by DDP."""
    world = meet(rank, size, folder)
    source = torch.Generator().manual_seed(0)
    x, y = (torch.randn(12, 6, generator=source)[world.share(12)] for _ in range(2))
    module = Rows(world)
    parallel = world.parallel(module)
    module.own = torch.tensor(rank)
    loss = parallel(x, y)
    loss.backward()
    world.close()
    assert module.layer.weight.grad is not None
    return {"loss": loss.detach(), "gradient": module.layer.weight.grad, "own": module.own}


def exchange(rank: int, size: int, folder: Path, late: float = 0) -> dict[str, Any]:
    """What each rank learns of the others, in two jobs of half the ranks that meet at once.

    Args:
        late: seconds after which rank 0 comes.
    """
    job, rank, size = rank % 2, rank // 2, size // 2
    time.sleep(late if rank == 0 else 0)
    world = meet(rank, size, folder / f"job {job}", timeout_s=20)
    found = {
        "rows": world.gather(torch.full((2, 1), 10.0 * job + rank)),
        "any": [world.any(rank == one) for one in range(size + 1)],
        "told": world.broadcast(f"job {job}" if rank == 0 else None),
        "mean": world.mean(torch.tensor(10.0 * job + rank)),
    }
    world.close()
    return found


def test_the_gradient_of_gathered_rows_is_not_shrunk_by_the_number_of_ranks(
    launch: Launch, tmp_path: Path
) -> None:
    for size in (1, 3):
        assert launch(gathered, size, tmp_path / str(size)) == [0] * size
    (wanted,) = left(tmp_path / "1", 1)
    assert wanted["gradient"].norm() > 0.1
    for rank, found in enumerate(left(tmp_path / "3", 3)):
        assert found["own"] == rank  # buffers are not broadcast
        torch.testing.assert_close(found["loss"], wanted["loss"], rtol=1e-6, atol=0)
        error = (found["gradient"] - wanted["gradient"]).norm()
        assert error <= 1e-5 * wanted["gradient"].norm()


@pytest.mark.parametrize(
    ("size", "changes", "said"),
    [
        (3, {}, "training.batch_size: 128 cannot be shared out to 3 ranks evenly"),
        (4, {"splits": 2, "batch": 6}, "equivariance.batch: 6 cannot be shared out to 4 ranks"),
        (4, {"splits": 2}, "equivariance.splits: 2 cannot be shared out to 4 .*a multiple of 4"),
    ],
)
def test_what_cannot_be_shared_out_evenly_is_refused(
    tmp_path: Path, size: int, changes: dict[str, int], said: str
) -> None:
    spec = tiny(equivariance={"weight": 0.1, "splits": 16, **changes})
    with pytest.raises(SpecError, match=said):
        pretrain(spec, tmp_path, world=World(0, size))
    assert not list(tmp_path.iterdir())


def test_a_term_that_is_off_need_not_be_shared_out() -> None:
    World(0, 4).require_even_shares(tiny(equivariance={"weight": 0, "splits": 2}))


def test_two_jobs_that_meet_at_once_do_not_mix(launch: Launch, tmp_path: Path) -> None:
    for job in (0, 1):
        (tmp_path / f"job {job}").mkdir()
    assert launch(exchange, 4, tmp_path) == [0] * 4
    for number, found in enumerate(left(tmp_path, 4)):
        job = number % 2
        assert found["rows"].flatten().tolist() == [10 * job + n for n in (0, 0, 1, 1)]
        assert found["any"] == [True, True, False]
        assert found["told"] == f"job {job}"
        assert float(found["mean"]) == 10 * job + 0.5


def test_a_meeting_that_an_earlier_attempt_left_does_no_harm(
    launch: Launch, tmp_path: Path
) -> None:
    taken = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # another job's
    taken.set("token", "its own")
    for job, port in enumerate((1, taken.port)):
        place = {"host": "127.0.0.1", "port": port, "token": "old"}
        write_json(tmp_path / f"job {job}" / "meeting.json", place)
    assert launch(exchange, 4, tmp_path, late=0.5) == [0] * 4


@pytest.mark.parametrize(
    ("rank", "said"),
    [(0, r"rank 0 waited 0.3 s for rank 1, 2 of 3"), (1, r"rank 1 waited 0.3 s for rank 0 to ope")],
)
def test_a_rank_that_waits_in_vain_says_for_whom(tmp_path: Path, rank: int, said: str) -> None:
    with pytest.raises(CareError, match=said):
        meet(rank, 3, tmp_path, timeout_s=0.3)


def test_one_process_has_no_group(tmp_path: Path) -> None:
    world = meet(0, 1, tmp_path)
    assert world == World() and not list(tmp_path.iterdir())
    assert not torch.distributed.is_initialized()
    world.close()
