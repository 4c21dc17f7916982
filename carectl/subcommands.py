"""`carectl spec` and `carectl data`: looking at specs and datasets. As light as the app."""

from __future__ import annotations

from typing import Annotated

import typer

from carectl.options import DATA, RUNS, DataDir, Json, Override, RunsDir, SpecArg

spec_app = typer.Typer(help="Look at specs: check, show, schema, diff.", no_args_is_help=True)
data_app = typer.Typer(help="Look after datasets: list, prepare, verify.", no_args_is_help=True)


@spec_app.command("check")
def spec_check(spec: SpecArg, override: Override = None, json: Json = False) -> None:
    """Say every mistake in a spec at once, with its place.

    Example: carectl spec check my.yaml
    """
    from carectl import specs
    from carectl.console.output import Output

    path = specs.find(spec)
    loaded = specs.load(path, override or [])
    output = Output(json)
    output.result(f"{path}: good")
    output.emit("spec check", spec=loaded.name, good=True)
    output.next(f"carectl pretrain {spec} --dry-run")


@spec_app.command("show")
def spec_show(spec: SpecArg, override: Override = None, json: Json = False) -> None:
    """Print the resolved spec, every default spelled out.

    Example: carectl spec show cifar10/care-simclr
    """
    from carectl import specs
    from carectl.console.output import Output

    loaded = specs.load(specs.find(spec), override or [])
    if not json:
        typer.echo(specs.dump(loaded), nl=False)
    Output(json).emit("spec show", spec=loaded.model_dump(mode="json"))


@spec_app.command("schema")
def spec_schema() -> None:
    """Print the JSON schema of a spec, for editors.

    Example: carectl spec schema > care.schema.json
    """
    import json

    from carectl import specs

    typer.echo(json.dumps(specs.schema(), indent=1))


@spec_app.command("diff")
def spec_diff(
    one: Annotated[str, typer.Argument(help="A spec or a run")],
    other: Annotated[str, typer.Argument(help="A spec or a run")],
    runs_dir: RunsDir = RUNS,
) -> None:
    """Print the settings in which two specs or runs differ.

    Example: carectl spec diff cifar10/simclr cifar10/care-simclr
    """
    from carectl.console.diff import show

    show(one, other, runs_dir)


@data_app.command("list")
def data_list(data_dir: DataDir = DATA, json: Json = False) -> None:
    """Say which datasets are there, and where.

    Example: carectl data list
    """
    from carectl.console.datasets import listing
    from carectl.console.output import Output

    listing(data_dir, Output(json))


@data_app.command("prepare")
def data_prepare(
    name: Annotated[str, typer.Argument(help="cifar10, cifar100 or stl10")],
    data_dir: DataDir = DATA,
) -> None:
    """Download a dataset and verify its checksums.

    Example: carectl data prepare cifar10
    """
    from carectl.console.datasets import prepare

    prepare(name, data_dir)


@data_app.command("verify")
def data_verify(
    name: Annotated[str, typer.Argument(help="A dataset's name")], data_dir: DataDir = DATA
) -> None:
    """Check the files of a dataset against their checksums.

    Example: carectl data verify cifar10
    """
    from carectl.console.datasets import verify

    verify(name, data_dir)
