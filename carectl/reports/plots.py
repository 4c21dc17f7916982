"""The pictures of one evaluation, `carectl eval RUN --plots`: whatever it measured is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from care_core.files import read_json
from carectl.errors import CommandError
from carectl.reports import curves, shape
from carectl.runs import Run


def draw(probe: Run, trained: Run | None) -> list[Path]:
    """Draw to the evaluation's artifacts, as PNG and SVG; returns the paths.

    curves (loss terms, kNN over time, learning rate) of the pretraining; geometry (cosines, and
    what a rotation explains) and embedding (principal components by class, hue and augmentation)
    where geometry was measured; neighbours where colour was.

    Raises:
        CommandError: there is nothing to draw.
    """
    folder = probe.path / "artifacts"
    found = list(_drawn(probe, trained, folder))
    if not found:
        raise CommandError(f"{probe.id}: --plots has nothing to draw; add --probe geometry")
    return found


def _drawn(probe: Run, trained: Run | None, folder: Path) -> Iterator[Path]:
    from carectl.targets import neighbours

    def pair(name: str) -> tuple[Path, Path]:
        return folder / f"{name}.png", folder / f"{name}.svg"

    if trained is not None and (trained.path / "metrics.jsonl").exists():
        yield from curves.draw_to(trained.path, *pair("curves"))
    found = read_json(folder / "geometry.json")
    if isinstance(found, dict):
        for name, picture in (("geometry", shape.acts), ("embedding", shape.plane)):
            picture(found, probe.id, *pair(name))
            yield from pair(name)
    shown = neighbours.read(folder, "")
    if shown is not None:
        for layer in ("projection", "backbone"):
            name = f"neighbours-{layer}"
            neighbours.draw([shown], shown.positions, layer, *pair(name))
            yield from pair(name)
