"""Training: what a step sees and does, and a run that ends bitwise equal whatever befalls it."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny
from torch import Tensor, nn

from care_core import checkpoint, data, draws, metrics, pretrain
from care_core.data.base import ImageSet
from care_core.distributed import World, forward_views
from care_core.errors import CareError, SpecError, StorageError
from care_core.facts import DATASETS
from care_core.files import read_json
from care_core.losses import equivariance, info_nce
from care_core.methods.simclr import SimCLR
from care_core.spec import Optimizer, PretrainSpec, Schedule
from care_core.train import Interrupted, build_optimizer, learning_rate

#: 3 epochs of 5 steps, with a checkpoint after steps 5, 10 and 15.
FAST: dict[str, Any] = {
    "data": {"name": "digits", "image_size": 8},
    "training": {"epochs": 3, "batch_size": 256},
}


class After:
    """A `stop` that is true after so many steps of this process."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


def train(run_dir: Path, spec: PretrainSpec | None = None, **options: Any) -> dict[str, Any]:
    return pretrain(spec or tiny(**FAST), run_dir, threads=1, **options)


def rows(run_dir: Path) -> list[tuple[str, float, int]]:
    return [(row.key, row.value, row.step) for row in metrics.read(run_dir)]


def moments(run_dir: Path) -> dict[int, dict[str, Tensor]]:
    """The optimiser's state at the end."""
    path = checkpoint.at_epoch(run_dir / "checkpoints", None)
    state: dict[int, dict[str, Tensor]] = checkpoint.read(path)["optimizer"]["state"]
    return state


