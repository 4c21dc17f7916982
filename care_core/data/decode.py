"""An image file becomes (3, H, W) uint8 RGB, and what is cut out of it.

Pixels are as they are stored: an EXIF orientation is not applied, as in the usual ImageNet
loaders, so that results compare. Grey, palette and CMYK images become RGB, transparency is
dropped, 16 bits a channel become 8.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2 import functional as TF

from care_core.data import workers
from care_core.errors import DataError

_PNG = b"\x89PNG\r\n\x1a\n"
_LONGEST = 1000  # times the shorter side: beyond it the ends are cut off before anything is resized


class UndecodableError(DataError):
    """The file is there, and is not an image that can be decoded."""


def decode(path: Path) -> Tensor:
    """(3, H, W) uint8 of a JPEG, PNG, WebP or single GIF, told by the content, not by the name.

    Raises:
        UndecodableError: names the file and the remedy.
        DataError: the file cannot be read.
    """
    workers.working_on(path)
    try:
        content = bytearray(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        return _rgb(content)
    except MemoryError:
        raise
    except Exception as error:  # a decoder raises whatever damage makes it raise
        raise UndecodableError(
            f"{path}: cannot be decoded ({_reason(error)}); repair or remove it, or set "
            "data.unreadable: skip to leave such files out"
        ) from error


def crop(image: Tensor, box: Tensor | Sequence[int], size: int) -> Tensor:
    """(3, size, size) uint8 of a box (top, left, height, width): `resized_crop`, antialiased."""
    top, left, height, width = (int(side) for side in box)
    return TF.resized_crop(image, top, left, height, width, [size, size], antialias=True)


def centred(image: Tensor, size: int) -> Tensor:
    """(3, size, size) uint8: the centre once the shorter side is size · 8/7 (256 for 224)."""
    whole = TF.resize(_middle(image), [round(size * 8 / 7)], antialias=True)
    return TF.center_crop(whole, [size, size])


def _middle(image: Tensor) -> Tensor:
    """The image without the ends of a very long one, which are far from its centre.

    The shorter side decides how much larger both become: 1 × 65,000 pixels, a file of 300 bytes,
    would be 256 × 17 million.
    """
    height, width = image.shape[-2:]
    most = _LONGEST * min(height, width)
    above, left = max(0, height - most) // 2, max(0, width - most) // 2
    return image[..., above : height - above, left : width - left]


def _rgb(content: bytearray) -> Tensor:
    if not content:
        raise ValueError("the file is empty")
    if content.startswith(_PNG):
        _check_png(content)
    image = decode_image(torch.frombuffer(content, dtype=torch.uint8), ImageReadMode.RGB)
    if image.ndim != 3:
        raise ValueError(f"it holds {len(image)} pictures")
    if image.dtype == torch.uint16:
        image = (image.to(torch.int32) >> 8).to(torch.uint8)
    return image


def _check_png(content: bytearray) -> None:
    """Compare each part with its checksum: torchvision's decoder crashes on damaged pixels."""
    view, at = memoryview(content), len(_PNG)
    while at + 12 <= len(content):
        end = at + 8 + int.from_bytes(view[at : at + 4], "big")
        if end + 4 > len(content):
            break
        if zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise ValueError("PNG: a checksum does not match, so it is damaged")
        if content[at + 4 : at + 8] == b"IEND":
            return
        at = end + 4
    raise ValueError("PNG: incomplete or truncated")


def _reason(error: Exception) -> str:
    """The decoder's words without the place in its source; before unusual ones, their kind."""
    first = (str(error).splitlines() or [""])[0]
    words = re.sub(r"^.*\.(cpp|h):\d+, *", "", first).strip().rstrip(".") or "damaged"
    usual = isinstance(error, RuntimeError | ValueError)
    return words if usual else f"{type(error).__name__}: {words}"
