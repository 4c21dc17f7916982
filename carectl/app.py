"""The `carectl` command line: one short function a command; it parses, calls and prints.

Nothing heavy is imported here: `carectl --help` must come in a blink.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carectl import completion
from carectl import options as opt
from carectl.console.help import App
from carectl.subcommands import data_app, spec_app

if TYPE_CHECKING:
    from carectl.flow import Options

TRAIN, WATCH, SHARE, LOOK = "Train and measure", "Watch and steer", "In and out", "Look after"

app = App()


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"carectl {version('care-lab')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="print the version")
    ] = False,
) -> None:
    """Train, probe and compare equivariant contrastive models, here or on a cluster.

    Example: carectl reproduce table1 --profile digits
    """


@app.command(rich_help_panel=TRAIN)
@opt.submitting
def pretrain(
    spec: opt.SpecArg,
    options: Options,
    override: opt.Override = None,
    upload: opt.Upload = False,
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


@app.command("eval", rich_help_panel=TRAIN)
@opt.submitting
def evaluate(
    run: opt.EncoderArg,
    options: Options,
    epoch: opt.Epoch = None,
    probe: opt.ProbeKind = None,
    plots: Annotated[
        bool, typer.Option("--plots", help="draw curves, cosines, embedding and neighbours")
    ] = False,
    override: opt.Override = None,
) -> None:
    """Measure a trained encoder: linear probe, kNN, hue regression, geometry, colour, composition.

    Example: carectl eval digits-care-simclr --probe linear --probe knn
    """
    from carectl.console.output import Output
    from carectl.evaluating import Asked, measure

    asked = Asked(run, epoch, tuple(probe or ()), plots, tuple(override or ()))
    raise typer.Exit(measure(asked, options, Output(options.as_json)))


@app.command(rich_help_panel=TRAIN)
@opt.submitting
def reproduce(
    target: opt.TargetArg,
    options: Options,
    profile: opt.Profile = "paper",
    only: opt.Only = None,
    seeds: opt.Seeds = None,
    override: opt.Override = None,
) -> None:
    """Reproduce a table or figure of the paper: pretrain, probe, and compare.

    Example: carectl reproduce table1 --profile digits --seeds 0,1,2
    """
    from carectl import reproduce as paper
    from carectl.console.output import Output

    asked = paper.Request(target, profile, tuple(only or ()), seeds, tuple(override or ()))
    raise typer.Exit(paper.reproduce(asked, options, Output(options.as_json)))


@app.command(rich_help_panel=TRAIN)
def report(
    target: opt.TargetArg,
    profile: opt.Profile = "paper",
    only: opt.Only = None,
    seeds: opt.Seeds = None,
    override: opt.Override = None,
    json: opt.Json = False,
    runs_dir: opt.RunsDir = opt.RUNS,
    data_dir: opt.DataDir = opt.DATA,
    experiment: opt.Experiment = "care",
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


@app.command(rich_help_panel=WATCH)
def status(
    run: opt.OptionalRunArg = None,
    watch: Annotated[bool, typer.Option("--watch", help="refresh until Ctrl-C")] = False,
    state: opt.StateOption = None,
    every: Annotated[bool, typer.Option("--all", help="every run, however many")] = False,
    json: opt.Json = False,
    runs_dir: opt.RunsDir = opt.RUNS,
) -> None:
    """Show the runs and their states, or everything about one run.

    Example: carectl status --state running
    """
    from carectl.console.output import Output
    from carectl.console.status import show

    show(runs_dir, run, tuple(state or ()), watch, every, Output(json))


@app.command(rich_help_panel=WATCH)
def logs(
    run: opt.RunArg,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="go on as lines come")] = False,
    rank: Annotated[int, opt.text(metavar="N", min=0, help="whose; 0 is the first")] = 0,
    runs_dir: opt.RunsDir = opt.RUNS,
) -> None:
    """Print what a run's newest job wrote.

    Example: carectl logs digits-simclr -f
    """
    from carectl import runs
    from carectl.console.logs import show
    from carectl.console.output import Output

    show(runs.find(runs_dir, run), follow, rank, Output(as_json=False))


@app.command(rich_help_panel=WATCH)
def cancel(run: opt.RunArgs, json: opt.Json = False, runs_dir: opt.RunsDir = opt.RUNS) -> None:
    """Stop queued or running jobs; what they have learnt stays in their checkpoints.

    Example: carectl cancel digits-simclr
    """
    from carectl.cancelling import cancel as stop
    from carectl.console.output import Output

    stop(runs_dir, run, Output(json))


@app.command(rich_help_panel=WATCH)
def retry(
    run: opt.OptionalRunArgs = None,
    failed: Annotated[bool, typer.Option("--failed", help="all that failed or were lost")] = False,
    backend: opt.Backend = "",
    devices: opt.Devices = None,
    detach: opt.Detach = False,
    dry_run: opt.DryRun = False,
    json: opt.Json = False,
    runs_dir: opt.RunsDir = opt.RUNS,
) -> None:
    """Submit failed, lost or cancelled runs again, and what hung on them; nothing else.

    Example: carectl retry --failed
    """
    from carectl.console.output import Output
    from carectl.flow import Options
    from carectl.retry import retry as again

    options = Options(backend, None, devices, detach, dry_run, json, runs_dir)
    raise typer.Exit(again(run or (), failed, options, Output(json)))


@app.command(rich_help_panel=WATCH)
def ui(
    port: Annotated[int, opt.text(metavar="N", min=1, max=65535, help="of the address")] = 5000,
    runs_dir: opt.RunsDir = opt.RUNS,
) -> None:
    """Open MLflow's own interface on what was tracked of the runs, until Ctrl-C.

    Example: carectl ui --port 5001
    """
    from carectl.console.output import Output
    from carectl.console.ui import serve

    serve(runs_dir, port, Output(as_json=False))


@app.command("import", rich_help_panel=SHARE)
def import_(
    file: opt.FileArg,
    dataset: Annotated[
        str | None,
        opt.text(
            metavar="DATASET", autocompletion=completion.dataset,
            help="what it was trained on, where the file does not say",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        opt.text(metavar="FILE", help="the checkpoint to write; default: the file's name with .pt"),
    ] = None,
    json: opt.Json = False,
) -> None:  # fmt: skip
    """Turn a checkpoint of the official CARE code into one that can be probed here.

    Example: carectl import best_checkpoint.pth.tar
    """
    from carectl.console.output import Output
    from carectl.importing import bring

    bring(file, dataset, output, Output(json))


@app.command(rich_help_panel=SHARE)
def export(
    run: opt.EncoderArg,
    epoch: opt.Epoch = None,
    output: Annotated[Path, opt.text(metavar="FOLDER", help="where to write")] = opt.EXPORTS,
    onnx: Annotated[bool, typer.Option("--onnx", help="the backbone as ONNX too")] = False,
    json: opt.Json = False,
    runs_dir: opt.RunsDir = opt.RUNS,
) -> None:
    """Write an encoder as safetensors that torchvision and timm load, and a JSON that explains it.

    Example: carectl export digits-care-simclr --onnx
    """
    from carectl.console.output import Output
    from carectl.exporting import export as write

    write(runs_dir, run, epoch, output, onnx, Output(json))


app.add_typer(spec_app, name="spec", rich_help_panel=LOOK)
app.add_typer(data_app, name="data", rich_help_panel=LOOK)


@app.command(rich_help_panel=LOOK)
def doctor(
    json: opt.Json = False, runs_dir: opt.RunsDir = opt.RUNS, data_dir: opt.DataDir = opt.DATA
) -> None:
    """Look whether this machine is fit: Python, torch, SLURM, MLflow, disk, data.

    Example: carectl doctor
    """
    from carectl.console.health import show
    from carectl.console.output import Output

    raise typer.Exit(show(runs_dir, data_dir, Output(json)))


@app.command(rich_help_panel=LOOK)
def bench(
    spec: opt.OptionalSpecArg = None,
    batch_size: Annotated[int | None, opt.text(metavar="N", min=2, help="images a step")] = None,
    backbone: Annotated[str | None, opt.text(metavar="NAME", help="the backbone to time")] = None,
    precision: Annotated[str | None, opt.one_of(opt.PRECISIONS, help="of the forward")] = None,
    compile: Annotated[str | None, opt.one_of(opt.COMPILERS, help="torch.compile")] = None,
    override: opt.Override = None,
    repeats: Annotated[int, opt.text(metavar="N", min=1, help="times of each kind")] = 5,
    threads: Annotated[int | None, opt.text(metavar="N", min=1, help="CPU threads")] = None,
    scaling: Annotated[
        bool, typer.Option("--scaling", help="how costs grow with runs, batch and ranks instead")
    ] = False,
    json: opt.Json = False,
    runs_dir: opt.RunsDir = opt.RUNS,
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
    completion.prepare(os.environ, sys.argv)
    try:
        code = app(prog_name="carectl", standalone_mode=False)  # whatever started it
    except Exception as error:
        from carectl.console.errors import defect, explain

        as_json = "--json" in sys.argv
        code = explain(error, as_json)
        code = defect(error, as_json) if code is None else code
    except KeyboardInterrupt:
        code = 130
    sys.exit(code or 0)
