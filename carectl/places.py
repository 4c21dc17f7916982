"""Where the keys and values of a text stand, and mistakes that point at a place of it."""

from __future__ import annotations

import dataclasses
from typing import Any

MAX_TOLD = 50  # mistakes at once
SHOWN = 160  # characters of a source line

Loc = tuple[str | int, ...]


@dataclasses.dataclass(frozen=True)
class Mark:
    """A place in a text; line and column count from 1."""

    file: str
    line: int = 1
    column: int = 1
    source_line: str = ""


@dataclasses.dataclass(frozen=True)
class Problem:
    """One mistake: where it is, which setting it concerns, and what to do about it."""

    file: str
    line: int
    column: int
    key: str
    message: str
    source_line: str

    def __str__(self) -> str:
        subject = f"{self.key}: " if self.key else ""
        head = f"{self.file}:{self.line}:{self.column}: {subject}{self.message}"
        if not self.source_line.strip():
            return head
        start = max(0, self.column - SHOWN // 2) if len(self.source_line) > SHOWN else 0
        shown = self.source_line[start : start + SHOWN]
        shown = "".join(c if c.isprintable() else " " for c in shown)
        return f"{head}\n  {shown}\n  {' ' * (self.column - 1 - start)}^"


class SpecFileError(Exception):
    """A spec or grid cannot be read. Its text is the problems, each with its source line.

    Of very many the first ones are told: a file of nothing but mistakes is another kind of file.
    """

    def __init__(self, problems: list[Problem], more: int = 0) -> None:
        self.problems, more = problems[:MAX_TOLD], more + len(problems[MAX_TOLD:])
        rest = [f"… and {more} more mistakes; mend these first"] if more else []
        super().__init__("\n".join([*map(str, self.problems), *rest]))


def problem(mark: Mark, key: str, message: str) -> Problem:
    """A problem at a place."""
    return Problem(mark.file, mark.line, mark.column, key, message, mark.source_line)


def dotted(loc: Loc) -> str:
    """('schedule', 'milestones', 1) → 'schedule.milestones[1]'."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


@dataclasses.dataclass
class Document:
    """A text's value, and where its keys and values stand."""

    root: Mark
    value: Any = None
    keys: dict[Loc, Mark] = dataclasses.field(default_factory=dict)
    values: dict[Loc, Mark] = dataclasses.field(default_factory=dict)
    problems: list[Problem] = dataclasses.field(default_factory=list)

    def of_key(self, loc: Loc) -> Mark:
        """Where a key stands, or the nearest parent that is written, or the text's beginning."""
        while loc and loc not in self.keys:
            loc = loc[:-1]
        return self.keys[loc] if loc else self.root

    def of_value(self, loc: Loc) -> Mark:
        """Where a value stands; for one that is not written, as `of_key`."""
        return self.values.get(loc) or self.of_key(loc)

    def forget(self, at: Loc) -> None:
        """Drop the places of a key and of all that lies below it."""
        for marks in (self.keys, self.values):
            for loc in [loc for loc in marks if loc[: len(at)] == at]:
                del marks[loc]

    def put(self, at: Loc, value: Any, origin: Loc) -> bool:
        """Set a value that stands elsewhere in the text, at `origin`; its places go with it.

        Returns:
            False if a part of the way is a value and no section; nothing is set then.
        """
        parent = self.value
        for part in at[:-1]:
            parent = parent.setdefault(part, {})
            if not isinstance(parent, dict):
                return False
        parent[at[-1]] = value
        self.forget(at)
        for marks in (self.keys, self.values):
            below = [loc for loc in marks if loc[: len(origin)] == origin]
            marks.update({(*at, *loc[len(origin) :]): marks[loc] for loc in below})
        return True
