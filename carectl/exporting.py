"""`carectl export`: a trained encoder as files for others."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from rich.text import Text

from care_core.files import read_json
from care_core.spec import PretrainSpec
from carectl import provenance, runs
from carectl.console import steps
from carectl.console.output import Output
from carectl.errors import ENVIRONMENT, CommandError
from carectl.plan import source_of
from carectl.runs import Run


def export(
    runs_dir: Path, text: str, epoch: int | None, folder: Path, onnx: bool, output: Output
) -> None:
    """Write the files of a run's or a checkpoint file's encoder, and say how they are loaded.

    Raises:
        CommandError: no such run, not a pretraining, no such epoch, or not trained to its end.
        CareError: the checkpoint is damaged, or a package for ONNX is missing.
    """
    _, source = source_of(runs_dir, text, epoch)
    if isinstance(source, Path) and epoch is not None:
        raise CommandError(f"--epoch {epoch}: {source} is one checkpoint; leave the option out")
    if isinstance(source, Run) and not runs.epochs(source):  # said before torch is loaded
        look = f"carectl status {source.id}{steps.places(runs_dir)} says how far it is"
        raise CommandError(f"{source.id} has no checkpoint yet; {look}", ENVIRONMENT)
    from care_core.interchange.export import export as write

    if isinstance(source, Run):
        path, name, origin = _of_run(source, epoch)
    else:
        path, name, origin = source, source.stem, {}
    origin |= {
        "checkpoint_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "exported_by": _version(provenance.collect()),
    }
    told = write(path, folder, name, origin=origin, onnx=onnx)
    files = [*(entry["file"] for entry in told["files"].values()), f"{name}.json"]
    for file in files:
        output.line(Text(f"wrote: {folder / file} ({_size(folder / file)})"))
    for library, lines in told["load"].items():
        output.line(Text("\n  ".join([f"\nwith {library}, in {folder}:", *lines])))
    output.emit("export", folder=str(folder), files=files, description=told)
    output.next(f"load it by the lines above; {folder / name}.json says all about it")


def _of_run(run: Run, epoch: int | None) -> tuple[Path, str, dict[str, Any]]:
    """The checkpoint to export, what its files are called, and where it comes from."""
    from care_core import checkpoint, resuming

    folder = run.path / "checkpoints"
    path = checkpoint.at_epoch(folder, epoch)
    resuming.require_of(path, PretrainSpec.model_validate(run.record["spec"]))
    origin = {
        "run": run.id,
        "identity": run.record["sha256"],
        "epoch": next(entry.epoch for entry in checkpoint.entries(folder) if entry.path == path),
        "trained_by": _version(read_json(run.path / "code.json") or {}),
    }
    return path, run.id if epoch is None else f"{run.id}-e{epoch:04d}", origin


def _version(code: dict[str, Any]) -> dict[str, Any]:
    """Which code it was, without the machine's name."""
    packages = code.get("packages") or {}
    return {
        "commit": code.get("commit"),
        "uncommitted_changes": bool(code.get("diff")),
        "packages": {name: packages.get(name) for name in ("care-lab", "torch", "torchvision")},
    }


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB"
