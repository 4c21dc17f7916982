"""What a trained encoder is worth: linear probe, kNN, hue regression, and its geometry.

Everything runs on frozen features, in eval mode, without augmentation, computed once.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from care_core import augment, checkpoint, data, draws, geometry, knn
from care_core.data.base import ImageSet
from care_core.errors import CheckpointError
from care_core.facts import DATASETS
from care_core.features import extract
from care_core.files import read_json, write_json
from care_core.models import Encoder
from care_core.spec import LinearProbe, PretrainSpec, ProbeSpec
from care_core.train import build_optimizer, set_up


def probe(
    spec: ProbeSpec,
    run_dir: Path,
    checkpoint_path: Path,
    *,
    data_dir: Path = Path("data"),
    device: torch.device | str | None = None,
    threads: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure a checkpoint's encoder and write result.json to the run folder.

    Args:
        spec: which measurements. With `probe.folds` > 0 they are cross-validated over the
            training images and the test set is not read.
        checkpoint_path: a file that `pretrain` saved.

    Returns:
        What is in result.json; accuracies in per cent.

    Raises:
        CheckpointError, DataError, StorageError.
    """
    result = read_json(run_dir / "result.json")
    if result:
        return dict(result)
    started = time.monotonic()
    where = set_up(device, threads)
    encoder = load_encoder(checkpoint_path, where)
    size = spec.data.image_size or DATASETS[spec.data.name].image_size
    train = data.load(spec.data.name, "train", data_dir, size)
    say(f"features of {len(train)} training images")
    splits = list(_splits(spec, train, data_dir, size))
    measures = [_measure(spec, encoder, *split, run_dir, say) for split in splits]
    result = {
        "kind": "probe",
        "measured_on": f"{spec.probe.folds} folds of the training set"
        if spec.probe.folds
        else "test",
        "images": sum(len(held_out) for _, held_out in splits),
        **_average(measures),
    }
    result["seconds"] = round(time.monotonic() - started, 3)
    write_json(run_dir / "result.json", result)
    return result


