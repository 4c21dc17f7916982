"""`carectl import`: a checkpoint of the official code becomes one that can be probed here."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from care_core.spec.facts import DATASETS, OWN
from carectl.console.output import Output
from carectl.errors import CommandError

if TYPE_CHECKING:
    from care_core.interchange.official import Official
    from care_core.spec import PretrainSpec

#: The official protocol of the probe, which has leaks, as overrides of `carectl eval`.
_PROTOCOL = {
    "cifar": "-o probe.linear.backbone=train -o probe.linear.augmentation=simclr "
    "-o probe.linear.report=best",
    "imagenet": "-o probe.linear.report=best",
}


def bring(file: Path, dataset: str | None, target: Path | None, output: Output) -> None:
    """Read an official checkpoint, write it as one of this engine, and say what was understood.

    Raises:
        CheckpointError: the file cannot be read, or is laid out otherwise.
        CommandError: the dataset is not known, or the target is something else already.
    """
    stem = re.sub(r"(\.(pth|pt|tar|ckpt))+$", "", file.name) or "checkpoint"
    target = target or Path(f"{stem}.pt")
    if target.suffix != ".pt":
        raise CommandError(f"--output {target}: must end in .pt, which `carectl eval` looks for")
    _known(dataset)
    from care_core.interchange import official
    from care_core.interchange.official_spec import spec_of, state_of

    found = official.read(file)
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-") or "checkpoint"
    spec, refused = spec_of(found, f"official/{name[:80]}", _dataset(found, dataset))
    _write(target, state_of(found, spec))
    assumed = _assumed(found, refused)
    for line in (*_understood(found, spec), *(f"assumed: {text}" for text in assumed)):
        output.result(Text(line))
    output.line(Text(f"wrote: {target}"))
    output.note(f"The official protocol of the probe: {_PROTOCOL[found.kind]}")
    output.emit(
        "import",
        checkpoint=str(target),
        source={"file": str(file), "sha256": found.sha256, "layout": found.kind},
        epoch=found.epoch,
        official_knn=found.accuracy,
        chosen_on_test=found.best,
        left_out=found.left_out,
        assumed=assumed,
        spec=spec.model_dump(mode="json"),
    )
    output.next(f"carectl eval {shlex.quote(str(target))}")


def _known(dataset: str | None) -> None:
    if dataset is not None and dataset not in _trained_on():
        raise CommandError(f"--dataset {dataset}: must be one of {', '.join(_trained_on())}")


def _trained_on() -> list[str]:
    """The sets that an encoder of images can be said to come from by their names alone."""
    return [name for name, facts in DATASETS.items() if name not in OWN and not facts.points]


def _dataset(found: Official, asked: str | None) -> str:
    """The dataset by the file or the option, which may not contradict each other."""
    said = found.dataset if found.dataset in _trained_on() else None
    certain = said if found.kind == "cifar" else None  # the other layout is only ImageNet100's own
    if asked and certain and asked != certain:
        raise CommandError(f"--dataset {asked}: {found.file} says that it was trained on {certain}")
    if not asked and not said:
        why = f"says '{found.dataset}'" if found.dataset else "does not say it"
        raise CommandError(
            f"{found.file}: which dataset was it trained on? It {why}; give --dataset NAME"
        )
    return asked or str(said)


def _understood(found: Official, spec: PretrainSpec) -> list[str]:
    model = found.model
    features = found.weights["projector.0.weight"].shape[1]
    norm = "with" if model.projector_norm else "without"
    lines = [
        f"read: {model.backbone} with the {model.stem} stem, projector {features} → "
        f"{model.hidden} → {model.embedding} {norm} batch norm",
        f"trained on: {spec.data.name} at {spec.image_size} pixels"
        + (f", {found.epoch} epochs" if found.epoch else ""),
    ]
    if found.accuracy is not None:
        chosen = "; the file was chosen by it, which is a leak" if found.best else ""
        lines.append(f"kNN on the test set, as the file says: {found.accuracy:.2f}%{chosen}")
    if found.left_out:
        lines.append(f"left out: {', '.join(found.left_out)}, not needed to encode")
    return lines


def _assumed(found: Official, refused: list[str]) -> list[str]:
    """What the file does not say; none of it changes what a probe measures."""
    lines = []
    if found.kind == "imagenet":
        lines.append(
            "dataset, τ, optimiser and schedule of the official ImageNet100 scripts; the file has "
            "no flags, and does not say whether CARE's term was on"
        )
    elif not found.settings:
        lines.append("the defaults of a spec for how it was trained; the file has no flags")
    if refused:
        lines.append(
            f"the defaults for {', '.join(refused)}; this engine has no such settings as the file's"
        )
    return lines


def _write(target: Path, state: dict[str, object]) -> None:
    """Write it once: the same import again changes nothing, and nothing else is written over."""
    import io

    import torch

    from care_core.files import write_bytes

    buffer = io.BytesIO()
    torch.save(state, buffer)
    if not target.exists():
        write_bytes(target, buffer.getvalue())
    elif not target.is_file() or target.read_bytes() != buffer.getvalue():
        raise CommandError(f"{target} is there and is something else; give another --output")
