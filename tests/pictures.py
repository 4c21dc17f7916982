"""Image files for tests, in their real formats, and folders of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def picture(width: int = 60, height: int = 40, seed: int = 0) -> Image.Image:
    """A smooth colour picture: what JPEG keeps well."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def write(path: Path, image: Image.Image | None = None, **options: object) -> Path:
    """The picture in the format of its name's ending, or `format=`; the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or picture()).save(path, **options)  # type: ignore[arg-type]
    return path


def classes(root: Path, **counts: int) -> Path:
    """Folders of JPEG files, no two alike: classes(root, **{"train/cat": 3}); the root."""
    for seed, (folder, count) in enumerate(counts.items()):
        for number in range(count):
            image = picture(60 + number, 40, seed=100 * seed + number)
            write(root / folder / f"{number}.JPEG", image, quality=95)
    return root


def cut(path: Path, keep: float = 0.5) -> Path:
    """Leave the first part of a file, as an interrupted copy does; the path."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    return path
