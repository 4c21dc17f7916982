"""The `carectl` command line: one short function a command; it parses, calls and prints.

Nothing heavy is imported here: `carectl --help` must come in a blink.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carectl.options import (
    DATA,
    EXPORTS,
    RUNS,
    Backend,
    DataDir,
    Detach,
    Devices,
    DryRun,
    Experiment,
    Json,
    Only,
    Override,
    Profile,
    RunsDir,
    Seeds,
    SpecArg,
    Upload,
    submitting,
)
from carectl.subcommands import data_app, spec_app

if TYPE_CHECKING:
    from carectl.flow import Options

app = typer.Typer(
    help="Train, probe and compare equivariant contrastive models, here or on a cluster.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(spec_app, name="spec")
app.add_typer(data_app, name="data")


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"carectl {version('care-lab')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version")
    ] = False,
) -> None:
    """Train, probe and compare equivariant contrastive models, here or on a cluster."""


@app.command()
@submitting
def pretrain(
    spec: SpecArg,
    options: Options,
    override: Override = None,
    upload: Upload = False,
) -> None:
    """Train a spec; an interrupted run goes on from its checkpoint, a done one is reused.

    Example: carectl pretrain cifar10/care-simclr -o seed=1
    """
    from carectl import specs
    from carectl.console.output import Output
    from carectl.flow import carry_out, report_runs
    from carectl.plan import Planner

    options = dataclasses.replace(options, upload=upload)
    output = Output(options.as_json)
    loaded = specs.load(specs.find(spec), [*(override or []), *options.settings()])
    planner = Planner(options.runs_dir, options.data_dir)
    planner.pretrain(loaded)
    outcome = carry_out(planner, options, output, "pretrain")
    report_runs(outcome, options, output, "pretrain")
    raise typer.Exit(outcome.code)


@app.command("eval")
@submitting
def evaluate(
    run: Annotated[str, typer.Argument(help="A run's id, prefix or name, or a checkpoint file")],
    options: Options,
    epoch: Annotated[
        int | None, typer.Option(help="Epoch to probe; default: the last", min=0)
    ] = None,
    probe: Annotated[
        list[str] | None,
        typer.Option(
            help="linear, knn, geometry (these three by default, of clouds axis too), colour, "
            "composition; repeatable"
        ),
    ] = None,
    plots: Annotated[
        bool, typer.Option("--plots", help="Draw curves, cosines, embedding and neighbours")
    ] = False,
    override: Override = None,
) -> None:
    """Measure a trained encoder: linear probe, kNN, hue regression, geometry, colour, composition.

    Example: carectl eval digits-care-simclr --probe linear --probe knn
    """
    from care_core.spec import probe_kinds
    from care_core.spec.clouds import measurable, unmeasurable
    from carectl import specs
    from carectl.console.output import Output
    from carectl.errors import CommandError
    from carectl.flow import carry_out, report_runs
    from carectl.plan import Planner, source_of

    output = Output(options.as_json)
    known = probe_kinds()
    for kind in probe or ():
        if kind not in known:
            raise CommandError(f"--probe {kind}: must be one of {', '.join(known)}")
    loaded, source = source_of(options.runs_dir, run, epoch)
    loaded = specs.override(loaded, [*(override or []), *options.settings()])
    planner = Planner(options.runs_dir, options.data_dir)
    images = loaded.probe.data or loaded.data
    kinds = tuple(probe or measurable(images))
    if plots:  # what they show is measured too
        shown = (kind for kind in ("geometry", "colour") if not list(unmeasurable(images, (kind,))))
        kinds = tuple(dict.fromkeys((*kinds, *shown)))
    for why in unmeasurable(images, kinds):
        raise CommandError(f"--probe {why.removeprefix('kinds: ')}")
    planner.probe(loaded, source, epoch=epoch, kinds=kinds)
    outcome = carry_out(planner, options, output, "eval")
    report_runs(outcome, options, output, "eval", plots)
    raise typer.Exit(outcome.code)


@app.command()
@submitting
def reproduce(
    target: Annotated[str, typer.Argument(help="table1, ..., or all")],
    options: Options,
    profile: Profile = "paper",
    only: Only = None,
    seeds: Seeds = None,
    override: Override = None,
) -> None:
    """Reproduce a table or figure of the paper: pretrain, probe, and compare.

    Example: carectl reproduce table1 --profile digits --seeds 0,1,2
    """
    from carectl import reproduce as paper
    from carectl.console.output import Output

    asked = paper.Request(target, profile, tuple(only or ()), seeds, tuple(override or ()))
    raise typer.Exit(paper.reproduce(asked, options, Output(options.as_json)))


@app.command()
def report(
    target: Annotated[str, typer.Argument(help="table1, ..., or all")],
    profile: Profile = "paper",
    only: Only = None,
    seeds: Seeds = None,
    override: Override = None,
    json: Json = False,
    runs_dir: RunsDir = RUNS,
    data_dir: DataDir = DATA,
    experiment: Experiment = "care",
) -> None:
    """Rebuild tables and figures from the runs that are done, without training.

    Example: carectl report table1 --profile digits
    """
    from carectl import reproduce as paper
    from carectl.console.output import Output
    from carectl.flow import Options

    options = Options(as_json=json, runs_dir=runs_dir, data_dir=data_dir, experiment=experiment)
    asked = paper.Request(target, profile, tuple(only or ()), seeds, tuple(override or ()))
    raise typer.Exit(paper.report(asked, options, Output(json)))


@app.command()
def status(
    run: Annotated[str | None, typer.Argument(help="A run's id, prefix or name")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until Ctrl-C")] = False,
    state: Annotated[list[str] | None, typer.Option(help="Only runs in this state")] = None,
    json: Json = False,
    runs_dir: RunsDir = RUNS,
) -> None:
    """Show the runs and their states, or everything about one run.

    Example: carectl status --state running
    """
    from carectl.console.output import Output
    from carectl.console.status import show

    show(runs_dir, run, tuple(state or ()), watch, Output(json))


@app.command()
def logs(
    run: Annotated[str, typer.Argument(help="A run's id, prefix or name")],
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as lines come")] = False,
    rank: Annotated[int, typer.Option(help="Rank", min=0)] = 0,
    runs_dir: RunsDir = RUNS,
) -> None:
    """Print what a run's newest job wrote.

    Example: carectl logs digits-simclr -f
    """
    from carectl import runs
    from carectl.console.logs import show

    show(runs.find(runs_dir, run), follow, rank)


@app.command()
def cancel(
    run: Annotated[list[str], typer.Argument(help="Runs: id, prefix or name")],
    json: Json = False,
    runs_dir: RunsDir = RUNS,
) -> None:
    """Stop queued or running jobs; what they have learnt stays in their checkpoints.

    Example: carectl cancel digits-simclr
    """
    from carectl.cancelling import cancel as stop
    from carectl.console.output import Output

    stop(runs_dir, run, Output(json))


@app.command()
def retry(
    run: Annotated[list[str] | None, typer.Argument(help="Runs: id, prefix or name")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All that failed or were lost")] = False,
    backend: Backend = "",
    devices: Devices = None,
    detach: Detach = False,
    dry_run: DryRun = False,
    json: Json = False,
    runs_dir: RunsDir = RUNS,
) -> None:
    """Submit failed, lost or cancelled runs again, and what hung on them; nothing else.

    Example: carectl retry --failed
    """
    from carectl.console.output import Output
    from carectl.flow import Options
    from carectl.retry import retry as again

    options = Options(backend, None, devices, detach, dry_run, json, runs_dir)
    raise typer.Exit(again(run or (), failed, options, Output(json)))


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A checkpoint of the official code (.pth.tar)")],
    dataset: Annotated[
        str | None, typer.Option(help="What it was trained on, where the file does not say")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The checkpoint to write; default: the file's name with .pt")
    ] = None,
    json: Json = False,
) -> None:
    """Turn a checkpoint of the official CARE code into one that can be probed here.

    Example: carectl import best_checkpoint.pth.tar
    """
    from carectl.console.output import Output
    from carectl.importing import bring

    bring(file, dataset, output, Output(json))


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="A run's id, prefix or name, or a checkpoint file")],
    epoch: Annotated[
        int | None, typer.Option(help="Epoch to export; default: the last", min=0)
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder to write to")] = EXPORTS,
    onnx: Annotated[bool, typer.Option("--onnx", help="Also the backbone as ONNX")] = False,
    json: Json = False,
    runs_dir: RunsDir = RUNS,
) -> None:
    """Write an encoder as safetensors that torchvision and timm load, and a JSON that explains it.

    Example: carectl export digits-care-simclr --onnx
    """
    from carectl.console.output import Output
    from carectl.exporting import export as write

    write(runs_dir, run, epoch, output, onnx, Output(json))


@app.command()
def doctor(json: Json = False, runs_dir: RunsDir = RUNS, data_dir: DataDir = DATA) -> None:
    """Look whether this machine is fit: Python, torch, SLURM, MLflow, disk, data.

    Example: carectl doctor
    """
    from carectl.console.health import show
    from carectl.console.output import Output

    raise typer.Exit(show(runs_dir, data_dir, Output(json)))


@app.command()
def bench(
    spec: Annotated[
        str | None, typer.Argument(help="A YAML file or a shipped name; default: a few standards")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step", min=2)] = None,
    backbone: Annotated[str | None, typer.Option(help="Backbone to time")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16")] = None,
    compile: Annotated[str | None, typer.Option(help="off, default or max-autotune")] = None,
    override: Override = None,
    repeats: Annotated[int, typer.Option(help="Times of each kind", min=1)] = 5,
    threads: Annotated[int | None, typer.Option(help="CPU threads", min=1)] = None,
    scaling: Annotated[
        bool, typer.Option("--scaling", help="How costs grow with runs, batch and ranks instead")
    ] = False,
    json: Json = False,
    runs_dir: RunsDir = RUNS,
) -> None:
    """Time a training step beside its floor, the same network on ready-made tensors.

    Example: carectl bench cifar10/care-simclr --batch-size 64 --backbone resnet18
    """
    from carectl import benching
    from carectl.console.output import Output

    asked = benching.Asked(spec, batch_size, backbone, precision, compile, tuple(override or ()))
    run = benching.scaling if scaling else benching.bench
    run(asked, repeats, threads, runs_dir, Output(json))


def main() -> None:
    """Run the command line: an error a person can act on is a sentence, never a traceback."""
    from carectl import trust

    trust.tighten()
    try:
        app(standalone_mode=True)
    except Exception as error:
        from carectl.console.errors import explain

        code = explain(error, as_json="--json" in sys.argv)
        if code is None:
            import traceback

            from carectl import redaction
            from carectl.console.clean import clean

            print(clean(redaction.text(traceback.format_exc())), end="", file=sys.stderr)
            code = 1
        sys.exit(code)
    except KeyboardInterrupt:
        sys.exit(130)
