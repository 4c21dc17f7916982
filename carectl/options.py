"""The options that several commands share, each said once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from carectl.flow import Options

T = TypeVar("T")

SpecArg = Annotated[str, typer.Argument(help="A YAML file, or a shipped name: cifar10/care-simclr")]
Override = Annotated[
    list[str] | None, typer.Option("-o", "--override", help="key=value over the spec; repeatable")
]
Backend = Annotated[str, typer.Option(help="local or slurm")]
Gpus = Annotated[int | None, typer.Option(help="GPUs a job", min=0)]
Devices = Annotated[str | None, typer.Option(help="GPUs to use, such as 0,1; or cpu:N")]
Detach = Annotated[bool, typer.Option("--detach", help="Submit and return at once")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan, submit nothing")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout")]
RunsDir = Annotated[Path, typer.Option(help="Folder of the runs")]
DataDir = Annotated[Path, typer.Option(help="Folder of the datasets")]
Experiment = Annotated[str, typer.Option(help="MLflow experiment")]
Tag = Annotated[list[str] | None, typer.Option(help="key=value for MLflow; repeatable")]
Upload = Annotated[bool, typer.Option("--upload", help="Store the final checkpoint in MLflow")]
RUNS, DATA, EXPORTS = Path("runs"), Path("data"), Path("exports")
Profile = Annotated[str, typer.Option(help="digits, digits-all, smoke or paper")]
Only = Annotated[list[str] | None, typer.Option(help="Rows or datasets to keep; repeatable")]
Seeds = Annotated[str | None, typer.Option(help="Pretraining seeds, such as 0,1,2")]


def _shared(
    backend: Backend = "",
    gpus: Gpus = None,
    devices: Devices = None,
    detach: Detach = False,
    dry_run: DryRun = False,
    json: Json = False,
    runs_dir: RunsDir = RUNS,
    data_dir: DataDir = DATA,
    experiment: Experiment = "care",
    tag: Tag = None,
) -> Options:
    """What all submitting commands can be told."""
    from carectl.flow import Options

    return Options(backend, gpus, devices, detach, dry_run, json, runs_dir, data_dir, experiment,
                   tuple(tag or ()))  # fmt: skip


def submitting(command: Callable[..., T]) -> Callable[..., T]:
    """Give a command the options of all that submit; it gets them as its argument `options`."""
    shared = inspect.signature(_shared, eval_str=True, locals={"Options": Any}).parameters
    known = {"Options": Any}  # not imported here: a command line must come in a blink
    own = inspect.signature(command, eval_str=True, locals=known).parameters

    @functools.wraps(command)
    def run(**given: Any) -> T:
        told = {name: given.pop(name) for name in shared}
        return command(**given, options=_shared(**told))

    parameters = [*(p for p in own.values() if p.name != "options"), *shared.values()]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run
