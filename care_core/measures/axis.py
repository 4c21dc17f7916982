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

from care_core import draws, geometry
from care_core.files import write_json
from care_core.measures import embeddings
from care_core.measures.embeddings import rounded
from care_core.measures.features import Features
from care_core.measures.regression import r_squared, ridge_predict
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
    turned = [
        rotate(embeddings.load_pixels(part, encoder, None), rotations(_numbers(len(part), name)))
        for name, part in (("train", train), ("test", test))
    ]
    found = {**_errors(spec, encoder, *turned), "untrained": _errors(spec, untrained, *turned)}
    chosen = test.take(embeddings.evenly_spaced(len(test), spec.probe.axis.clouds))
    record = trajectories(spec, encoder, embeddings.load_pixels(chosen, encoder, None))
    record["labels"] = chosen.labels.tolist()
    write_json(run_dir / "artifacts" / "trajectories.json", record, durable=False)
    paths = [path for cloud in record["clouds"] for path in cloud.values()]
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
    paths = [
        {name: _path(spec, encoder, cloud, about(axis, turns)) for axis, name in enumerate("xyz")}
        for cloud in clouds
    ]
    common = geometry.principal_plane(
        torch.cat([path for cloud in paths for path in cloud.values()])
    )
    return {
        "angles": [round(turn, 6) for turn in turns.tolist()],
        "share": common.share,
        "clouds": [
            {name: _describe(path, common) for name, path in cloud.items()} for cloud in paths
        ],
    }


def _path(spec: ProbeSpec, encoder: Encoder, cloud: Tensor, turns: Tensor) -> Tensor:
    """(rotations, d) float64 projections of one cloud under each turn."""
    turned = rotate(cloud.expand(len(turns), -1, -1), turns)
    return embeddings.embed(spec, encoder, turned).projection.double().cpu()


def _describe(path: Tensor, common: geometry.Plane) -> dict[str, Any]:
    """What `trajectories` tells of one closed path (rotations, d)."""
    own = geometry.principal_plane(path)
    closed = torch.cat([path, path[:1]])
    return {
        "plane": rounded(common.coordinates(path)),
        "own": rounded(own.coordinates(path)),
        "share": own.share,
        "radius": float((path - path.mean(dim=0)).square().sum(dim=1).mean().sqrt()),
        "length": float(closed.diff(dim=0).norm(dim=1).sum()),
    }


def _errors(spec: ProbeSpec, encoder: Encoder, train: Tensor, test: Tensor) -> dict[str, Any]:
    """Of the axes of test clouds that are read by a regression fitted on training clouds."""
    train_axes, test_axes = principal_axis(train), principal_axis(test)
    errors: dict[str, Any] = {"angle": {}, "median": {}, "r2": {}}
    layers = zip(*(embeddings.embed(spec, encoder, part) for part in (train, test)), strict=True)
    for name, (x_train, x_test) in zip(Features._fields, layers, strict=True):
        predicted = ridge_predict(x_train.double(), as_numbers(train_axes), x_test.double(), RIDGE)
        off = angles(as_axes(predicted), test_axes)
        errors["angle"][name], errors["median"][name] = float(off.mean()), float(off.median())
        errors["r2"][name] = r_squared(as_numbers(test_axes), predicted)
    return errors


def _numbers(count: int, purpose: str) -> Tensor:
    return torch.rand(count, 3, generator=draws.generator(0, "axis", purpose), dtype=torch.float64)
