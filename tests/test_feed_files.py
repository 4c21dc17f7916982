"""A step from image files: crops of each file, one fractional crop a split, and who waits."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import digit_files
import pytest
import torch
from conftest import tiny
from feeding import JITTER, PLAIN, distinct, given, image_set, spec_of, unstandardised
from pictures import cut
from ranks import After, assert_as_uninterrupted
from torch import Tensor
from torchvision.io import write_png
from torchvision.transforms import v2

from care_core import augment, data, pretrain
from care_core.data import decode
from care_core.data.files import FileSet
from care_core.distributed import ALONE, World
from care_core.errors import DataError, Interrupted
from care_core.files import read_json
from care_core.spec import PretrainSpec
from care_core.spec.facts import DATASETS
from care_core.views import meter
from care_core.views.feed import Feed, Planner

SIZE, BATCH = 16, 16
#: Height and width of files, none of them square, or of any other's shape.
SHAPES = [(40, 60), (96, 64), (50, 51), (72, 100), (33, 50), (80, 41), (64, 90), (58, 47)]
CROP: dict[str, Any] = {**PLAIN, "crop_scale": [0.2, 0.6], "crop_ratio": [0.75, 1.333]}


def place(height: int, width: int) -> Tensor:
    """(3, H, W): red is how far right a pixel lies in the central square, green how far down."""
    side = min(height, width)
    across = (torch.arange(width) + 0.5 - (width - side) / 2) / side
    down = (torch.arange(height) + 0.5 - (height - side) / 2) / side
    image = torch.stack([across.expand(height, width), down[:, None].expand(height, width),
                         torch.full((height, width), 0.5)])  # fmt: skip
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of such files, of several shapes."""
    root = tmp_path_factory.mktemp("places")
    (root / "train/one").mkdir(parents=True)
    for number in range(32):
        write_png(place(*SHAPES[number % 8]), str(root / f"train/one/{number:02d}.png"))
    return root


def folder(root: Path, **changes: Any) -> PretrainSpec:
    facts = DATASETS["digits"]
    described = {
        "name": "folder", "path": str(root), "image_size": SIZE,
        "mean": list(facts.mean), "std": list(facts.std),
    }  # fmt: skip
    fields = {"equivariance": {"weight": 0.1, "splits": 4}, **changes}
    workers = fields.pop("workers", 0)
    return spec_of(BATCH, **fields, data=described, launch={"threads": 1, "workers": workers})


def load(spec: PretrainSpec) -> FileSet:
    images = data.load(spec.data, "pretrain", Path())
    assert isinstance(images, FileSet)
    return images


def seen_at(box: Tensor, height: int, width: int) -> Tensor:
    """(SIZE, SIZE, 2): the place, in the whole, of the centre of each pixel of a resized crop."""
    top, left, h, w = box.tolist()
    share = (torch.arange(SIZE) + 0.5) / SIZE
    across, down = (left + share * w) / width, (top + share * h) / height
    return torch.stack([across.expand(SIZE, SIZE), down[:, None].expand(SIZE, SIZE)])


def test_the_pairs_crop_is_one_fraction_of_every_file_of_a_split(places: Path) -> None:
    """Of what is left of each file once its shorter side is resized and its centre taken."""
    spec = folder(places, augment=CROP)
    (step,) = given(spec, load(spec))
    plan = Planner(spec, ALONE, 32).at(0)
    shapes = {SHAPES[number % 8] for number in plan.images.tolist()}
    assert len(shapes) > 4
    for half, numbers in zip(step.pair, plan.pair, strict=True):
        found = unstandardised(half)[:, :2]
        boxes = augment.boxes(numbers, SIZE, SIZE, spec.augment)
        for split, box in zip(found.split(4), boxes, strict=True):
            # a centre crop shows the middle 7/8 of the central square
            wanted = 1 / 16 + 7 / 8 * seen_at(box, SIZE, SIZE)
            # a pixel is 0.055 wide: the edge's are cut, the centre can be off by half of one
            assert (split - wanted)[..., 2:-2, 2:-2].abs().max() < 0.04
        assert distinct(found[::4] * 10)


