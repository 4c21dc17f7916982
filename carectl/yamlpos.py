"""YAML read with the place of every key and value, so that an error can point at it.

A safe part of YAML 1.2: `1e-3` is a number, `on` and `no` are text, only true and false are truth
values. Tags, anchors and aliases are refused (an alias can blow a small file up to any size), and
so are duplicate keys, which YAML libraries settle silently.
"""

from __future__ import annotations

import copy
import functools
import re
from pathlib import Path
from typing import Any

import yaml

from carectl.places import Document, Loc, Mark, SpecFileError, dotted, problem

MAX_BYTES = 200_000  # a hundred specs; PyYAML takes some seconds for as much
MAX_DEPTH = 40
MAX_WHOLE = 2**63 - 1

HALF = "holds half a character (\\uD800 to \\uDFFF), which is not text"
_HUGE = "is a whole number beyond 2^63, which nothing here can count to; quote it if it is text"


def _resolvers() -> dict[str | None, list[tuple[str, re.Pattern[str]]]]:
    """YAML 1.2's core schema, in PyYAML's shape: by the first character."""
    found: dict[str | None, list[tuple[str, re.Pattern[str]]]] = {}
    number = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    for kind, pattern, first in (
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
        ("float", number + r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+.0123456789")),
    ):
        for character in first:
            compiled = re.compile(rf"(?:{pattern})\Z")
            found.setdefault(character, []).append((f"tag:yaml.org,2002:{kind}", compiled))
    return found


class _Loader(yaml.SafeLoader):
    """Composes nodes and notes what is refused, with its place."""

    yaml_implicit_resolvers = _resolvers()

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.refused: list[tuple[yaml.Mark, str]] = []
        self.depth = 0

    def fetch_more_tokens(self) -> Any:
        try:
            return super().fetch_more_tokens()
        except (ValueError, OverflowError):  # PyYAML's own, from chr() and int()
            raise yaml.MarkedYAMLError(
                problem="the number of an escape (\\U) or of %YAML is out of range",
                problem_mark=self.get_mark(),
            ) from None

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        mark: Any = event.start_mark
        if event.__class__ is yaml.AliasEvent:
            self.refused.append(
                (mark, f"aliases (*{event.anchor}) are not allowed; repeat the value")
            )
            self.get_event()  # type: ignore[no-untyped-call]
            return yaml.ScalarNode("tag:yaml.org,2002:null", "", mark, mark)
        if event.anchor is not None:
            self.refused.append(
                (mark, f"anchors (&{event.anchor}) are not allowed; repeat the value")
            )
            event.anchor = None
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self.refused.append((mark, f"tags ({tag}) are not allowed; write the plain value"))
            event.tag, event.implicit = None, (True, False)
        if self.depth >= MAX_DEPTH:
            raise yaml.MarkedYAMLError(
                problem=f"nested more than {MAX_DEPTH} deep", problem_mark=mark
            )
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


#: libyaml's writer where PyYAML was built with it: ten times as fast, the same text.
_Writer: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class Dumper(_Writer):
    """Quotes text that YAML 1.1 or `_Loader` would take for a number; a list is one line."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own class attribute
        first: [
            *yaml.SafeDumper.yaml_implicit_resolvers.get(first, []),
            *_resolvers().get(first, []),
        ]
        for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_resolvers()}
    }


def _flow_list(dumper: yaml.SafeDumper, items: list[Any]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)


Dumper.add_representer(list, _flow_list)


def dump(values: dict[str, Any]) -> str:
    """The YAML text of plain values, in their order; `parse` reads equal ones from it."""
    return str(yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True))


def read(path: Path) -> Document:
    """Read a file whose root is a mapping.

    Raises:
        SpecFileError: it cannot be read, is not UTF-8, not YAML, empty, too large, or has parts
            that are refused.
    """
    start = Mark(str(path))
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SpecFileError([problem(start, "", f"cannot be read ({error.strerror})")]) from None
    if len(raw) > MAX_BYTES:
        message = f"is larger than {MAX_BYTES // 1000} kB; this cannot be a spec"
        raise SpecFileError([problem(start, "", message)])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8", "replace").split("\n")
        mark = Mark(str(path), len(before), len(before[-1]) + 1, before[-1])
        message = f"is not UTF-8 text: byte 0x{raw[error.start]:02x}; save it as UTF-8"
        raise SpecFileError([problem(mark, "", message)]) from None
    document = parse(text, str(path))
    if not document.problems and document.value is None:
        document.problems.append(
            problem(document.root, "", "is empty; a spec has key: value lines")
        )
    elif not document.problems and not isinstance(document.value, dict):
        kind = "a list" if isinstance(document.value, list) else "a single value"
        document.problems.append(
            problem(document.root, "", f"must be key: value lines at the top, not {kind}")
        )
    if document.problems:
        raise SpecFileError(document.problems)
    return document


def parse(text: str, file: str, *, skip: int = 0) -> Document:
    """Parse a text. Its first `skip` characters are shown in errors but not read as YAML."""
    read = _parsed(text, file, skip)
    places = dict(read.keys), dict(read.values)
    return Document(read.root, copy.deepcopy(read.value), *places, list(read.problems))


@functools.lru_cache(maxsize=256)
def _parsed(text: str, file: str, skip: int) -> Document:
    """`parse`, once: a grid of a thousand runs reads the same few recipes again and again."""
    lines = text.splitlines() or [""]

    def mark(at: yaml.Mark | None) -> Mark:
        line = min(at.line, len(lines) - 1) if at else 0
        return Mark(file, line + 1, (at.column if at and line == at.line else 0) + 1, lines[line])

    document = Document(Mark(file, 1, 1, lines[0]))
    try:
        loader = _Loader(" " * skip + text[skip:])
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        document.problems.append(problem(mark(error.problem_mark), "", _say(error)))
        return document
    except yaml.reader.ReaderError as error:
        before = text[: error.position].split("\n")
        place = Mark(
            file, len(before), len(before[-1]) + 1, lines[min(len(before), len(lines)) - 1]
        )
        message = f"character U+{error.character:04X} is not allowed in YAML"
        document.problems.append(problem(place, "", message))
        return document
    document.problems += [problem(mark(at), "", message) for at, message in loader.refused]

    def construct(node: yaml.Node, loc: Loc) -> Any:
        document.values[loc] = mark(node.start_mark)
        if isinstance(node, yaml.SequenceNode):
            return [construct(child, (*loc, i)) for i, child in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            value = _scalar(node)
            if refused := _refused(value):
                document.problems.append(problem(document.values[loc], dotted(loc), refused))
            return value
        found: dict[str, Any] = {}
        for key_node, child in node.value:
            here = mark(key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode):
                document.problems.append(problem(here, dotted(loc), "a key must be a single word"))
                continue
            key = str(key_node.value)
            if not whole(key):
                document.problems.append(problem(here, dotted(loc), HALF))
                continue
            if key in found:
                first = document.keys[(*loc, key)].line
                message = f"is set twice, first on line {first}; keep one"
                document.problems.append(problem(here, dotted((*loc, key)), message))
                continue
            document.keys[(*loc, key)] = here
            found[key] = construct(child, (*loc, key))
        return found

    document.value = construct(node, ()) if node is not None else None
    return document


def _say(error: yaml.MarkedYAMLError) -> str:
    what = str(error.problem or "cannot be read")
    if "\\t" in what:
        what = "a tab cannot begin a value or indent a line; use spaces"
    elif "another document" in str(error.problem) or "single document" in str(error.context):
        what = "a second document (---) begins here; one file is one spec"
    elif error.context and error.context_mark:
        what += f" ({error.context} at line {error.context_mark.line + 1})"
    return f"not YAML: {what}"


def whole(text: str) -> bool:
    """Whether a text has whole characters alone."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _refused(value: Any) -> str:
    """Why a value is none that JSON and everything after it could hold; nothing, if it is."""
    if isinstance(value, str):
        return "" if whole(value) else HALF
    return _HUGE if isinstance(value, int) and abs(value) > MAX_WHOLE else ""


def _scalar(node: yaml.Node) -> Any:
    kind, text = str(node.tag).rpartition(":")[2], str(node.value)
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "float":
        return float(re.sub(r"\.(inf|nan)$", r"\1", text.lower()))
    if kind == "int":
        try:
            return int(text, {"0x": 16, "0o": 8}.get(text[:2], 10))
        except ValueError:  # Python refuses thousands of digits
            return MAX_WHOLE + 1
    return text
