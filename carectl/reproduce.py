"""`carectl reproduce TARGET`: grids become one plan, and its runs documents beside the paper.

`carectl report TARGET` makes the same documents of the runs that are done, and runs nothing.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from carectl import targets
from carectl.console import steps, tables
from carectl.console.output import Output
from carectl.errors import JOB_FAILED, PARTIAL, TOLERANCE, CommandError
from carectl.flow import Options, carry_out
from carectl.plan import Planner
from carectl.reports.document import Document, plain
from carectl.targets.context import Context


@dataclasses.dataclass(frozen=True)
class Request:
    """What of the paper is asked for: a target, its profile, and what of it."""

    target: str
    profile: str = "paper"
    only: tuple[str, ...] = ()
    seeds: str | None = None
    overrides: tuple[str, ...] = ()


def reproduce(request: Request, options: Options, output: Output) -> int:
    """Plan the grids, carry them out and write the reports. Returns the exit code."""
    planner, contexts, lacking = _plan(request, options, output)
    command = f"reproduce {request.target}"
    outcome = carry_out(planner, options, output, command, **lacking)
    if outcome.states is None:
        return outcome.code
    documents, fields = _report(request, contexts, options, output)
    output.emit(
        command,
        **fields,
        **lacking,
        plan=tables.plan_values(outcome.plan),
        states={run: status._asdict() for run, status in outcome.states.items()},
    )
    if outcome.failed:
        for run in outcome.failed:
            output.note(f"{run.run_id}: {outcome.states[run.run_id].reason}")
        output.next(outcome.again(options.places))
        return JOB_FAILED if len(outcome.failed) == len(outcome.plan) else PARTIAL
    outside = _outside(documents, output)
    output.next(_next_step(request, contexts, options, fields))
    return TOLERANCE if outside else 0


def report(request: Request, options: Options, output: Output) -> int:
    """Write the reports of what is done, without submitting anything. Returns the exit code."""
    _, contexts, lacking = _plan(request, options, output)
    documents, fields = _report(request, contexts, options, output)
    output.emit(f"report {request.target}", **fields, **lacking)
    outside = _outside(documents, output)
    output.next(
        f"{_command(request, options)} runs what is missing"
        if any(document.missing for document in documents)
        else _next_step(request, contexts, options, fields)
    )
    if any(document.failed for document in documents):
        return PARTIAL
    return TOLERANCE if outside else 0


def _plan(
    request: Request, options: Options, output: Output
) -> tuple[Planner, list[Context], dict[str, object]]:
    """One plan of all targets that are asked for; of `all` it is said which have nothing of it.

    Returns:
        The planner, the targets' contexts, and for --json what is left out of `all`, and why.

    Raises:
        CommandError: there is no such target, profile or row, or a dataset is not there.
    """
    names = targets.named(request.target)
    planner = Planner(options.runs_dir, options.data_dir)
    settings = (*request.overrides, *options.settings())
    seeds = _seeds(request.seeds)
    contexts = [
        Context(name, request.profile, planner, request.only, seeds, settings) for name in names
    ]
    lacking: dict[str, object] = {}
    if request.target == targets.ALL:
        fitting = [context for context in contexts if context.fits()] or contexts[:1]
        left = {c.target: _lacks(c) for c in contexts if c not in fitting}
        contexts, lacking = fitting, {"left_out": left}
        _tell(left, output)
    for context in contexts:
        targets.load(context.target).plan(context)
    return planner, contexts, lacking


def _lacks(context: Context) -> str:
    """Why a target has nothing of what is asked for."""
    if context.profile in context.grid.profiles:
        return f"nothing that fits {_quoted('--only', context.only)}"
    return f"no profile '{context.profile}'"


def _tell(left: Mapping[str, str], output: Output) -> None:
    """Say which targets are left out, those of one reason together."""
    for why in dict.fromkeys(left.values()):
        names = [target for target, reason in left.items() if reason == why]
        output.note(f"left out: {', '.join(names)} ({why})")


def _quoted(option: str, values: Sequence[str]) -> str:
    """An option that may be given many times, as it is written."""
    return " ".join(f"{option} {shlex.quote(value)}" for value in values)


def _command(request: Request, options: Options, seeds: str | None = None) -> str:
    """The command that trains what was asked for, perhaps with other seeds."""
    seeds = seeds or request.seeds
    words = (
        f"carectl reproduce {request.target}",
        f"--profile {request.profile}" if request.profile != "paper" else "",
        _quoted("--only", request.only),
        f"--seeds {seeds}" if seeds else "",
        _quoted("-o", request.overrides),
    )
    where = steps.places(options.runs_dir, options.data_dir)
    return " ".join(word for word in words if word) + where


def _report(
    request: Request, contexts: Sequence[Context], options: Options, output: Output
) -> tuple[list[Document], dict[str, object]]:
    """Make, show, write and track every document; returns them and their fields for --json."""
    from carectl.reports import terminal, tracked, writing

    place = options.runs_dir.parent / "reports"
    documents, written = [], {}
    for context in contexts:
        document = targets.load(context.target).document(context)
        paths = writing.write(document, place / context.name)
        output.listing(terminal.render(document, output.room()))
        folder = place / context.name
        tracked.store(context.target, [document], folder, paths.values(), options, output)
        documents.append(document)
        written[context.target] = {name: str(path) for name, path in paths.items()}
        output.line(f"html: {paths['html']}")
    fields: dict[str, object] = {
        "profile": request.profile,
        "report": written[contexts[0].target],
        "reports": written,
        "documents": {document.target: plain(document) for document in documents},
    }
    if request.target == targets.ALL:
        folder = place / contexts[0].name.replace(contexts[0].target, targets.ALL, 1)
        page = writing.write_page(documents, folder / "index.html", "The paper, reproduced")
        tracked.store(targets.ALL, documents, folder, [page], options, output)
        output.line(f"all of it: {page}")
        fields["report"] = {"html": str(page)}
    return documents, fields


def _outside(documents: Sequence[Document], output: Output) -> bool:
    """Whether numbers lie outside the tolerance; says how many."""
    for document in documents:
        if count := len(document.outside):
            output.note(f"{document.target}: {count} numbers lie outside the tolerance")
    return any(document.outside for document in documents)


def _seeds(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise CommandError(
            f"--seeds {text}: give whole numbers with commas, such as 0,1,2"
        ) from None
    if len(set(found)) < len(found) or min(found) < 0:
        raise CommandError(f"--seeds {text}: each seed once, none below 0")
    return found


def _next_step(
    request: Request, contexts: Sequence[Context], options: Options, fields: Mapping[str, Any]
) -> str:
    """What comes next where all is done: on digits the spread over seeds, else the page."""
    seeds = {cell.seed for context in contexts for cell in context.cells}
    if request.profile == "digits" and len(seeds) < 3:
        command = _command(request, options, "0,1,2")
        return f"{command} measures the spread (runs that are done are reused)"
    return f"open {fields['report']['html']} in a browser"