def load_encoder(path: Path, device: torch.device | str = "cpu") -> Encoder:
    """The encoder in a checkpoint, in eval mode.

    Raises:
        CheckpointError: damaged, or not one of this engine's.
    """
    state = checkpoint.read(path, device)
    try:
        spec = PretrainSpec.model_validate_json(state["spec"])
        encoder = Encoder(spec.model)
        encoder.load_state_dict(state["model"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: not a checkpoint of this engine (its spec and weights do not fit)"
        ) from error
    encoder = encoder.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    encoder.eval()
    return encoder


def _splits(
    spec: ProbeSpec, train: ImageSet, data_dir: Path, size: int
) -> Iterator[tuple[ImageSet, ImageSet]]:
    """(learn from, measure on): the training set and the test set, or folds of the former."""
    folds = spec.probe.folds
    if folds == 0:
        yield train, data.load(spec.data.name, "test", data_dir, size)
        return
    order = torch.randperm(len(train), generator=draws.generator(0, "folds"))
    for fold in range(folds):
        held = torch.zeros(len(train), dtype=torch.bool)
        held[order[fold::folds]] = True
        yield train.take((~held).nonzero()[:, 0]), train.take(held.nonzero()[:, 0])


def _measure(
    spec: ProbeSpec,
    encoder: Encoder,
    train: ImageSet,
    test: ImageSet,
    run_dir: Path,
    say: Callable[[str], None],
) -> dict[str, Any]:
    known, asked = extract(encoder, train.images, spec), extract(encoder, test.images, spec)
    classes = DATASETS[spec.data.name].classes
    found: dict[str, Any] = {}
    for layer, x, y in zip(("backbone", "projection"), known, asked, strict=True):
        labels, truth = train.labels.to(x.device), test.labels.to(x.device)
        if "linear" in spec.kinds:
            say(f"linear probe on the {layer}")
            found.setdefault("linear", {})[layer] = [
                _linear(spec.probe.linear, seed, x, labels, y, truth, classes)
                for seed in spec.probe.linear.seeds
            ]
        if "knn" in spec.kinds:
            guess = knn.predict(
                x, labels, y, k=spec.probe.knn.k, temperature=spec.probe.knn.temperature,
                classes=classes,
            )  # fmt: skip
            found.setdefault("knn", {})[layer] = _accuracy(guess, truth)
        if "linear" in spec.kinds and train.hues is not None and test.hues is not None:
            found.setdefault("hue_r2", {})[layer] = hue_r2(x, train.hues, y, test.hues)
    if "geometry" in spec.kinds:
        say("geometry")
        found["geometry"] = _geometry(spec, encoder, test, run_dir)
    return found


def _linear(
    spec: LinearProbe, seed: int, x: Tensor, labels: Tensor, y: Tensor, truth: Tensor, classes: int
) -> float:
    """Accuracy in per cent of a linear layer trained on x and read on y."""
    source = draws.generator(seed, "classifier")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(source.initial_seed())
        layer = nn.Linear(x.shape[1], classes).to(x.device)
    optimizer = build_optimizer(spec.optimizer, layer)
    for epoch in range(spec.epochs):
        order = draws.epoch_order(seed, epoch, len(x)).to(x.device)
        for rows in order.split(spec.batch_size):
            loss = F.cross_entropy(layer(x[rows]), labels[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    with torch.inference_mode():
        return _accuracy(layer(y).argmax(dim=1), truth)


def hue_r2(x: Tensor, hues: Tensor, y: Tensor, truth: Tensor, ridge: float = 1e-3) -> float:
    """R² of a ridge regression of the hue, as a point on the circle, from standardised features.

    Args:
        x, y: (N, n) and (M, n) features to fit and to read; hues, truth: their hues in turns.
        ridge: penalty, as a share of the number of rows.
    """
    mean, std = x.mean(dim=0), x.std(dim=0).clamp_min(1e-6)
    x, y = ((x - mean) / std).double().cpu(), ((y - mean) / std).double().cpu()
    target, goal = _circle(hues), _circle(truth)
    centre = target.mean(dim=0)
    penalty = ridge * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(x.T @ x + penalty, x.T @ (target - centre))
    residual = (goal - centre - y @ weights).square().sum()
    return float(1 - residual / (goal - goal.mean(dim=0)).square().sum())


def _circle(hues: Tensor) -> Tensor:
    angle = 2 * math.pi * hues.double()
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def _geometry(spec: ProbeSpec, encoder: Encoder, test: ImageSet, run_dir: Path) -> dict[str, float]:
    """γ_f and Wahba errors of projections, over augmentations that each act on all images.

    What each augmentation gave, and where the images lie, goes to artifacts/geometry.json.
    """
    settings, facts = spec.probe.geometry, DATASETS[spec.data.name]
    device = next(encoder.parameters()).device
    pixels = test.images[: settings.images].to(device)
    height, width = pixels.shape[-2:]
    _, plain = extract(encoder, pixels, spec)
    drawn = augment.sample(
        settings.augmentations, height, width, spec.augment, draws.generator(0, "geometry")
    )
    rows: list[dict[str, float]] = []
    with torch.inference_mode():
        for number in range(settings.augmentations):
            one = drawn.rows(slice(number, number + 1)).to(device)
            images = augment.apply(
                pixels, one, size=spec.data.image_size or facts.image_size,
                blur_kernel=spec.augment.blur_kernel, mean=facts.mean, std=facts.std,
            )  # fmt: skip
            moved = torch.cat([encoder(part) for part in images.split(512)])
            error, _ = geometry.wahba_error(plain.double(), moved.double())
            gamma = geometry.relative_rotational_equivariance(plain, moved)
            per_root_n = math.sqrt(len(plain))
            rows.append(
                {
                    "wahba": float(error) / per_root_n,
                    "wahba_identity": float((plain - moved).norm()) / per_root_n,
                    "gamma": gamma.mean,
                    "gamma_median": gamma.median,
                    "gamma_excluded": float(gamma.excluded),
                    "displacement": gamma.displacement,
                }
            )
    hues = None if test.hues is None else test.hues[: len(plain)].tolist()
    write_json(
        run_dir / "artifacts" / "geometry.json",
        {
            "augmentations": rows,
            "components": _principal(plain).tolist(),
            "labels": test.labels[: len(plain)].tolist(),
            "hues": hues,
        },
        durable=False,
    )
    return {key: statistics.fmean(row[key] for row in rows) for key in rows[0]}


def _principal(z: Tensor) -> Tensor:
    """(n, d) rows → (n, 2): their first two principal components."""
    centred = z.double() - z.double().mean(dim=0)
    _, _, vt = torch.linalg.svd(centred, full_matrices=False)
    return centred @ vt[:2].T


def _accuracy(guess: Tensor, truth: Tensor) -> float:
    return 100 * float((guess == truth).double().mean())


def _average(measures: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the folds (one, for the test set); lists stay per classifier seed."""
    first = measures[0]
    merged: dict[str, Any] = {}
    for key, value in first.items():
        parts = [measure[key] for measure in measures]
        if isinstance(value, dict):
            merged[key] = _average(parts)
        elif isinstance(value, list):
            merged[key] = [statistics.fmean(seed) for seed in zip(*parts, strict=True)]
        else:
            merged[key] = statistics.fmean(parts)
    return merged