def test_a_views_crop_is_taken_of_each_file_as_it_is(places: Path) -> None:
    spec = folder(places, augment=CROP)
    images = load(spec)
    (step,) = given(spec, images)
    plan = Planner(spec, ALONE, 32).at(0)
    for view, numbers in zip(step.views, plan.views, strict=True):
        for found, number, u in zip(
            unstandardised(view), plan.images.tolist(), numbers, strict=True
        ):
            height, width = SHAPES[number % 8]
            side = min(height, width)
            (box,) = augment.boxes(u[None], height, width, spec.augment)
            whole = seen_at(box, height, width)  # in shares of the file; wanted are the square's
            size = torch.tensor([width, height]).view(2, 1, 1)
            wanted = ((whole * size - (size - side) / 2) / side).clamp(0, 1)
            assert (found[:2] - wanted).abs().max() < 0.03


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 64 digits of 16 pixels."""
    root = tmp_path_factory.mktemp("digits")
    digit_files.write(root, train=64, test=20)
    return root


def test_views_of_files_are_those_of_images_in_memory_up_to_the_rounding_of_crops(
    digits: Path,
) -> None:
    """A file's crop is rounded to uint8, a crop in memory is not: half a level, and as much for
    the resampling of uint8 itself. What follows can enlarge it, so there the mean tells."""
    memory = digit_files.digits("train", 64)
    level = 1 / 255 / 0.3
    for augmentation in ({**CROP, "flip": 0.5}, {}):
        spec = folder(digits, augment=augmentation)
        images = load(spec)
        assert torch.equal(images.labels, memory.labels)
        for found, wanted in zip(given(spec, images, 4), given(spec, memory, 4), strict=True):
            for ours, theirs in zip(found.views, wanted.views, strict=True):
                error = (ours - theirs).abs()
                assert error.mean() < level / 2
                if augmentation:
                    assert error.max() <= 1.01 * level
                assert not torch.equal(ours, theirs)


@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize("fed", [None, 8])
def test_the_pair_is_made_of_the_centres_of_the_files_that_feed_it(
    places: Path, fed: int | None, crop: bool
) -> None:
    """Bit by bit what the same centres in memory give."""
    term = {"weight": 0.1, "splits": 4, "batch": fed, "crop": crop}
    spec = folder(places, augment=JITTER, equivariance=term)
    images = load(spec)
    centre = v2.Compose([v2.Resize(round(SIZE * 8 / 7), antialias=True), v2.CenterCrop(SIZE)])
    memory = image_set(torch.stack([centre(images.decode(n)) for n in range(len(images))]))
    for found, wanted in zip(given(spec, images, 2), given(spec, memory, 2), strict=True):
        assert [len(half) for half in found.pair] == [fed or BATCH] * 2
        assert all(map(torch.equal, found.pair, wanted.pair))


def test_equimod_has_the_centres_and_the_crops_in_fractions_of_each_file(places: Path) -> None:
    spec = folder(places, method={"name": "equimod"}, equivariance={"weight": 0.1, "splits": 4})
    images = load(spec)
    feed = Feed(spec, images, ALONE, torch.device("cpu"))
    (step,) = feed.steps(0, 1)
    plan = feed.planner.at(0)
    assert step.plain is not None and step.parameters is not None and feed.scale is not None
    centres = torch.stack([images.centred(number) for number in plan.images.tolist()])
    torch.testing.assert_close(unstandardised(step.plain), centres / 255, rtol=0, atol=1e-5)
    mean, std = feed.scale
    for told, numbers in zip(step.parameters * std + mean, plan.views, strict=True):
        for row, number, u in zip(told, plan.images.tolist(), numbers, strict=True):
            height, width = SHAPES[number % 8]
            (box,) = augment.boxes(u[None], height, width, spec.augment)
            wanted = box / torch.tensor([height, width, height, width])
            torch.testing.assert_close(row[:4], wanted, rtol=1e-4, atol=1e-5)
    plain = folder(places)
    other = given(plain, images)[0]
    assert all(map(torch.equal, step.views + step.pair, other.views + other.pair))


def test_workers_and_ranks_make_the_same_steps_as_one_process(places: Path) -> None:
    spec = folder(places)
    images = load(spec)
    alone = given(spec, images, 4)
    for ours, wanted in zip(given(folder(places, workers=2), images, 4), alone, strict=True):
        assert all(map(torch.equal, ours.views + ours.pair, wanted.views + wanted.pair))
    for number, wanted in enumerate(alone):
        ranks = [given(spec, images, 4, World(rank, 2))[number] for rank in range(2)]
        for kind in ("views", "pair"):
            for n in range(2):
                parts = torch.cat([getattr(rank, kind)[n] for rank in ranks])
                torch.testing.assert_close(parts, getattr(wanted, kind)[n])


@pytest.mark.parametrize(("busy", "share"), [(2, 0.75), (18, 0.25), (0, 1)])
def test_the_share_of_the_time_spent_waiting_for_files_is_told(
    places: Path, monkeypatch: pytest.MonkeyPatch, busy: float, share: float
) -> None:
    """By a clock of the test's own: 16 files take 8 s to decode, a step's work takes `busy`.

    The first files are waited for while workers start, which does not count.
    """
    now = [0.0]
    monkeypatch.setattr(meter, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    real = decode.decode

    def slow(path: Path) -> Tensor:
        now[0] += 0.5
        return real(path)

    monkeypatch.setattr(decode, "decode", slow)
    spec = folder(places, equivariance={"weight": 0})
    feed = Feed(spec, load(spec), ALONE, torch.device("cpu"))
    assert feed.data_bound() is None  # before the first step
    for _ in feed.steps(0, 4):
        now[0] += busy
    assert feed.data_bound() == pytest.approx(share)  # 24 s of 24 + 4 · busy
    assert feed.data_bound() == pytest.approx(share)  # until there is more to tell


def test_images_in_memory_are_never_waited_for() -> None:
    spec = spec_of(equivariance={"weight": 0})
    feed = Feed(spec, digit_files.digits("train", 64), ALONE, torch.device("cpu"))
    assert len(list(feed.steps(0, 1))) == 1
    assert feed.data_bound() is None


def training(root: Path, **changes: Any) -> PretrainSpec:
    return tiny(
        data={"name": "folder", "path": str(root), "image_size": 16},
        training={"epochs": 2, "batch_size": 16}, launch={"threads": 1, "workers": 2}, **changes,
    )  # fmt: skip


def test_a_run_on_files_goes_on_as_if_it_had_not_been_stopped(digits: Path, tmp_path: Path) -> None:
    spec = training(digits, equivariance={"weight": 0.1, "splits": 4})
    pretrain(spec, tmp_path / "whole", threads=1)
    share = read_json(tmp_path / "whole" / "progress.json")["data_bound"]
    assert 0 <= share <= 1
    with pytest.raises(Interrupted):
        pretrain(spec, tmp_path / "cut", threads=1, stop=After(3))
    pretrain(spec, tmp_path / "cut", threads=1)
    assert_as_uninterrupted(tmp_path / "cut", tmp_path / "whole")


def test_a_file_that_cannot_be_decoded_stops_the_run_by_its_name_or_is_skipped(
    tmp_path: Path,
) -> None:
    digit_files.write(tmp_path / "data", train=40, test=10)
    bad = sorted((tmp_path / "data").glob("train/*/*.png"))[7]
    cut(bad)
    term = {"weight": 0}
    with pytest.raises(DataError, match=rf"{bad}: .*data\.unreadable: skip"):
        pretrain(training(tmp_path / "data", equivariance=term), tmp_path / "run", threads=1)
    spec = training(tmp_path / "data", equivariance=term)
    spec = spec.model_copy(update={"data": spec.data.model_copy(update={"unreadable": "skip"})})
    result = pretrain(spec, tmp_path / "skipping", threads=1, data_dir=tmp_path)
    assert (result["images"], result["skipped"]) == (39, 1)
