"""Several ranks train one run: real processes and real DDP over gloo, each on one CPU thread."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny
from torch import Tensor, nn
from torch.distributed import TCPStore
from torch.nn import functional as F

from care_core import checkpoint, data, knn, methods, metrics, pretrain
from care_core.distributed import World, join
from care_core.errors import CareError, SpecError, StorageError
from care_core.files import read_json, write_json
from care_core.losses import info_nce
from care_core.methods.simclr import SimCLR
from care_core.probing import load_encoder
from care_core.spec import PretrainSpec

#: 3 epochs of 5 steps, with a checkpoint after steps 5, 10 and 15.
FAST: dict[str, Any] = {
    "data": {"name": "digits", "image_size": 8},
    "training": {"epochs": 3, "batch_size": 256},
}
#: The same for three ranks.
THREE: dict[str, Any] = {
    "data": {"name": "digits", "image_size": 8},
    "training": {"epochs": 1, "batch_size": 240},
    "equivariance": {"weight": 0.1, "splits": 12},
}


# The ranks. They are forks of a process of their own (`serve`), in which torch is imported once
# and has computed nothing; what they find out they leave in a file.


def serve() -> None:
    """Fork the ranks of each job that is asked for on stdin, and say how they ended."""
    for line in sys.stdin:
        name, size, folder, options = json.loads(line)
        ranks = [os.fork() or _be(name, rank, size, Path(folder), options) for rank in range(size)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks]
        print(json.dumps(codes), flush=True)


def _be(name: str, rank: int, size: int, folder: Path, options: dict[str, Any]) -> int:
    """Be one rank: do what `name` says, leave `rank-<n>.pt`, and end."""
    code = 1
    try:
        torch.set_num_threads(1)
        found = globals()[name](rank, size, folder, **options)
        torch.save(found, folder / f"rank-{rank}.pt")
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def meet(rank: int, size: int, folder: Path, timeout_s: float = 60) -> World:
    return join(
        rank=rank, size=size, local_rank=rank, meeting=folder / "meeting.json",
        single_host=True, timeout_s=timeout_s,
    )  # fmt: skip


def training(
    rank: int,
    size: int,
    folder: Path,
    spec: str,
    stop_at: dict[str, int] | None = None,
    kill_at: dict[str, int] | None = None,
    full_at: int = 0,
) -> dict[str, Any]:
    """Train; tell of the outcome, of the state at the end, and of what the first step saw.

    Args:
        stop_at, kill_at: after which step a rank (as text) asks to stop, or gets SIGKILL.
        full_at: the step at whose checkpoint rank 0 finds the disk full.
    """
    made: list[SimCLR] = []
    seen: list[Any] = []
    calls = forwards = 0
    build, forward, save = methods.build, SimCLR.forward, checkpoint.save

    def remember(*arguments: Any) -> SimCLR:
        made.append(build(*arguments))
        return made[-1]

    def spy(self: SimCLR, views: list[Tensor], pair: list[Tensor]) -> Any:
        loss, terms = forward(self, views, pair)
        nonlocal forwards
        forwards += 1
        if forwards == (1 if size == 1 else 2):  # DDP warms up first
            seen.append({"views": views, "pair": pair, "terms": terms})
        return loss, terms

    def stop() -> bool:
        nonlocal calls
        calls += 1
        if (kill_at or {}).get(str(rank)) == calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return (stop_at or {}).get(str(rank)) == calls

    def full(*arguments: Any, **named: Any) -> Any:
        if named["step"] == full_at:
            raise StorageError("the disk is full")
        return save(*arguments, **named)

    methods.build, SimCLR.forward, checkpoint.save = remember, spy, full  # type: ignore[method-assign]
    found: dict[str, Any] = {"said": []}
    world = meet(rank, size, folder)
    try:
        found["result"] = pretrain(
            PretrainSpec.model_validate_json(spec), folder, threads=1, stop=stop,
            say=found["said"].append, world=world,
        )  # fmt: skip
    except CareError as error:
        found["error"] = [type(error).__name__, str(error)]
    world.close()
    if made:
        found["parameters"] = {k: v.detach() for k, v in made[0].encoder.named_parameters()}
        found["buffers"] = dict(made[0].encoder.named_buffers())
    return {**found, "seen": seen}


def gradients(rank: int, size: int, folder: Path, spec: str) -> dict[str, Tensor]:
    """The gradients of one step on fixed views of a method whose batch norm is frozen."""
    world = meet(rank, size, folder)
    parsed = PretrainSpec.model_validate_json(spec)
    method = methods.build(parsed, world).eval()
    source = torch.Generator().manual_seed(0)
    count, pairs = parsed.training.batch_size, 2 if parsed.equivariance.weight else 0
    views = [torch.randn(count, 3, 8, 8, generator=source) for _ in range(2 + pairs)]
    mine = [view[world.share(count)] for view in views]
    parallel = world.parallel(method)
    loss, _ = parallel(mine[:2], mine[2:])
    loss.backward()
    world.close()
    return {name: p.grad for name, p in method.named_parameters() if p.grad is not None}


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
        "told": world.told(f"job {job}" if rank == 0 else None),
        "mean": world.mean(torch.tensor(10.0 * job + rank)),
    }
    world.close()
    return found


# The tests' side.

Launch = Callable[..., list[int]]


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    """Run a function above on so many ranks, and return their exit codes."""
    log = tmp_path_factory.mktemp("server") / "log"
    here = str(Path(__file__).parent)
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [sys.executable, "-c", "from test_distributed import serve; serve()"],
            cwd=here, env={**os.environ, "PYTHONPATH": here}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
        ) as server,
    ):  # fmt: skip
        assert server.stdin and server.stdout

        def ask(what: Callable[..., Any], size: int, folder: Path, **options: Any) -> list[int]:
            assert server.stdin and server.stdout
            folder.mkdir(exist_ok=True)
            print(json.dumps([what.__name__, size, str(folder), options]), file=server.stdin)
            server.stdin.flush()
            answer = server.stdout.readline()
            assert answer, log.read_text()
            return list(json.loads(answer))

        yield ask
        server.stdin.close()


def left(folder: Path, size: int) -> list[Any]:
    """What the ranks left."""
    return [torch.load(folder / f"rank-{rank}.pt") for rank in range(size)]


def run(
    launch: Launch, folder: Path, spec: PretrainSpec, size: int = 2, **options: Any
) -> list[Any]:
    """Train to the end, or to where it is stopped; what the ranks left."""
    codes = launch(training, size, folder, spec=spec.model_dump_json(), **options)
    assert codes == [0] * size
    return left(folder, size)


def rows(run_dir: Path) -> list[tuple[str, float, int]]:
    return [(row.key, row.value, row.step) for row in metrics.read(run_dir)]


def newest(run_dir: Path) -> dict[str, Any]:
    return checkpoint.read(checkpoint.at_epoch(run_dir / "checkpoints", None))


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys() and ours
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def assert_as_uninterrupted(run_dir: Path, whole: Path, size: int) -> None:
    """The same weights, moments, statistics of each rank, result and record."""
    found, wanted = read_json(run_dir / "result.json"), read_json(whole / "result.json")
    for key in ("weights_sha256", "metrics", "steps"):
        assert found[key] == wanted[key]
    assert rows(run_dir) == rows(whole)
    assert len({(key, step) for key, _, step in rows(run_dir)}) == len(rows(run_dir))
    ours, theirs = newest(run_dir), newest(whole)
    assert_equal(ours["model"], theirs["model"])
    assert_equal(ours["statistics"], theirs["statistics"])
    for number, state in theirs["optimizer"]["state"].items():
        assert_equal(ours["optimizer"]["state"][number], state)
    for one, other in zip(left(run_dir, size), left(whole, size), strict=True):
        assert_equal(one["parameters"], other["parameters"])
        assert_equal(one["buffers"], other["buffers"])


@pytest.fixture(scope="module")
def whole(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two ranks that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    run(launch, folder, tiny(**FAST))
    return folder


def test_both_ranks_end_with_the_same_parameters_and_their_own_statistics(whole: Path) -> None:
    first, second = left(whole, 2)
    assert first["result"] == second["result"] == read_json(whole / "result.json")
    assert_equal(first["parameters"], second["parameters"])
    moving = [key for key in first["buffers"] if key.endswith("running_mean")]
    assert moving
    assert not any(torch.equal(first["buffers"][k], second["buffers"][k]) for k in moving)


def test_a_checkpoint_holds_the_mean_of_the_statistics_and_each_ranks_own(whole: Path) -> None:
    state, (first, second) = newest(whole), left(whole, 2)
    for name, value in first["buffers"].items():
        assert torch.equal(state["statistics"][name], torch.stack([value, second["buffers"][name]]))
        mean = (value + second["buffers"][name]) / 2
        torch.testing.assert_close(state["model"][name], mean.to(value.dtype))
    path = checkpoint.at_epoch(whole / "checkpoints", None)
    encoder = load_encoder(path)
    result = read_json(whole / "result.json")
    assert checkpoint.weights_sha256(encoder) == result["weights_sha256"]
    split = knn.hold_out(data.load("digits", "train", Path(), 8))
    assert knn.check(encoder, *split, spec=tiny(**FAST)) == result["metrics"]["knn"]


def test_checks_and_checkpoints_while_training_change_nothing(
    launch: Launch, tmp_path: Path, whole: Path
) -> None:
    spec = tiny(**FAST, monitor={"every_epochs": 0}, checkpoint={"every_minutes": 1e-9})
    run(launch, tmp_path, spec)
    assert read_json(tmp_path / "result.json")["weights_sha256"] == newest_digest(whole)
    assert_equal(newest(tmp_path)["statistics"], newest(whole)["statistics"])


def newest_digest(run_dir: Path) -> str:
    return str(read_json(run_dir / "result.json")["weights_sha256"])


@pytest.mark.parametrize("fed", [None, 64])
def test_the_shares_of_the_ranks_make_up_what_one_process_sees(
    launch: Launch, tmp_path: Path, fed: int | None
) -> None:
    term = {"weight": 0.1, "splits": 16, "batch": fed}
    spec = tiny(**{**FAST, "training": {"epochs": 1, "batch_size": 256}}, equivariance=term)
    (alone,) = run(launch, tmp_path / "1", spec, size=1, stop_at={"0": 1})
    ranks = run(launch, tmp_path / "2", spec, stop_at={"0": 1})
    for kind in ("views", "pair"):
        for number, wanted in enumerate(alone["seen"][0][kind]):
            parts = [rank["seen"][0][kind][number] for rank in ranks]
            torch.testing.assert_close(torch.cat(parts), wanted, rtol=1e-5, atol=1e-5)
            assert not torch.allclose(parts[0], parts[1], atol=0.1)


def test_the_record_holds_the_mean_of_the_ranks_terms(whole: Path) -> None:
    terms = [rank["seen"][0]["terms"] for rank in left(whole, 2)]
    assert terms[0]["equivariance"] != terms[1]["equivariance"]
    assert terms[0]["info_nce"] == terms[1]["info_nce"]  # over the rows of both
    recorded = {key: value for key, value, step in rows(whole) if step == 1}
    for key in ("loss", "info_nce", "equivariance", "alignment"):
        assert recorded[key] == pytest.approx(sum(float(t[key]) for t in terms) / 2, rel=1e-9)
    assert {key for key, *_ in rows(whole)} == {*terms[0], "lr", "knn", "epoch"}


@pytest.mark.parametrize("weight", [0.0, 0.5], ids=["simclr", "care-simclr"])
def test_two_ranks_have_the_gradients_of_one_with_twice_the_batch(
    launch: Launch, tmp_path: Path, weight: float
) -> None:
    spec = tiny(
        training={"epochs": 1, "batch_size": 32}, equivariance={"weight": weight, "splits": 8}
    ).model_dump_json()
    for size in (1, 2, 4):
        assert launch(gradients, size, tmp_path / str(size), spec=spec) == [0] * size
    (wanted,) = left(tmp_path / "1", 1)
    assert max(float(g.abs().max()) for g in wanted.values()) > 1e-2
    for size in (2, 4):
        for found in left(tmp_path / str(size), size):
            assert found.keys() == wanted.keys()
            for name, gradient in wanted.items():
                assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


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


def test_a_run_that_one_rank_stops_goes_on_as_if_it_had_not_been(
    launch: Launch, tmp_path: Path, whole: Path
) -> None:
    stopped = run(launch, tmp_path, tiny(**FAST), stop_at={"1": 7})
    sentence = "stopped on request after step 7; it can go on"
    assert [rank["error"] for rank in stopped] == [["Interrupted", sentence]] * 2
    first, second = run(launch, tmp_path, tiny(**FAST))
    assert first["said"][:1] == ["resuming after step 7 of 15"]
    assert second["said"] == []
    assert_as_uninterrupted(tmp_path, whole, 2)


def test_killed_ranks_lose_nothing(launch: Launch, tmp_path: Path, whole: Path) -> None:
    codes = launch(
        training, 2, tmp_path, spec=tiny(**FAST).model_dump_json(), kill_at={"0": 8, "1": 8}
    )
    assert codes == [-signal.SIGKILL] * 2
    assert rows(tmp_path)[-1][2] == 8
    first, _ = run(launch, tmp_path, tiny(**FAST))
    assert first["said"][:1] == ["resuming after step 5 of 15"]
    assert_as_uninterrupted(tmp_path, whole, 2)


def test_sums_over_three_ranks_do_not_depend_on_where_a_process_began(
    launch: Launch, tmp_path: Path
) -> None:
    spec = tiny(**THREE)
    run(launch, tmp_path / "whole", spec, size=3)
    run(launch, tmp_path / "resumed", spec, size=3, stop_at={"2": 4})
    run(launch, tmp_path / "resumed", spec, size=3)
    assert_as_uninterrupted(tmp_path / "resumed", tmp_path / "whole", 3)


def test_a_damaged_checkpoint_is_passed_over_by_all_ranks(
    launch: Launch, tmp_path: Path, whole: Path
) -> None:
    run(launch, tmp_path, tiny(**FAST), stop_at={"0": 7})
    path = checkpoint.entries(tmp_path / "checkpoints")[-1].path
    path.write_bytes(path.read_bytes()[:1000])
    first, _ = run(launch, tmp_path, tiny(**FAST))
    assert [s for s in first["said"] if not s.startswith("epoch ")][
        -1
    ] == "resuming after step 5 of 15"
    assert_as_uninterrupted(tmp_path, whole, 2)


def test_a_rank_that_dies_takes_the_others_with_it(launch: Launch, tmp_path: Path) -> None:
    codes = launch(training, 2, tmp_path, spec=tiny(**FAST).model_dump_json(), kill_at={"1": 3})
    assert codes == [0, -signal.SIGKILL]
    kind, sentence = torch.load(tmp_path / "rank-0.pt")["error"]
    assert kind == "CareError" and sentence.startswith("rank 0 of 2 lost a peer")


def test_no_rank_takes_a_run_for_saved_when_the_disk_is_full(
    launch: Launch, tmp_path: Path
) -> None:
    first, second = run(launch, tmp_path, tiny(**FAST), stop_at={"1": 7}, full_at=7)
    assert first["error"] == ["StorageError", "the disk is full"]
    assert second["error"][0] == "CareError" and "lost a peer" in second["error"][1]
    assert [entry.step for entry in checkpoint.entries(tmp_path / "checkpoints")] == [5]


def test_a_run_of_another_number_of_ranks_is_refused(launch: Launch, tmp_path: Path) -> None:
    spec = tiny(**FAST)
    run(launch, tmp_path, spec, size=2, stop_at={"0": 3})
    with pytest.raises(
        SpecError, match=r"a run of 2 rank.*, not 1.*go on with 2, or take an empty"
    ):
        pretrain(spec, tmp_path, threads=1)
    for rank in run(launch, tmp_path, spec, size=4):
        kind, sentence = rank["error"]
        assert kind == "SpecError" and "2 rank(s), not 4" in sentence


@pytest.mark.parametrize(
    ("size", "changes", "said"),
    [
        (3, {}, "training.batch_size: 128 cannot be shared out to 3 ranks evenly"),
        (4, {"splits": 3, "batch": 6}, "equivariance.batch: 6 cannot be shared out to 4 ranks"),
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
