"""Where words go: results to stdout, progress to stderr, and with --json one object on stdout."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from carectl.console.clean import PlainConsole

VERSION = 1
UNWRAPPED = 10_000  # columns: in a pipe a line is a line


class Output:
    """The two streams of a command, and whether a machine reads stdout."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.out = PlainConsole(stderr=as_json, soft_wrap=not sys.stdout.isatty())
        self.err = PlainConsole(stderr=True, soft_wrap=not sys.stderr.isatty())

    @property
    def lively(self) -> bool:
        """Whether stdout is a terminal in which lines can be written over."""
        return self.out.is_terminal and not self.out.is_dumb_terminal

    def room(self, *, aside: bool = False) -> int:
        """Columns that a table may take."""
        console = self.err if aside else self.out
        return console.width if console.is_terminal else UNWRAPPED

    def result(self, renderable: Any) -> None:
        """A result for people, in sentences that are folded between words."""
        self.out.print(renderable)

    def line(self, text: Any) -> None:
        """A result that is to be copied, such as a path: only the terminal itself folds it."""
        self.out.print(text, soft_wrap=True)

    def listing(self, renderable: Any, *, aside: bool = False) -> None:
        """A table with a line a thing: in a pipe neither folded nor padded, so that it is searched.

        In a terminal too narrow for its words the terminal folds it: no id is cut.
        """
        console = self.err if aside else self.out
        if console.is_terminal:
            free = console.options.update(max_width=UNWRAPPED)
            least = console.measure(renderable, options=free).minimum
            if least > console.width:
                console = PlainConsole(stderr=console.stderr, width=least)
            console.print(renderable)
            return
        wide = PlainConsole(stderr=console.stderr, width=UNWRAPPED)
        with wide.capture() as printed:
            wide.print(renderable)
        lines = (line.rstrip() for line in printed.get().splitlines())
        print("\n".join(lines), file=console.file)

    def note(self, text: str) -> None:
        """A word on what happens, which is no result."""
        self.err.print(text)

    def next(self, text: str, *, aside: bool = False) -> None:
        """The one next step that ends a command; `aside` where stdout is to be kept in a file."""
        if text.startswith("carectl "):
            text = f"{program()} {text.removeprefix('carectl ')}"
        console = self.err if aside or self.as_json else self.out
        console.print(f"Next: {text}", soft_wrap=True)  # a command that is folded cannot be copied

    def emit(self, command: str, **fields: Any) -> None:
        """The command's JSON object, if one was asked for."""
        if self.as_json:
            print(json.dumps({"version": VERSION, "command": command, **fields}, default=str))


def program() -> str:
    """How this program can be called from here: by its name if that is on the PATH."""
    mine = Path(sys.argv[0])
    found = shutil.which("carectl")
    if mine.name != "carectl" or (found and Path(found).resolve() == mine.resolve()):
        return "carectl"
    near = os.path.relpath(mine)
    return near if not near.startswith("..") else str(mine)