def assert_as_uninterrupted(run_dir: Path, whole: Path) -> None:
    """The same weights, moments, result and record, and nothing left behind."""
    found, wanted = read_json(run_dir / "result.json"), read_json(whole / "result.json")
    for key in ("weights_sha256", "metrics", "steps", "epochs"):
        assert found[key] == wanted[key]
    ours, theirs = moments(run_dir), moments(whole)
    assert ours.keys() == theirs.keys() and ours
    for number, state in ours.items():
        assert all(torch.equal(state[key], theirs[number][key]) for key in state)
    assert set(Counter((key, step) for key, _, step in rows(run_dir)).values()) == {1}
    assert rows(run_dir) == rows(whole)
    assert not list((run_dir / "checkpoints").glob(".*"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    run_dir = tmp_path_factory.mktemp("whole")
    train(run_dir)
    return run_dir


def test_a_run_leaves_its_result_progress_record_and_checkpoints(whole: Path) -> None:
    result = read_json(whole / "result.json")
    assert (result["kind"], result["steps"], result["epochs"]) == ("pretrain", 15, 3)
    assert result["seconds"] > 0 and result["images_per_s"] > 0
    assert [entry.step for entry in checkpoint.entries(whole / "checkpoints")] == [10, 15]
    assert result["checkpoint"] == checkpoint.at_epoch(whole / "checkpoints", 3).name
    keys = {"loss", "info_nce", "equivariance", "alignment", "lr"}
    assert set(result["metrics"]) == keys | {"knn"}
    steps = {key: [step for k, _, step in rows(whole) if k == key] for key in (*keys, "knn")}
    assert steps.pop("knn") == [5, 10, 15]
    assert all(found == list(range(1, 16)) for found in steps.values())
    last = {key: value for key, value, step in rows(whole) if step == 15 and key != "epoch"}
    assert last == result["metrics"]
    assert last["loss"] == pytest.approx(last["info_nce"] + 0.1 * last["equivariance"], rel=1e-6)
    progress = read_json(whole / "progress.json")
    assert (progress["step"], progress["steps"], progress["epoch"]) == (15, 15, 3)
    assert progress["eta_s"] == 0
    assert progress["metrics"] == result["metrics"]


def test_a_trained_run_is_not_trained_again(whole: Path) -> None:
    said: list[str] = []
    assert train(whole, say=said.append) == read_json(whole / "result.json")
    assert said == ["already trained; nothing to do"]


def test_another_seed_or_spec_gives_other_weights(tmp_path: Path, whole: Path) -> None:
    short = {**FAST, "training": {"epochs": 1, "batch_size": 256}}
    specs = [tiny(**short), tiny(**short, seed=1), tiny(**short, bn={"views": "together"})]
    found = {train(tmp_path / str(n), spec)["weights_sha256"] for n, spec in enumerate(specs)}
    assert len(found) == 3
    assert train(tmp_path / "again", specs[0])["weights_sha256"] in found


@pytest.mark.parametrize("step", [3, 5, 12, 14])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    tmp_path: Path, whole: Path, step: int
) -> None:
    with pytest.raises(Interrupted, match=f"stopped on request after step {step}; it can go on"):
        train(tmp_path, stop=After(step))
    assert checkpoint.entries(tmp_path / "checkpoints")[-1].step == step
    assert not (tmp_path / "result.json").exists()
    said: list[str] = []
    train(tmp_path, say=said.append)
    epochs = [f"epoch {n}/3" for n in (1, 2, 3) if n * 5 > step]
    assert [text.partition("  ")[0] for text in said] == [
        f"resuming after step {step} of 15",
        *epochs,
    ]
    assert_as_uninterrupted(tmp_path, whole)


def test_a_run_stopped_at_every_step_but_the_last_still_ends_equal(
    tmp_path: Path, whole: Path
) -> None:
    for _ in range(14):
        with pytest.raises(Interrupted):
            train(tmp_path, stop=lambda: True)
    train(tmp_path, stop=lambda: True)
    assert_as_uninterrupted(tmp_path, whole)


#: Each moment is a fork of this process that kills itself there: torch is imported once.
KILLED = """
import json, os, signal, sys, traceback
from pathlib import Path

from care_core import pretrain
from care_core.spec import PretrainSpec

folder, spec = Path(sys.argv[1]), PretrainSpec.model_validate_json(sys.argv[2])
replace, fsync, count = Path.replace, os.fsync, 0


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def nth(wanted):
    global count
    count += 1
    return count == wanted


def at_step(wanted, run_dir):
    def stop():
        if nth(wanted):
            with (run_dir / "metrics.jsonl").open("ab") as file:
                file.write(b'{"key": "loss", "va')
            die()
        return False

    return stop


def torn(wanted):
    def patched(handle):
        if os.fstat(handle).st_size > 100_000 and nth(wanted):
            os.ftruncate(handle, 50_000)
            die()
        fsync(handle)

    os.fsync = patched


def renaming(ending, wanted, when):
    def patched(self, target):
        hit = target.name.endswith(ending) and nth(wanted)
        if hit and when == "before":
            die()
        replace(self, target)
        if hit:
            die()

    Path.replace = patched


def run(moment, number, run_dir):
    stop = lambda: False
    if moment == "step":
        stop = at_step(number, run_dir)
    elif moment == "torn checkpoint":
        torn(number)
    elif moment == "result":
        renaming("result.json", number, "before")
    else:
        renaming(".pt", number, moment.split()[0])
    pretrain(spec, run_dir, threads=1, stop=stop)


ended = []
for number, (moment, nth_time) in enumerate(json.loads(sys.argv[3])):
    child = os.fork()
    if child == 0:
        try:
            run(moment, nth_time, folder / str(number))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    ended.append(os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0)
print(json.dumps(ended))
"""

#: (where it is killed, at which time it comes there, the steps of the checkpoints that stand)
MOMENTS: list[tuple[str, int, list[int]]] = [
    ("step", 3, []),
    ("step", 8, [5]),
    ("torn checkpoint", 1, []),
    ("torn checkpoint", 2, [5]),
    ("before renaming a checkpoint", 2, [5]),
    ("after renaming a checkpoint", 1, [5]),
    ("after renaming a checkpoint", 3, [5, 10, 15]),
    ("result", 1, [10, 15]),
]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder for each of the moments, as SIGKILL left it."""
    folder = tmp_path_factory.mktemp("killed")
    places = json.dumps([moment[:2] for moment in MOMENTS])
    command = [sys.executable, "-c", KILLED, str(folder), tiny(**FAST).model_dump_json(), places]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [signal.SIGKILL] * len(MOMENTS), done.stderr
    return folder


@pytest.mark.parametrize("number", range(len(MOMENTS)), ids=[f"{m} {n}" for m, n, _ in MOMENTS])
def test_a_killed_process_loses_nothing(killed: Path, whole: Path, number: int) -> None:
    run_dir, (moment, _, stand) = killed / str(number), MOMENTS[number]
    folder = run_dir / "checkpoints"
    assert [entry.step for entry in checkpoint.entries(folder)] == stand
    assert bool(list(folder.glob(".*.tmp"))) == moment.startswith(("torn", "before"))
    said: list[str] = []
    train(run_dir, say=said.append)
    resumed = [text for text in said if not text.startswith("epoch ")]
    assert resumed == ([f"resuming after step {stand[-1]} of 15"] if stand else [])
    assert_as_uninterrupted(run_dir, whole)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100_000] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty])
def test_a_damaged_checkpoint_is_said_and_the_one_before_gives_the_same_end(
    tmp_path: Path, whole: Path, damage: Callable[[Path], None], published: bool
) -> None:
    class Tracker:
        def committed(self, step: int) -> None:
            metrics.publishing(tmp_path, step)

    with pytest.raises(Interrupted):
        train(tmp_path, stop=After(12), tracker=Tracker() if published else None)
    newest = checkpoint.entries(tmp_path / "checkpoints")[-1].path
    before = list(metrics.read(tmp_path))
    damage(newest)
    said: list[str] = []
    train(tmp_path, say=said.append)
    assert len([text for text in said if not text.startswith("epoch ")]) == 2
    assert newest.name in said[0] and "damaged" in said[0] and "falling back" in said[0]
    assert said[1] == "resuming after step 10 of 15"
    assert_as_uninterrupted(tmp_path, whole)
    if published:
        assert list(metrics.read(tmp_path))[: len(before)] == before  # with their timestamps


def test_without_any_whole_checkpoint_the_run_begins_again(tmp_path: Path, whole: Path) -> None:
    with pytest.raises(Interrupted):
        train(tmp_path, stop=After(7))
    for entry in checkpoint.entries(tmp_path / "checkpoints"):
        empty(entry.path)
    said: list[str] = []
    train(tmp_path, say=said.append)
    assert ["falling back" in sentence for sentence in said] == [True, True, False, False, False]
    assert_as_uninterrupted(tmp_path, whole)


@pytest.mark.parametrize("every", [1, 100])
def test_a_loss_that_is_not_finite_is_an_error_with_a_remedy(tmp_path: Path, every: int) -> None:
    spec = tiny(**FAST, optimizer={"name": "sgd", "lr": 1e30}, log={"every_steps": every})
    with pytest.raises(CareError, match=r"the loss is nan at step \d+; lower optimizer.lr"):
        train(tmp_path, spec)
    assert checkpoint.entries(tmp_path / "checkpoints") == []  # none of lost weights
    assert not (tmp_path / "result.json").exists()


def test_a_batch_larger_than_the_images_that_are_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = data.load("digits", "train", Path(), 8).take(torch.arange(100))
    monkeypatch.setattr(data, "load", lambda *_: images)
    with pytest.raises(SpecError, match=r"batch_size: 256 is larger than digits, which has 100 im"):
        train(tmp_path)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"name": "constant"}, {0: 1, 3.5: 1, 7.9: 1}),
        ({"name": "cosine"}, {0: 1, 2: (1 + math.sqrt(0.5)) / 2, 4: 0.5, 8: 0}),
        ({"name": "cosine", "warmup_epochs": 4},
         {0: 0.2, 1: 0.4, 1.5: 0.5, 3: 0.8, 4: 1, 5: (1 + math.sqrt(0.5)) / 2, 6: 0.5, 8: 0}),
        ({"name": "constant", "warmup_epochs": 1}, {0: 0.5, 0.5: 0.75, 1: 1, 7: 1}),
        ({"name": "multistep", "milestones": [3, 5]},
         {0: 1, 2.99: 1, 3: 0.1, 4.99: 0.1, 5: 0.01, 7: 0.01}),
        ({"name": "multistep", "milestones": [3], "gamma": 0.5, "warmup_epochs": 3},
         {0: 0.25, 2: 0.75, 3: 0.5}),
    ],
)  # fmt: skip
def test_the_learning_rate_follows_its_schedule(
    schedule: dict[str, Any], expected: dict[float, float]
) -> None:
    plan = Schedule.model_validate(schedule)
    for base in (1.0, 3e-4):
        for epoch, share in expected.items():
            found = learning_rate(plan, base, epoch, 8)
            assert found == pytest.approx(base * share, rel=1e-12, abs=1e-15)


def test_a_run_trains_at_the_rates_of_its_schedule(tmp_path: Path) -> None:
    plan = {"name": "cosine", "warmup_epochs": 1}
    spec = tiny(**FAST, schedule=plan, optimizer={"name": "sgd", "lr": 0.1, "momentum": 0.5})
    train(tmp_path, spec)
    found = [value for key, value, _ in rows(tmp_path) if key == "lr"]
    assert found == [learning_rate(spec.schedule, 0.1, step / 5, 3) for step in range(15)]
    assert found[:5] == pytest.approx([0.05, 0.06, 0.07, 0.08, 0.09])
    path = checkpoint.at_epoch(tmp_path / "checkpoints", None)
    (group,) = checkpoint.read(path)["optimizer"]["param_groups"]
    assert (group["lr"], group["momentum"]) == (found[-1], 0.5)


#: Every pixel stays as it is.
PLAIN = {
    "crop_scale": [1, 1], "crop_ratio": [1, 1], "flip": 0, "jitter": 0, "gray": 0, "blur": 0
}  # fmt: skip


def replace_images(monkeypatch: pytest.MonkeyPatch, images: Tensor) -> None:
    labels = torch.zeros(len(images), dtype=torch.int64)
    monkeypatch.setattr(data, "load", lambda *_: ImageSet(images, labels))


def identical(monkeypatch: pytest.MonkeyPatch, count: int = 128) -> None:
    """Let every image be the same one, so that all differences come from the augmentation."""
    generator = torch.Generator().manual_seed(0)
    one = torch.randint(0, 256, (1, 3, 16, 16), generator=generator, dtype=torch.uint8)
    replace_images(monkeypatch, one.repeat(count, 1, 1, 1))


def seen(
    run_dir: Path, spec: PretrainSpec, monkeypatch: pytest.MonkeyPatch, steps: int = 1
) -> list[tuple[list[Tensor], list[Tensor]]]:
    """The views and the pair that the method is given in each of the first steps."""
    found: list[tuple[list[Tensor], list[Tensor]]] = []
    forward = SimCLR.forward

    def spy(self: SimCLR, views: list[Tensor], pair: list[Tensor]) -> Any:
        found.append((views, pair))
        return forward(self, views, pair)

    with monkeypatch.context() as patch:
        patch.setattr(SimCLR, "forward", spy)
        with pytest.raises(Interrupted):
            train(run_dir, spec, stop=After(steps))
    assert len(found) == steps
    return found


def apart(images: Tensor) -> Tensor:
    """(N, N): the largest difference of any two images."""
    flat = images.flatten(1)
    return (flat[:, None] - flat[None]).abs().amax(dim=2)


def distinct(images: Tensor) -> bool:
    return bool((apart(images) + torch.eye(len(images)) > 1e-3).all())


BATCH = {"epochs": 2, "batch_size": 64}
JITTER = {"jitter": 1, "brightness": 0.8}


def test_simclr_takes_two_views_and_no_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tiny(equivariance={"weight": 0}, training=BATCH)
    views, pair = seen(tmp_path, spec, monkeypatch)[0]
    assert [view.shape for view in views] == [(64, 3, 16, 16)] * 2
    assert pair == []
    assert "equivariance" not in {key for key, _, _ in rows(tmp_path)}


def test_every_image_of_a_view_and_every_split_of_the_pair_has_its_own_augmentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identical(monkeypatch)
    spec = tiny(training=BATCH, augment=JITTER)
    views, pair = seen(tmp_path, spec, monkeypatch)[0]
    assert [view.shape for view in (*views, *pair)] == [(64, 3, 16, 16)] * 4
    assert distinct(torch.cat(views))
    splits = [half.reshape(16, 4, 3, 16, 16) for half in pair]
    for half in splits:
        torch.testing.assert_close(half, half[:, :1].expand_as(half), rtol=0, atol=1e-4)
    assert distinct(torch.cat([half[:, 0] for half in splits]))


def test_the_term_compares_the_images_of_a_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tiny(training=BATCH, equivariance={"weight": 0.5, "splits": 8})
    views, pair = seen(tmp_path, spec, monkeypatch)[0]
    fresh = SimCLR(spec, World())
    z1, z2 = (fresh.encoder(view).detach() for view in views)
    first, second = (fresh.encoder(half).detach().double() for half in pair)
    term = sum(
        float((a @ a.T - b @ b.T).square().sum())
        for a, b in zip(first.chunk(8), second.chunk(8), strict=True)
    ) * (2 / 64)
    found = {key: value for key, value, step in rows(tmp_path) if step == 1}
    assert found["equivariance"] == pytest.approx(term, rel=1e-4)
    assert found["info_nce"] == pytest.approx(float(info_nce(z1, z2, 0.5)), rel=1e-5)
    assert found["loss"] == pytest.approx(found["info_nce"] + 0.5 * term, rel=1e-4)


@pytest.mark.parametrize("batch", [None, 32])
def test_only_as_many_images_feed_the_term_as_the_spec_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int | None
) -> None:
    term = {"weight": 0.1, "splits": 16, "batch": batch}
    spec = tiny(training=BATCH, equivariance=term, augment=PLAIN)
    views, pair = seen(tmp_path, spec, monkeypatch)[0]
    assert len(views[0]) == 64
    for half in pair:
        torch.testing.assert_close(half, views[0][: batch or 64], rtol=0, atol=1e-4)


def test_draws_differ_between_steps_and_seeds_and_ignore_the_global_generator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identical(monkeypatch)

    def drawn(name: str, seed: int, outside: int) -> list[Tensor]:
        torch.manual_seed(outside)
        state = torch.get_rng_state()
        spec = tiny(training=BATCH, augment=JITTER, seed=seed)
        found = seen(tmp_path / name, spec, monkeypatch, steps=2)
        assert torch.equal(torch.get_rng_state(), state)
        return [torch.cat([x[::8] for x in (*views, *pair)]) for views, pair in found]

    first, other = drawn("first", 0, 1), drawn("other", 1, 1)
    assert distinct(torch.cat([*first, *other]))
    again = drawn("again", 0, 2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_an_epoch_visits_every_image_once_in_an_order_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = torch.arange(300)
    colour = torch.stack([number % 256, number // 256, torch.zeros(300)], dim=1)
    images = colour.to(torch.uint8)[:, :, None, None].expand(300, 3, 16, 16).contiguous()
    replace_images(monkeypatch, images)
    training = {"epochs": 3, "batch_size": 100}
    spec = tiny(training=training, equivariance={"weight": 0}, augment=PLAIN)
    facts = DATASETS["digits"]
    visited = []
    for views, _ in seen(tmp_path, spec, monkeypatch, steps=6):
        numbers = []
        for view in views:
            pixel = view[:, :, 8, 8] * torch.tensor(facts.std) + torch.tensor(facts.mean)
            r, g, _ = (pixel * 255).round().long().unbind(1)
            numbers.append((r + 256 * g).tolist())
        assert numbers[0] == numbers[1]
        visited += numbers[0]
    first, second = visited[:300], visited[300:]
    assert sorted(first) == sorted(second) == list(range(300))
    assert first != second and first != sorted(first)
    assert first == draws.epoch_order(0, 0, 300).tolist()


def test_the_order_of_an_epoch_is_a_permutation_by_seed_and_epoch() -> None:
    torch.manual_seed(1)
    orders = [draws.epoch_order(seed, epoch, 50) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order.tolist()) == list(range(50)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 4
    torch.manual_seed(2)
    assert torch.equal(draws.epoch_order(1, 1, 50), orders[3])


def test_views_have_statistics_of_their_own_or_common_ones() -> None:
    spec = tiny()
    views = [torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(n)) for n in (1, 2)]
    views[1] = views[1] * 3 + 1

    def outputs(how: str) -> tuple[list[Tensor], Tensor]:
        encoder = SimCLR(spec, World()).encoder
        return forward_views(encoder, views, how), encoder.backbone[1].running_mean

    reference = SimCLR(spec, World()).encoder
    separate, mean = outputs("separate")
    assert all(torch.equal(z, reference(x)) for z, x in zip(separate, views, strict=True))
    assert torch.equal(mean, reference.backbone[1].running_mean)
    together, pooled = outputs("together")
    joint = SimCLR(spec, World()).encoder(torch.cat(views))
    torch.testing.assert_close(torch.cat(together), joint)
    assert [len(z) for z in together] == [8, 8]
    assert (torch.cat(together) - torch.cat(separate)).abs().max() > 0.01
    assert not torch.allclose(mean, pooled)


@pytest.mark.parametrize("how", ["separate", "together"])
def test_the_method_normalises_as_the_spec_says(how: str) -> None:
    spec = tiny(bn={"views": how})
    views = [torch.randn(32, 3, 16, 16) * (n + 1) + n for n in range(4)]
    _, terms = SimCLR(spec, World())(views[:2], views[2:])
    z = [rows.detach() for rows in forward_views(SimCLR(spec, World()).encoder, views, how)]
    assert float(terms["info_nce"]) == pytest.approx(float(info_nce(z[0], z[1], 0.5)), rel=1e-6)
    wanted = float(equivariance(z[2], z[3], 16))
    assert float(terms["equivariance"]) == pytest.approx(wanted, rel=1e-6)


def steps_taken(spec: Optimizer) -> tuple[Tensor, list[Tensor]]:
    """A parameter's start, and its values over four steps down (p³ + p).sum()."""
    layer = nn.Linear(3, 2, bias=False).double()
    start = layer.weight.detach().clone()
    optimizer = build_optimizer(spec, layer)
    found = []
    for _ in range(4):
        optimizer.zero_grad()
        (layer.weight**3 + layer.weight).sum().backward()
        optimizer.step()
        found.append(layer.weight.detach().clone())
    return start, found


def test_sgd_has_the_momentum_and_weight_decay_of_the_spec() -> None:
    start, found = steps_taken(Optimizer(name="sgd", lr=0.1, momentum=0.9, weight_decay=0.05))
    p, velocity = start, torch.zeros_like(start)
    for value in found:
        velocity = 0.9 * velocity + (3 * p**2 + 1 + 0.05 * p)
        p = p - 0.1 * velocity
        torch.testing.assert_close(value, p, rtol=1e-12, atol=0)


def test_adam_has_the_weight_decay_of_the_spec_as_an_l2_term() -> None:
    start, found = steps_taken(Optimizer(name="adam", lr=0.01, weight_decay=0.05))
    p, mean, square = start, torch.zeros_like(start), torch.zeros_like(start)
    for t, value in enumerate(found, 1):
        gradient = 3 * p**2 + 1 + 0.05 * p
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        p = p - 0.01 * (mean / (1 - 0.9**t)) / ((square / (1 - 0.999**t)).sqrt() + 1e-8)
        torch.testing.assert_close(value, p, rtol=1e-9, atol=0)


@pytest.mark.parametrize("below", ["", "a/b"])
def test_a_file_in_the_place_of_the_run_folder_is_said_with_a_remedy(
    tmp_path: Path, below: str
) -> None:
    (tmp_path / "run").write_text("mine")
    run_dir = tmp_path / "run" / below
    with pytest.raises(StorageError, match=rf"{run_dir}: cannot write .*make the folder writable"):
        train(run_dir)
    assert (tmp_path / "run").read_text() == "mine"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB, which takes six checkpoints."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = [mount or "false", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system is not allowed here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize(("left", "where"), [(0, "run"), (100_000, "run/checkpoints")])
def test_a_full_disk_is_said_and_the_run_goes_on_once_there_is_space(
    small_disk: Path, whole: Path, left: int, where: str
) -> None:
    run_dir, ballast = small_disk / "run", small_disk / "ballast"
    after = After(7)

    def fill() -> bool:
        if after():
            ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - left))
        return False

    with pytest.raises(StorageError) as caught:
        train(run_dir, stop=fill)
    said = str(caught.value)
    assert said.startswith(f"{small_disk / where}: the disk is full (0 MiB free)")
    assert "free some space and run the same command again, nothing is lost" in said
    assert [entry.step for entry in checkpoint.entries(run_dir / "checkpoints")] == [5]
    assert not list((run_dir / "checkpoints").glob(".*"))
    ballast.unlink()
    train(run_dir)
    assert_as_uninterrupted(run_dir, whole)


