"""What an embedding knows of how a point cloud lies (paper, Figs. 3, 4 and 17 to 20).

The first principal component of a cloud turns as the cloud does. An embedding that forgets
rotations cannot tell it; one that a rotation turns too can, by a linear map. It is an axis v
without a sign, so that what is regressed is the matrix v vᵀ.
"""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from care_core import draws
from care_core.files import write_json
from care_core.measures import acting
from care_core.measures.features import Features
from care_core.measures.regression import ridge_guess
from care_core.models import Encoder
from care_core.spec import ProbeSpec
from care_core.views.clouds import about, rotate, rotations

if TYPE_CHECKING:
    from care_core.data import Images

#: Penalty of the regression, as a share of the number of clouds.
RIDGE = 1e-3

# the entries of a symmetric matrix that say it all; those beside the diagonal are there twice
_ROWS, _COLUMNS = [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]
_WEIGHTS = torch.tensor([1.0, 2.0, 2.0, 1.0, 2.0, 1.0], dtype=torch.float64).sqrt()


def measure(
    spec: ProbeSpec, encoder: Encoder, untrained: Encoder, train: Images, test: Images,
    run_dir: Path,
) -> dict[str, Any]:  # fmt: skip
    """Read the principal axis of test clouds by a regression fitted on training clouds.

    Every cloud is turned once, at random. Where embeddings lie while a few test clouds turn about
    x, y and z goes to artifacts/trajectories.json.

    Returns:
        By layer (backbone, projection) the `angle` between an axis and the one that is read, in
        degrees, as mean and `median` over test clouds, and `r2` of v vᵀ: an axis that is guessed
        is 57.3° off on average, at an r2 of 0. The same of the encoder without training, in
        `untrained`. Of the projection's closed path while a cloud turns once, `path_radius` is the
        root mean square distance from its middle (0: it stays; at most 1), `path_length` its
        length, and `path_plane` its share of variance in its best plane; means over clouds and
        axes.
    """
    clouds = [
        rotate(acting.pixels_of(part, encoder, None), rotations(_numbers(len(part), name)))
        for name, part in (("train", train), ("test", test))
    ]
    found = {**_errors(spec, encoder, clouds), "untrained": _errors(spec, untrained, clouds)}
    chosen = test.take(acting.evenly(len(test), spec.probe.axis.clouds))
    told = trajectories(spec, encoder, acting.pixels_of(chosen, encoder, None))
    told["labels"] = chosen.labels.tolist()
    write_json(run_dir / "artifacts" / "trajectories.json", told, durable=False)
    paths = [path for cloud in told["clouds"] for path in cloud.values()]
    return {
        **found,
        "path_radius": statistics.fmean(path["radius"] for path in paths),
        "path_length": statistics.fmean(path["length"] for path in paths),
        "path_plane": statistics.fmean(path["share"] for path in paths),
    }


def principal_axis(clouds: Tensor) -> Tensor:
    """(N, points, 3) clouds about 0 → (N, 3) float64 unit vectors of the largest spread."""
    points = clouds.double().cpu()
    return torch.linalg.eigh(points.transpose(1, 2) @ points).eigenvectors[..., -1]


def as_numbers(axes: Tensor) -> Tensor:
    """(N, 3) axes v → (N, 6) the entries of v vᵀ, of which distances are those of the matrices."""
    outer = axes[:, :, None] * axes[:, None, :]
    return outer[:, _ROWS, _COLUMNS] * _WEIGHTS


def as_axes(numbers: Tensor) -> Tensor:
    """(N, 6) such entries, also if guessed, → (N, 3) the nearest axis of each."""
    matrix = torch.zeros(len(numbers), 3, 3, dtype=torch.float64)
    matrix[:, _COLUMNS, _ROWS] = numbers.double() / _WEIGHTS
    return torch.linalg.eigh(matrix).eigenvectors[..., -1]  # reads the lower triangle alone


def angles(one: Tensor, other: Tensor) -> Tensor:
    """(N, 3) axes → (N,) degrees between them, from 0 to 90."""
    return torch.rad2deg((one * other).sum(dim=1).abs().clamp(max=1).acos())


def trajectories(spec: ProbeSpec, encoder: Encoder, clouds: Tensor) -> dict[str, Any]:
    """Where projections lie while clouds (n, points, 3) turn once about each axis.

    Returns:
        `angles` in radians; `clouds`, for each by axis `plane`, its place at each angle in the
        plane of the two principal components of all of these places, `own`, the same of this path
        alone, `share`, of the path's variance in its own plane, `radius` and `length`; `share`, of
        all in the common plane.
    """
    count = spec.probe.axis.rotations
    turns = 2 * math.pi * torch.arange(count) / count
    ways = torch.stack(
        [
            torch.stack([_along(spec, encoder, cloud, about(axis, turns)) for axis in range(3)])
            for cloud in clouds
        ]
    )  # (n, 3, rotations, d)
    plane, share = _plane(ways.flatten(0, 2))
    places = plane.view(*ways.shape[:3], 2)
    told = []
    for way, place in zip(ways, places, strict=True):
        each: dict[str, Any] = {}
        for axis, name in enumerate("xyz"):
            own, mine = _plane(way[axis])
            closed = torch.cat([way[axis], way[axis][:1]])
            each[name] = {
                "plane": _brief(place[axis]),
                "own": _brief(own),
                "share": mine,
                "radius": float(
                    (way[axis] - way[axis].mean(dim=0)).square().sum(dim=1).mean().sqrt()
                ),
                "length": float(closed.diff(dim=0).norm(dim=1).sum()),
            }
        told.append(each)
    return {"angles": [round(turn, 6) for turn in turns.tolist()], "share": share, "clouds": told}


def _errors(spec: ProbeSpec, encoder: Encoder, clouds: list[Tensor]) -> dict[str, Any]:
    truths = [principal_axis(part) for part in clouds]
    known, asked = (acting.embed(spec, encoder, part) for part in clouds)
    errors: dict[str, Any] = {"angle": {}, "median": {}, "r2": {}}
    for name, x, y in zip(Features._fields, known, asked, strict=True):
        goal, truth = (as_numbers(part) for part in truths)
        guess = ridge_guess(x.double(), goal, y.double(), RIDGE)
        off = angles(as_axes(guess), truths[1])
        errors["angle"][name], errors["median"][name] = float(off.mean()), float(off.median())
        spread = (truth - truth.mean(dim=0)).square().sum()
        errors["r2"][name] = 1 - float((truth - guess).square().sum() / spread)
    return errors


def _along(spec: ProbeSpec, encoder: Encoder, cloud: Tensor, turns: Tensor) -> Tensor:
    """(rotations, d) float64 projections of one cloud under each turn."""
    turned = rotate(cloud.expand(len(turns), -1, -1), turns)
    return acting.embed(spec, encoder, turned).projection.double().cpu()


def _plane(z: Tensor) -> tuple[Tensor, float]:
    """(n, d) rows → (n, 2) in their two principal components, and these two's share of variance."""
    centred = z - z.mean(dim=0)
    _, s, vt = torch.linalg.svd(centred, full_matrices=False)
    whole = float(s.square().sum())
    return centred @ vt[:2].T, float(s[:2].square().sum()) / whole if whole > 0 else float("nan")


def _numbers(count: int, purpose: str) -> Tensor:
    return torch.rand(count, 3, generator=draws.generator(0, "axis", purpose), dtype=torch.float64)


def _brief(rows: Tensor) -> list[list[float]]:
    return [[round(value, 5) for value in row] for row in rows.tolist()]
