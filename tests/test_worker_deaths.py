"""An image that breaks its decoder stops the run by its name, and nothing hangs."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from care_core.data import decode, files, scan, workers
from care_core.data.decode import UndecodableError
from care_core.data.files import FileSet
from care_core.data.listing import Listing
from care_core.errors import CareError

SIZE = 8


@pytest.fixture(autouse=True)
def looked_for_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """DataLoader looks every five seconds whether its workers live: here it does at once."""
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.1,))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight images, of which the third is not what the decoder expects."""
    from PIL import Image

    for number in range(8):
        Image.new("RGB", (12, 12), (number, 0, 0)).save(tmp_path / f"{number}.png")
    return tmp_path


def breaking(monkeypatch: pytest.MonkeyPatch, how: object) -> None:
    """Let the decoder meet image 3 so: a signal, an exit code, or an exception."""
    rgb = decode._rgb

    def decoder(content: bytearray) -> Tensor:
        image = rgb(content)
        if int(image[0, 0, 0]) != 3:
            return image
        if isinstance(how, signal.Signals):
            os.kill(os.getpid(), how)
        if isinstance(how, int):
            os._exit(how)
        assert isinstance(how, BaseException)
        raise how

    monkeypatch.setattr(decode, "_rgb", decoder)


def set_of(folder: Path) -> FileSet:
    paths = tuple(str(folder / f"{number}.png") for number in range(8))
    return FileSet(paths, torch.zeros(8, dtype=torch.int64), 1, SIZE)


@pytest.mark.parametrize(
    ("how", "ending"),
    [
        (signal.SIGSEGV, "by SIGSEGV"),
        (signal.SIGKILL, "by SIGKILL"),
        (3, "exit code 3"),
        (0, "exit code 0"),
    ],
    ids=str,
)
def test_a_worker_that_dies_is_told_with_the_image_it_was_at(
    folder: Path, monkeypatch: pytest.MonkeyPatch, how: int, ending: str
) -> None:
    breaking(monkeypatch, how)
    with pytest.raises(CareError) as caught:
        list(set_of(folder).batches(4, workers=2))
    first, second = str(caught.value).splitlines()
    image = folder / "3.png"
    assert first == f"a process that makes images ready died at {image} ({ending})"
    memory = second.startswith("Most likely memory")
    assert memory == (how == signal.SIGKILL)
    assert "launch.workers" in second and "that file breaks the decoder" in second


@pytest.mark.parametrize("count", [0, 2])
def test_whatever_a_decoder_raises_names_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    breaking(monkeypatch, IndexError("list index out of range"))
    with pytest.raises(UndecodableError) as caught:
        list(set_of(folder).batches(4, workers=count))
    assert str(caught.value).startswith(
        f"{folder / '3.png'}: cannot be decoded (IndexError: list index out of range); repair"
    )


def test_a_lack_of_memory_is_not_the_files_fault(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaking(monkeypatch, MemoryError())
    with pytest.raises(MemoryError):
        decode.decode(folder / "3.png")


@pytest.mark.parametrize("how", [IndexError("no"), signal.SIGSEGV, 1], ids=str)
def test_skipping_leaves_out_what_no_decoder_survives(
    folder: Path, monkeypatch: pytest.MonkeyPatch, how: object
) -> None:
    breaking(monkeypatch, how)
    monkeypatch.setattr(scan, "_PART", 2)
    names = tuple(f"{number}.png" for number in range(8))
    listing = Listing(folder, names, (0,) * 8, 1)
    said: list[str] = []
    kept = files.load(listing, SIZE, skip=True, cache=folder / "memory", say=said.append)
    assert kept.skipped == 1
    assert [Path(path).name for path in kept.paths] == [n for n in names if n != "3.png"]
    assert len(list(kept.batches(4, workers=2))) == 2


class Crops(Dataset[Tensor]):
    def __getitem__(self, key: int) -> Tensor:
        workers.working_on(f"image {key}.jpg")
        return torch.empty(4)[key]


@pytest.mark.parametrize("count", [0, 1])
def test_a_defect_past_the_decoder_is_told_with_the_image_too(count: int) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)image 4\.jpg.*IndexError"):
        list(workers.loader(Crops(), [1, 4], count))
