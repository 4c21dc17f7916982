"""Image files of every kind as they occur: decoded to RGB as Pillow reads them, or told by name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import cut, picture, write
from PIL import Image
from torchvision.transforms import v2

from care_core.data.decode import UndecodableError, centred, crop, decode
from care_core.errors import DataError

JPEG_NOISE = 6  # levels of 255 that JPEG may differ from the picture, on average


def as_pillow_reads(path: Path) -> torch.Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("name", "convert", "options"),
    [
        ("a.jpg", "RGB", {}),
        ("a.JPEG", "RGB", {"progressive": True}),
        ("grey.JPEG", "L", {}),
        ("cmyk.JPEG", "CMYK", {"quality": 95}),
        ("png-in-truth.JPEG", "RGB", {"format": "PNG"}),
        ("a.png", "RGB", {}),
        ("grey.png", "L", {}),
        ("palette.png", "P", {}),
        ("transparent.png", "RGBA", {}),
        ("bits.png", "1", {}),
        ("a.webp", "RGB", {"lossless": True}),
    ],
)
def test_a_file_becomes_the_rgb_that_pillow_reads(
    tmp_path: Path, name: str, convert: str, options: dict[str, object]
) -> None:
    path = write(tmp_path / name, picture().convert(convert), **options)
    image = decode(path)
    assert image.dtype == torch.uint8
    assert image.shape == (3, 40, 60)
    assert (image.int() - as_pillow_reads(path).int()).abs().max() <= 1


def test_a_cmyk_jpeg_has_the_colours_of_the_picture_and_not_their_negative(tmp_path: Path) -> None:
    path = write(tmp_path / "a.JPEG", picture().convert("CMYK"), quality=95)
    expected = torch.from_numpy(np.array(picture())).permute(2, 0, 1).float()
    assert (decode(path).float() - expected).abs().mean() < JPEG_NOISE
    assert (255 - decode(path).float() - expected).abs().mean() > 5 * JPEG_NOISE


def test_sixteen_bits_a_channel_become_eight(tmp_path: Path) -> None:
    levels = np.linspace(0, 65535, 60 * 40).reshape(40, 60).astype(np.uint16)
    image = decode(write(tmp_path / "a.png", Image.fromarray(levels)))
    assert image.dtype == torch.uint8
    assert np.array_equal(image[1].numpy(), (levels >> 8).astype(np.uint8))


def test_pixels_stay_as_stored_whatever_the_orientation_says(tmp_path: Path) -> None:
    exif = picture().getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    path = write(tmp_path / "a.jpg", exif=exif)
    assert decode(path).shape == (3, 40, 60)


def empty(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def text(path: Path) -> Path:
    path.write_text("<html>not found</html>")
    return path


def flipped(path: Path) -> Path:
    """A PNG whose pixels are damaged: half-way, a run of bytes is 0."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(40)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "options", "damage", "reason"),
    [
        ("a.JPEG", {}, cut, "incomplete or truncated"),
        ("a.JPEG", {"progressive": True}, cut, "incomplete or truncated"),
        ("a.JPEG", {}, empty, "the file is empty"),
        ("a.JPEG", {}, text, "Unsupported image file"),
        ("a.png", {}, cut, "PNG: incomplete or truncated"),
        ("a.png", {}, flipped, "PNG: a checksum does not match"),
        ("png-in-truth.JPEG", {"format": "PNG"}, flipped, "PNG: a checksum does not match"),
        ("a.webp", {}, cut, "failed"),
    ],
)
def test_a_file_that_cannot_be_decoded_is_told_by_its_name_with_the_remedy(
    tmp_path: Path, name: str, options: dict[str, object],
    damage: Callable[[Path], Path], reason: str,
) -> None:  # fmt: skip
    path = damage(write(tmp_path / name, **options))
    with pytest.raises(UndecodableError) as caught:
        decode(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: cannot be decoded (")
    assert reason in said
    assert "repair or remove it, or set data.unreadable: skip" in said
    assert ".cpp" not in said
    assert "\n" not in said


def test_an_animation_is_no_image(tmp_path: Path) -> None:
    frames = [picture(seed=seed) for seed in range(3)]
    path = write(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    with pytest.raises(UndecodableError, match="holds 3 pictures"):
        decode(path)


def test_a_file_that_is_not_there_is_not_taken_for_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.jpg: cannot be read \(No such file") as caught:
        decode(tmp_path / "a.jpg")
    assert not isinstance(caught.value, UndecodableError)


def test_no_damage_to_a_png_brings_the_process_down(tmp_path: Path) -> None:
    """torchvision's decoder crashes on damaged pixels, so this is tried in a process of its own."""
    good = write(tmp_path / "good.png").read_bytes()
    generator = np.random.default_rng(0)
    for number in range(200):
        content = bytearray(good)
        for at in generator.integers(8, len(content), 3):
            content[at] ^= int(generator.integers(1, 256))
        (tmp_path / f"{number}.png").write_bytes(content)
    script = (
        "import sys, pathlib\n"
        "from care_core.data.decode import decode, UndecodableError\n"
        "found = 0\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).glob('[0-9]*.png')):\n"
        "    try: decode(path)\n"
        "    except UndecodableError: found += 1\n"
        "print(found)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "200\n"), done.stderr


def test_a_crop_is_torchvisions_resized_crop_of_the_bytes() -> None:
    image = torch.from_numpy(np.array(picture(90, 70))).permute(2, 0, 1)
    for box in ((0, 0, 70, 90), (10, 20, 30, 40), (69, 89, 1, 1)):
        found = crop(image, torch.tensor(box), 24)
        exact = v2.functional.resized_crop(image.float(), *box, [24, 24], antialias=True)
        assert found.dtype == torch.uint8
        assert (found.float() - exact).abs().max() < 1.01  # whole levels, rounded twice


@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 500), (256, 256), (30, 80)])
def test_the_centre_is_that_of_the_usual_evaluation(width: int, height: int) -> None:
    image = torch.from_numpy(np.array(picture(width, height))).permute(2, 0, 1)
    usual = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224)])
    assert torch.equal(centred(image, 224), usual(image))
    assert centred(image, 32).shape == (3, 32, 32)


@pytest.mark.parametrize("turned", [False, True])
def test_a_strip_of_one_pixel_does_not_become_one_of_any_size(turned: bool) -> None:
    usual = v2.Compose([v2.Resize(16, antialias=True), v2.CenterCrop(14)])
    sides = [(length, 1) if turned else (1, length) for length in (3000, 20_000_000)]
    long, endless = (torch.zeros(*s, 3, dtype=torch.uint8).permute(2, 0, 1) for s in sides)
    long.random_()
    assert torch.equal(centred(long, 14), usual(long))
    assert centred(endless, 224).shape == (3, 224, 224)  # whole it would take terabytes
