"""`carectl spec` and `carectl data`: looking at specs and datasets. As light as the app."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from carectl.console.help import App
from carectl.options import (
    DATA,
    RUNS,
    DataDir,
    DatasetArg,
    Json,
    Override,
    RunsDir,
    SpecArg,
    SpecOrRunArg,
    text,
)

spec_app = App(
    help="""Look at specs: check, show, schema, diff.

    Example: carectl spec show cifar10/care-simclr
    """
)
data_app = App(
    help="""Look after datasets: list, prepare, verify.

    Example: carectl data list
    """
)


@spec_app.command("check")
def spec_check(spec: SpecArg, override: Override = None, json: Json = False) -> None:
    """Say every mistake in a spec at once, with its place.

    Example: carectl spec check my.yaml
    """
    from carectl import specs
    from carectl.console import steps
    from carectl.console.output import Output

    path = specs.find(spec)
    loaded = specs.load(path, override or [])
    output = Output(json)
    output.line(f"{path}: good")
    output.emit("spec check", spec=loaded.name, good=True)
    output.next(f"carectl pretrain {steps.spec(spec, override)} --dry-run")


@spec_app.command("show")
def spec_show(spec: SpecArg, override: Override = None, json: Json = False) -> None:
    """Print the resolved spec, every default spelled out, and what its preset chose.

    Example: carectl spec show cifar10/care-simclr -o fidelity=official
    """
    from carectl import specs
    from carectl.console import steps
    from carectl.console.output import Output

    found = specs.resolve(specs.find(spec), override or [])
    if not json:  # comments after the YAML: what is printed can be loaded
        typer.echo(f"{specs.dump(found.spec)}\n{found.comments()}")
    output = Output(json)
    output.emit("spec show", spec=found.spec.model_dump(mode="json"), **found.values)
    output.next(f"carectl pretrain {steps.spec(spec, override)} --dry-run", aside=True)


@spec_app.command("schema")
def spec_schema() -> None:
    """Print the JSON schema of a spec, for editors.

    Example: carectl spec schema > care.schema.json
    """
    import json

    from carectl import specs
    from carectl.console.output import Output

    typer.echo(json.dumps(specs.schema(), indent=1))
    output = Output(as_json=False)
    output.next("begin a spec with # yaml-language-server: $schema=care.schema.json", aside=True)


@spec_app.command("diff")
def spec_diff(
    one: SpecOrRunArg,
    other: SpecOrRunArg,
    override: Override = None,
    json: Json = False,
    runs_dir: RunsDir = RUNS,
) -> None:
    """Print the settings in which two specs or runs differ; -o goes over the second.

    Example: carectl spec diff stl10/simclr stl10/simclr -o fidelity=official
    """
    from carectl.console.diff import show
    from carectl.console.output import Output

    show(one, other, override or [], runs_dir, Output(json))


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
    name: DatasetArg,
    data_dir: DataDir = DATA,
    imagenet: Annotated[
        Path | None,
        text(
            metavar="FOLDER", help="for imagenet100: a local ImageNet, train/ and val/ of classes"
        ),
    ] = None,
) -> None:
    """Download a dataset and verify it; build imagenet100 by links to a local ImageNet.

    Example: carectl data prepare cifar10
    """
    from carectl.console.datasets import prepare
    from carectl.console.output import Output

    prepare(name, data_dir, imagenet, Output(as_json=False))


@data_app.command("verify")
def data_verify(
    name: DatasetArg,
    data_dir: DataDir = DATA,
    path: Annotated[
        Path | None, text(metavar="FOLDER", help="for folder and proteins: which one")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="do not decode image files")] = False,
) -> None:
    """Check a dataset's files: checksums, short or missing classes, images that do not decode.

    Example: carectl data verify cifar10
    """
    from carectl.console.datasets import verify
    from carectl.console.output import Output

    verify(name, data_dir, path, Output(as_json=False), quick=quick)
