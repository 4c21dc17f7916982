"""`--help` as plain text: what, an example, then the options by what they are about.

Plain on purpose: it reads the same in a pipe, on 60 columns and on any background, and costs no
import.
"""

from __future__ import annotations

import errno
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TextIO, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from carectl.errors import INTERRUPTED, PIPE_CLOSED

F = TypeVar("F", bound=Callable[..., Any])

EXIT_CODES = {
    "0": "good",
    "1": "a job failed",
    "2": "usage, or a mistake in a spec",
    "3": "the environment: a missing file, package or server",
    "4": "part of a grid failed",
    "5": "a number lies outside the paper's tolerance",
    "130": "interrupted, or detached by Ctrl-C; jobs go on",
}
JOBS, PLACES, OUTPUT = PANELS = ("Jobs", "Folders and tracking", "Output")  # of options
_OWN = "Options"
_COLUMN = 25  # characters of an option at most; a longer one has a line of its own


class Command(TyperCommand):
    """A command whose docstring ends with `Example: …`."""

    def invoke(self, ctx: Any) -> Any:
        """Run it; where nobody reads on (`| head -1`), it ends as quietly as other programs.

        What a full disk does not take is told here: at its end Python would exit 120. Ctrl-C ends
        it in a sentence, unless the command has something of its own to say of that.
        """
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:
            _to_nowhere(sys.stdout, sys.stderr)
            raise typer.Exit(PIPE_CLOSED) from None
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                _to_nowhere(sys.stdout)
            raise
        except KeyboardInterrupt:
            print("\nInterrupted.\nNext: the same command again", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return ["[OPTIONS]", *(_argument(p) for p in self.get_params(ctx) if _positional(p))]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self.format_usage(ctx, formatter)
        _what(self.help, formatter)
        params = [param for param in self.get_params(ctx) if not getattr(param, "hidden", False)]
        arguments = [(str(p.metavar), p.help or "") for p in params if _positional(p)]  # type: ignore[attr-defined]
        _section("Arguments", arguments, formatter)
        _options(params, formatter)


class Group(TyperGroup):
    """Commands, by what they are for."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self.format_usage(ctx, formatter)
        _what(self.help, formatter)
        panels: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            panel = getattr(command, "rich_help_panel", None)
            title = panel if isinstance(panel, str) else "Commands"
            panels.setdefault(title, []).append((name, summary(command.help)))
        widest = max(len(name) for rows in panels.values() for name, _ in rows)
        for title, rows in panels.items():
            _section(title, [(name.ljust(widest), told) for name, told in rows], formatter)
        _options(self.get_params(ctx), formatter)
        if ctx.parent is None:
            _section("Exit codes", list(EXIT_CODES.items()), formatter)


class App(typer.Typer):
    """A typer whose commands are `Command`s and which is a `Group` itself."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            cls=Group, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
            context_settings={"help_option_names": ["-h", "--help"]}, **settings,
        )  # fmt: skip

    def command(self, name: str | None = None, **settings: Any) -> Callable[[F], F]:
        return super().command(name, cls=Command, **settings)


def summary(text: str | None) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join(inspect.cleandoc(text or "").partition("\n\n")[0].split())


def examples(text: str | None) -> list[str]:
    """The commands that a docstring shows."""
    lines = inspect.cleandoc(text or "").splitlines()
    return [line.removeprefix("Example: ") for line in lines if line.startswith("Example: ")]


def _what(text: str | None, formatter: Any) -> None:
    formatter.write_paragraph()
    with formatter.indentation():
        formatter.write_text(summary(text))
    if shown := examples(text):
        formatter.write("\nExample:\n")
        for line in shown:  # never folded: it is to be copied
            formatter.write(f"  {line}\n")


def _options(params: Iterable[Any], formatter: Any) -> None:
    panels: dict[str, list[tuple[str, str]]] = {title: [] for title in (_OWN, *PANELS)}
    for param in params:
        if not _positional(param):
            about = getattr(param, "rich_help_panel", None)
            last = "--help" in param.opts
            title = about if isinstance(about, str) else OUTPUT if last else _OWN
            panels[title].append(_option(param))
    if len(panels[OUTPUT]) == 1:  # --help alone is no panel
        panels[_OWN] += panels.pop(OUTPUT)
    rows = [row for panel in panels.values() for row in panel]
    widest = min(_COLUMN, max(len(left) for left, _ in rows))
    for title, panel in panels.items():
        _section(title, [(left.ljust(widest), told) for left, told in panel], formatter)


def _section(title: str, rows: Sequence[tuple[str, str]], formatter: Any) -> None:
    if rows:
        with formatter.section(title):
            formatter.write_dl(rows, col_max=_COLUMN)


def _option(param: Any) -> tuple[str, str]:
    names = ", ".join(sorted(param.opts, key=len))
    left = names if param.is_flag else f"{names} {param.metavar}"
    told = (param.help or "").removesuffix(".")
    told = told[:1].lower() + told[1:] if told[1:2].islower() else told  # those of typer too
    default = param.default
    if default in (None, "", False) or callable(default) or not param.show_default:
        return left, told
    return left, f"{told} [{default}]"


def _argument(param: Any) -> str:
    many = "..." if param.nargs != 1 else ""
    return f"{param.metavar}{many}" if param.required else f"[{param.metavar}]{many}"


def _positional(param: Any) -> bool:
    return bool(param.param_type_name == "argument")


def _to_nowhere(*streams: TextIO) -> None:
    """What is left in the streams goes nowhere at the end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(nowhere, stream.fileno())
