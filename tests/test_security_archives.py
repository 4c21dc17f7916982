"""Downloads are taken apart without doing what they ask: archives, pickles, checkpoints."""

from __future__ import annotations

import ast
import gzip
import hashlib
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from care_core.data import archives, vision
from care_core.errors import DataError

ROOT = Path(__file__).resolve().parent.parent
WANTED = {"set/a.bin", "set/b.bin"}
MOST = 10_000


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> Any:
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.size = kind, link, len(content)
    return found, content


def packed(path: Path, *members: Any) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for found, content in members:
            tar.addfile(found, io.BytesIO(content))
    return path


A, B = member("./set/a.bin", b"one"), member("set/b.bin", b"two")


def beneath(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_wanted_files_come_out_and_nothing_else_does(tmp_path: Path) -> None:
    outside, into = tmp_path / "outside", tmp_path / "home" / "data"
    outside.mkdir()
    archive = packed(
        tmp_path / "set.tar.gz", member(str(outside / "absolute"), b"x"), member("../up", b"x"),
        member("../../outside/up", b"x"), member("set/readme", b"x"),
        member("door", kind=tarfile.SYMTYPE, link=str(outside)), member("door/through", b"x"),
        member("pipe", kind=tarfile.FIFOTYPE), member("null", kind=tarfile.CHRTYPE), A, B,
    )  # fmt: skip
    archives.unpack(archive, into, WANTED, MOST)
    assert beneath(into) == WANTED and (into / "set/a.bin").read_bytes() == b"one"
    assert not list(outside.iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"outside", "home", "set.tar.gz"}


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE]
)
def test_a_wanted_name_that_is_no_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    archive = packed(tmp_path / "set.tar.gz", member("set/a.bin", kind=kind, link="/etc/passwd"), B)
    with pytest.raises(DataError, match=r"set/a\.bin in it is not a file"):
        archives.unpack(archive, tmp_path / "data", WANTED, MOST)
    assert not beneath(tmp_path / "data")


def test_a_link_that_lies_where_a_file_comes_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "data/set").mkdir(parents=True)
    (tmp_path / "data/set/a.bin").symlink_to(victim)
    archives.unpack(packed(tmp_path / "set.tar.gz", A, B), tmp_path / "data", WANTED, MOST)
    assert victim.read_text() == "mine" and not (tmp_path / "data/set/a.bin").is_symlink()


def bomb(path: Path) -> Path:
    return packed(path, member("set/zeros", bytes(MOST + 1)), A, B)


def false_header(path: Path) -> Path:
    """A pax header that tells of gigabytes, which tarfile would ask for at once."""
    found = tarfile.TarInfo("set/a.bin")
    found.type, found.size = tarfile.XHDTYPE, 2**33
    path.write_bytes(gzip.compress(found.tobuf(tarfile.GNU_FORMAT) + bytes(1024)))
    return path


def zipped(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("../set/a.bin", b"one")
    return path


def torn(path: Path) -> Path:
    packed(path, A, B)
    path.write_bytes(path.read_bytes()[:-20])
    return path


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (bomb, "holds more than 10000 bytes"), (false_header, "tells of"),
        (zipped, "not a .tar.gz"), (torn, "damaged"), (lambda at: packed(at, A), "lacks 1 file"),
    ],
)  # fmt: skip
def test_a_bomb_a_zip_and_a_torn_archive_are_refused_with_a_sentence(
    tmp_path: Path, make: Callable[[Path], Path], said: str
) -> None:
    archive = make(tmp_path / "set.tar.gz")
    with pytest.raises(DataError, match=said):
        archives.unpack(archive, tmp_path / "data", WANTED, MOST)
    assert not [name for name in beneath(tmp_path) if name.endswith(".tmp")]


def test_a_download_is_unpacked_by_these_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(url: str, root: Path, filename: str, md5: str) -> None:
        names = (f"cifar-100-python/{name}" for name in ("train", "test", "meta"))
        packed(Path(root) / filename, member("../evil", b"x"), *(member(n, b"x") for n in names))

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download)
    (tmp_path / "data").mkdir()
    vision.prepare("cifar100", tmp_path / "data", lambda text: None)
    assert "cifar-100-python/train" in beneath(tmp_path / "data")
    assert not (tmp_path / "evil").exists()


class Payload:
    """What a hostile pickle holds: unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_a_batch_of_cifar_is_read_whatever_wrote_it_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.arange(2 * 3072, dtype=np.uint8).reshape(2, 3072)
    for protocol in (3, 4):
        found, labels = archives.cifar(pickle.dumps({"data": pixels, "labels": [7, 3]}, protocol))
        assert np.array_equal(found, pixels) and labels == [7, 3]
    for hostile in (
        {"data": pixels, "labels": [7, 3], "more": Payload(tmp_path / "ran")},
        {"data": np.array([Payload(tmp_path / "ran")], dtype=object), "labels": [7]},
        Payload(tmp_path / "ran"), {"data": pixels, "labels": [Payload(tmp_path / "ran")]},
    ):  # fmt: skip
        with pytest.raises(pickle.UnpicklingError, match="it asks for"):
            archives.cifar(pickle.dumps(hostile, 4))
    for odd in ({"data": pixels.astype(np.float32), "labels": [1]}, {"data": pixels, "labels": "a"},
                {"data": [1], "labels": [1]}, {"data": pixels.T, "labels": [1]}, [1]):  # fmt: skip
        with pytest.raises(ValueError, match=r"its|it is"):
            archives.cifar(pickle.dumps(odd, 4))
    # even with the published checksum
    content = pickle.dumps({"data": pixels, "labels": [1, Payload(tmp_path / "ran")]}, 4)
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name in ("train", "test", "meta"):
        (folder / name).write_bytes(content)
    digest = hashlib.md5(content).hexdigest()
    listed = SimpleNamespace(
        train_list=[["train", digest]], test_list=[["test", digest]],
        meta={"filename": "meta", "md5": digest},
    )  # fmt: skip
    monkeypatch.setattr(vision, "_published", lambda name: listed)
    with pytest.raises(DataError, match="it asks for"):
        vision.load("cifar100", "train", tmp_path, 32)
    assert not (tmp_path / "ran").exists()


REFUSED = {
    "pickle.load", "pickle.loads", "cloudpickle.load", "cloudpickle.loads", "joblib.load",
    "marshal.load", "marshal.loads", "shelve.open", "yaml.load", "yaml.unsafe_load", "os.system",
    "os.popen", "eval", "exec", "tempfile.mktemp", "shutil.unpack_archive", "torch.jit.load",
    "torch.hub.load", "pd.read_pickle",
}  # fmt: skip


def test_no_code_unpickles_runs_a_shell_or_unpacks_by_itself() -> None:
    """`submitit` alone unpickles: its own job files, in a process that carectl starts for it."""
    seen = set()
    for path in [*(ROOT / "care_core").rglob("*.py"), *(ROOT / "carectl").rglob("*.py"),
                 *(ROOT / "benchmarks").glob("*.py")]:  # fmt: skip
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name, given = ast.unparse(node.func), {k.arg: k.value for k in node.keywords}
            where = f"{path.name}:{node.lineno}: {name}"
            assert name not in REFUSED and not name.endswith(".extractall"), where
            assert "shell" not in given, where
            if name == "torch.load":
                assert ast.unparse(given["weights_only"]) == "True", where
            if name == "np.load":
                assert ast.unparse(given.get("allow_pickle", ast.Constant(False))) == "False", where
            seen.add(name)
    assert {"torch.load", "np.load", "subprocess.run"} <= seen
