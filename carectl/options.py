"""The options that several commands share, each said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
