"""pydantic's errors in a person's words: which setting, what it must be, what was meant."""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from carectl.yamlpos import Loc

# error type → what the value must be; {…} are pydantic's own bounds
_MUST_BE = {
    "greater_than_equal": "≥ {ge}",
    "greater_than": "> {gt}",
    "less_than_equal": "≤ {le}",
    "less_than": "< {lt}",
    "finite_number": "a finite number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a smaller number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list such as [1, 2]",
    "list_type": "a list such as [1, 2]",
    "dict_type": "a section of key: value lines",
    "model_type": "a section of key: value lines",
    "model_attributes_type": "a section of key: value lines",
    "too_long": "at most {max_length} items",
    "too_short": "at least {min_length} items",
    "string_pattern_mismatch": "text that matches {pattern}",
}


@dataclasses.dataclass(frozen=True)
class Complaint:
    """One mistake at a place in the data.

    `on_key`: the key is wrong, not its value. `cross`: told by a model's own validator, so it may
    depend on other settings. `meant`: dotted keys that the writer may have meant to set.
    """

    loc: Loc
    message: str
    on_key: bool = False
    cross: bool = False
    meant: tuple[str, ...] = ()


def did_you_mean(word: str, options: Sequence[str]) -> str:
    """', did you mean 'x'?' or nothing."""
    near = close(word, options)
    return f", did you mean {_either(near)}?" if near else ""


def close(word: str, options: Sequence[str]) -> list[str]:
    """At most three options that resemble a word, nearest first."""
    folded = {option.casefold(): option for option in reversed(options)}
    found = difflib.get_close_matches(word.casefold(), folded, n=3, cutoff=0.6)
    return [folded[name] for name in found]


def collect(error: ValidationError, model: type[BaseModel], data: Any) -> list[Complaint]:
    """All mistakes of a failed validation; what a union's members say of one value is one."""
    found: list[Complaint] = []
    values: dict[Loc, list[Any]] = {}
    for item in error.errors(include_url=False):
        kind, loc = item["type"], item["loc"]
        if kind == "value_error":
            found += _cross(loc, str(item["ctx"]["error"]))
        elif kind == "extra_forbidden":
            found.append(_unknown_key(loc, model))
        elif kind == "missing":
            found.append(_missing(loc, model))
        else:
            values.setdefault(_written(loc, data), []).append(item)
    return found + [_wrong_value(loc, items) for loc, items in values.items()]


def _cross(loc: Loc, text: str) -> Iterator[Complaint]:
    """A validator's text has a line a problem, each `key: message` from its own model on."""
    for line in text.splitlines():
        key, colon, message = line.partition(": ")
        if colon and re.fullmatch(r"[\w./ -]+", key):
            yield Complaint((*loc, *key.split(".")), message, cross=True)
        else:
            yield Complaint(loc, line, cross=True)


def _unknown_key(loc: Loc, model: type[BaseModel]) -> Complaint:
    key, above = str(loc[-1]), loc[:-1]
    here = _model_at(model, above)
    fields = list(here.model_fields) if here else []
    prefix = ".".join(str(part) for part in above)
    near = close(key, fields)
    elsewhere = [path for path in _paths(model) if path.rpartition(".")[2] == key]
    if not near and not elsewhere:
        leaves = sorted({path.rpartition(".")[2] for path in _paths(model)})
        alike = close(key, leaves)[:1]
        elsewhere = [path for path in _paths(model) if path.rpartition(".")[2] in alike]
    elsewhere.sort(key=lambda path: path.count("."))
    meant = [f"{prefix}.{name}".lstrip(".") for name in near] + elsewhere[:3]
    shown = [*near[:1], *elsewhere[: 3 - len(near[:1])]]
    hint = f", did you mean {_either(shown)}?" if shown else f"; there is: {', '.join(fields)}"
    return Complaint(loc, f"unknown key{hint}", on_key=True, meant=tuple(meant))


def _missing(loc: Loc, model: type[BaseModel]) -> Complaint:
    if isinstance(loc[-1], int):
        return Complaint(loc[:-1], f"must have at least {loc[-1] + 1} items")
    here = _model_at(model, loc[:-1])
    field = here.model_fields.get(loc[-1]) if here else None
    options = typing.get_args(field.annotation) if field else ()
    listed = [str(option) for option in options if isinstance(option, str)]
    return Complaint(
        loc, f"is required; one of {', '.join(listed)}" if listed else "is required", on_key=True
    )


def _wrong_value(loc: Loc, items: Sequence[Any]) -> Complaint:
    value = items[0]["input"]
    phrases, options = [], []
    for item in items:
        context = item.get("ctx", {})
        if item["type"] == "literal_error":
            expected = re.findall(r"'([^']*)'", str(context["expected"])) or [context["expected"]]
            options += expected
            phrases.append(f"one of {', '.join(expected)}" if len(expected) > 1 else expected[0])
        elif item["type"] in _MUST_BE:
            bounds = {name: _plain(bound) for name, bound in context.items()}
            phrases.append(_MUST_BE[item["type"]].format(**bounds))
        else:
            return Complaint(loc, f"{item['msg'][:1].lower()}{item['msg'][1:]}")
    if items[0]["type"] == "string_pattern_mismatch" and loc == ("name",):
        phrases = [
            "1 to 100 letters, digits, '.', '_', '/' or '-', beginning with a letter or digit"
        ]
    hint = did_you_mean(value, options) if isinstance(value, str) else ""
    return Complaint(
        loc, f"must be {' or '.join(dict.fromkeys(phrases))}, not {_show(value)}{hint}"
    )


def _written(loc: Loc, data: Any) -> Loc:
    """The part of an error's location that is in the data: without the names of union members."""
    found: Loc = ()
    for part in loc:
        try:
            if not isinstance(data, dict | list):
                break
            inside: Any = data
            data = inside[part]
        except (KeyError, IndexError, TypeError):
            break
        found = (*found, part)
    return found


def _model_at(model: type[BaseModel], loc: Loc) -> type[BaseModel] | None:
    """The model that a location's keys are fields of."""
    annotation: Any = model
    for part in loc:
        annotation = _step(annotation, part)
    return annotation if _is_model(annotation) else None


def _step(annotation: Any, part: str | int) -> Any:
    """The type of what lies one key or index further down; None where there is no such key."""
    arguments = typing.get_args(annotation)
    if _is_model(annotation):
        field = annotation.model_fields.get(str(part))
        return field.annotation if field else None
    if typing.get_origin(annotation) is dict:
        return arguments[1]
    if isinstance(part, int):
        return arguments[0] if arguments else None
    steps = (_step(argument, part) for argument in arguments)
    return next((step for step in steps if step is not None), None)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted keys of all settings, the leaves alone."""
    for name, field in model.model_fields.items():
        inner: Any = field.annotation
        if _is_model(inner):
            yield from _paths(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _either(words: Sequence[str]) -> str:
    quoted = [f"'{word}'" for word in words]
    return " or ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


def _plain(bound: Any) -> Any:
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound


def _show(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