def test_a_disk_that_fills_within_a_checkpoint_leaves_the_one_before(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    fsync = os.fsync

    def full(handle: int) -> None:
        if os.fstat(handle).st_size > 100_000:
            written.append(handle)
            if len(written) == 2:
                raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match=rf"{tmp_path}/checkpoints: the disk is full .*free"):
            train(tmp_path)
    assert [entry.step for entry in checkpoint.entries(tmp_path / "checkpoints")] == [5]
    train(tmp_path)
    assert_as_uninterrupted(tmp_path, whole)


def test_checkpoints_are_kept_and_spaced_as_the_spec_says(tmp_path: Path) -> None:
    spec = tiny(**FAST, checkpoint={"every_epochs": 2, "keep": "all"})
    train(tmp_path / "epochs", spec)
    assert [e.step for e in checkpoint.entries(tmp_path / "epochs" / "checkpoints")] == [10, 15]
    spec = tiny(**FAST, checkpoint={"every_minutes": 1e-9, "keep": "all"})
    train(tmp_path / "minutes", spec)
    found = [entry.step for entry in checkpoint.entries(tmp_path / "minutes" / "checkpoints")]
    assert found == list(range(1, 16))


def test_a_tracker_is_told_only_of_what_a_checkpoint_holds(tmp_path: Path) -> None:
    told: list[int] = []

    class Tracker:
        def committed(self, step: int) -> None:
            assert checkpoint.entries(tmp_path / "checkpoints")[-1].step == step
            assert {row.step for row in metrics.read(tmp_path)} >= set(range(1, step + 1))
            told.append(step)

    train(tmp_path, tracker=Tracker())
    assert told == [5, 10, 15]
