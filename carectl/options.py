"""The options that several commands share, each said once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from carectl import completion
from carectl.console.help import JOBS, OUTPUT, PLACES

if TYPE_CHECKING:
    from carectl.flow import Options

T = TypeVar("T")

BACKENDS = "local|slurm"
PROFILES = "digits|digits-all|smoke|paper"
PRECISIONS = "fp32|bf16|fp16"
COMPILERS = "off|default|max-autotune"
RUNS, DATA, EXPORTS = Path("runs"), Path("data"), Path("exports")
_A_RUN = "a run: its id, the beginning of it, or its name"


def argument(metavar: str, told: str, complete: Any) -> Any:
    return typer.Argument(metavar=metavar, help=told, autocompletion=complete)


def text(*names: str, metavar: str, **more: Any) -> Any:
    return typer.Option(*names, metavar=metavar, **more)


def one_of(choices: str, *names: str, **more: Any) -> Any:
    """An option of a few words, which are its metavar; whoever reads it refuses others."""
    return text(*names, metavar=choices, autocompletion=completion.one_of(choices), **more)


SpecArg = Annotated[
    str,
    argument("SPEC", "a YAML file, or a shipped name such as cifar10/care-simclr", completion.spec),
]
OptionalSpecArg = Annotated[
    str | None,
    argument("SPEC", "a YAML file or a shipped name; default: a few standards", completion.spec),
]
SpecOrRunArg = Annotated[
    str, argument("SPEC|RUN", "a YAML file, a shipped name, or a run", completion.spec_or_run)
]
RunArg = Annotated[str, argument("RUN", _A_RUN, completion.run)]
OptionalRunArg = Annotated[str | None, argument("RUN", f"{_A_RUN}; default: all", completion.run)]
RunArgs = Annotated[list[str], argument("RUN", _A_RUN, completion.run)]
OptionalRunArgs = Annotated[list[str] | None, argument("RUN", _A_RUN, completion.run)]
EncoderArg = Annotated[
    str, argument("RUN|FILE", f"{_A_RUN}; or a checkpoint file (.pt)", completion.encoder)
]
TargetArg = Annotated[
    str,
    argument("TARGET", "table1, fig5 to fig10, composition, pointcloud, or all", completion.target),
]
DatasetArg = Annotated[
    str, argument("DATASET", "a dataset's name, as `carectl data list` says it", completion.dataset)
]

FileArg = Annotated[
    Path, argument("FILE", "a checkpoint of the official code (.pth.tar)", completion.checkpoint)
]

Override = Annotated[
    list[str] | None,
    text(
        "-o", "--override", metavar="KEY=VALUE", autocompletion=completion.setting,
        help="a setting over the spec, such as training.epochs=10; repeatable",
    ),
]  # fmt: skip
Epoch = Annotated[
    int | None, text(metavar="N", min=0, help="the checkpoint of this epoch; default: the last")
]
ProbeKind = Annotated[
    list[str] | None,
    text(
        "--probe", metavar="KIND", autocompletion=completion.probe_kind,
        help="linear, knn, geometry (these three by default, of point clouds axis too), colour, "
        "composition; repeatable",
    ),
]  # fmt: skip
StateOption = Annotated[
    list[str] | None,
    text(
        "--state", metavar="STATE", autocompletion=completion.state,
        help="only runs that are new, queued, running, stale, done, failed, cancelled, blocked or "
        "lost; repeatable",
    ),
]  # fmt: skip
Profile = Annotated[
    str, one_of(PROFILES, help="paper: the published settings; the others run on a laptop")
]
Only = Annotated[
    list[str] | None,
    text(
        metavar="TEXT", autocompletion=completion.dataset,
        help="rows and datasets to keep, by name or a part of it; repeatable, all must fit",
    ),
]  # fmt: skip
Seeds = Annotated[
    str | None,
    text(metavar="N,N,...", help="pretraining seeds, such as 0,1,2; default: the profile's"),
]

Backend = Annotated[
    str, one_of(BACKENDS, rich_help_panel=JOBS, help="where jobs run; default: local")
]
Gpus = Annotated[
    int | None, text(metavar="N", min=0, rich_help_panel=JOBS, help="GPUs a job; default: 1")
]
Devices = Annotated[
    str | None,
    text(metavar="N,N|cpu:N", rich_help_panel=JOBS, help="GPUs to use, or so many CPU slots"),
]
Detach = Annotated[
    bool, typer.Option("--detach", rich_help_panel=JOBS, help="submit, and do not wait")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", rich_help_panel=JOBS, help="print the plan, submit nothing")
]
RunsDir = Annotated[Path, text(metavar="FOLDER", rich_help_panel=PLACES, help="where the runs are")]
DataDir = Annotated[
    Path, text(metavar="FOLDER", rich_help_panel=PLACES, help="where the datasets are")
]
Experiment = Annotated[
    str, text(metavar="NAME", rich_help_panel=PLACES, help="MLflow's experiment")
]
Tag = Annotated[
    list[str] | None,
    text(metavar="KEY=VALUE", rich_help_panel=PLACES, help="a tag for MLflow; repeatable"),
]
Upload = Annotated[
    bool,
    typer.Option(
        "--upload", rich_help_panel=PLACES, help="store the final checkpoint in MLflow too"
    ),
]
Json = Annotated[
    bool, typer.Option("--json", rich_help_panel=OUTPUT, help="one JSON object on stdout")
]


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
