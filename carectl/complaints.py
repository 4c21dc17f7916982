"""pydantic's errors in a person's words: which setting, what it must be, what was meant."""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel, Tag, ValidationError

from carectl.places import Loc

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


def collect(
    error: ValidationError, model: type[BaseModel], data: Any, most: int
) -> list[Complaint]:
    """The mistakes of a failed validation, of very many the first `most`.

    What a union's members say of one value is one.
    """
    found: list[Complaint] = []
    values: dict[Loc, list[Any]] = {}
    for item in error.errors(include_url=False)[:most]:
        kind, loc = item["type"], _untagged(item["loc"], model)
        if kind == "too_short" and len(item["input"]) >= item["ctx"]["min_length"]:
            continue  # its items are wrong, and are told one by one
        if kind == "value_error":
            found += _cross(loc, str(item["ctx"]["error"]))
        elif kind == "extra_forbidden":
            found.append(_unknown_key(item["loc"], model))
        elif kind == "missing":
            found.append(_missing(loc, model))
        elif kind == "union_tag_invalid":
            found.append(_wrong_variant(loc, item))
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


def strays(section: Any, model: type[BaseModel], at: Loc = ()) -> Iterator[Complaint]:
    """The keys of a section, and of those in it, that the model does not have anywhere there."""
    for key, value in section.items() if isinstance(section, dict) else ():
        loc = (*at, key)
        if _at(model, loc) is None:
            yield _unknown_key(loc, model)
        else:
            yield from strays(value, model, loc)


def fields_at(model: type[BaseModel], loc: Loc = ()) -> dict[str, Any]:
    """The settings of the section at a place, those of all its variants; none where it is none."""
    here = _at(model, loc)
    section = _section(here)
    return _fields({"": section} if section else _variants(here))


def variants_at(model: type[BaseModel], loc: Loc) -> list[str]:
    """The names of a section's variants, such as those of `method`."""
    return list(_variants(_at(model, loc)))


def foreign(loc: Loc, name: str, model: type[BaseModel]) -> set[str]:
    """Keys of a section with variants, such as `method`, that variant `name` does not have."""
    variants = _variants(_at(model, loc))
    if name not in variants:
        return set()
    everyone = {key for variant in variants.values() for key in variant.model_fields}
    return everyone - set(variants[name].model_fields)


def _unknown_key(tagged: Loc, model: type[BaseModel]) -> Complaint:
    """A key that its section does not have.

    Args:
        tagged: its place, with or without the names of a union's members.
    """
    loc = _untagged(tagged, model)
    key, above = str(loc[-1]), loc[:-1]
    here, siblings = _section(_at(model, tagged[:-1])), _variants(_at(model, above))
    fields = list(here.model_fields) if here else [*_fields(siblings)]
    owners = [name for name, variant in siblings.items() if key in variant.model_fields]
    if owners:
        return Complaint(loc, f"unknown key of this {above[-1]}; {_both(owners)} it", on_key=True)
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
    hint = f", did you mean {_either(shown)}?" if shown else f"; there are: {', '.join(fields)}"
    return Complaint(loc, f"unknown key{hint}", on_key=True, meant=tuple(meant))


def _wrong_variant(loc: Loc, item: Any) -> Complaint:
    """A section whose `name` is none of those that there are, or that is no section."""
    options = re.findall(r"'([^']*)'", str(item["ctx"]["expected_tags"]))
    value = item["input"]
    if isinstance(value, dict):
        value = value.get("name")
        hint = did_you_mean(value, options) if isinstance(value, str) else ""
        message = f"must be one of {', '.join(options)}, not {_show(value)}{hint}"
        return Complaint((*loc, "name"), message)
    near = close(value, options)[:1] if isinstance(value, str) else []
    hint = "".join(f", did you mean {{name: {name}}}?" for name in near)
    return Complaint(loc, f"must be {_MUST_BE['model_type']}, not {_show(value)}{hint}")


def _missing(loc: Loc, model: type[BaseModel]) -> Complaint:
    if isinstance(loc[-1], int):
        return Complaint(loc[:-1], f"must have at least {loc[-1] + 1} items")
    here = _section(_at(model, loc[:-1]))
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


def _untagged(loc: Loc, model: type[BaseModel]) -> Loc:
    """A location without the names of tagged union members, which pydantic puts before the key."""
    found: Loc = ()
    here: Any = model
    for part in loc:
        variants = _variants(here)
        if part not in variants:
            found = (*found, part)
        here = variants[str(part)] if part in variants else _step(here, part)
    return found


def _at(model: type[BaseModel], loc: Loc) -> Any:
    """The type of what lies at a location, tagged or not; None where there is no such key."""
    annotation: Any = model
    for part in loc:
        annotation = _step(annotation, part)
    return annotation


def _variants(annotation: Any) -> dict[str, type[BaseModel]]:
    """The members of a tagged union by their names; none for any other type."""
    found = {}
    for member in typing.get_args(annotation):
        tags = [part.tag for part in typing.get_args(member)[1:] if isinstance(part, Tag)]
        if tags:
            found[tags[0]] = typing.get_args(member)[0]
    return found


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
    if part in (variants := _variants(annotation)):
        return variants[part]
    steps = (_step(argument, part) for argument in arguments)
    return next((step for step in steps if step is not None), None)


def _section(annotation: Any) -> type[BaseModel] | None:
    """The model that a type is, or is where it is not None."""
    members = typing.get_args(annotation)
    if type(None) in members and len(members) == 2:
        annotation = next(part for part in members if part is not type(None))
    return annotation if _is_model(annotation) else None


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted keys of all settings, the leaves alone, each once."""
    for name, field in _fields({"": model}).items():
        inner, path = field.annotation, f"{prefix}{name}"
        section = _section(inner)
        variants = {"": section} if section else _variants(inner)
        found = (key for variant in variants.values() for key in _paths(variant, f"{path}."))
        yield from dict.fromkeys(found if variants else [path])


def _fields(variants: dict[str, type[BaseModel]]) -> dict[str, Any]:
    """The fields of all variants together."""
    return {name: f for variant in variants.values() for name, f in variant.model_fields.items()}


def _both(owners: Sequence[str]) -> str:
    """'moco has', or 'simclr and moco have'."""
    words = " and ".join([", ".join(owners[:-1]), owners[-1]] if len(owners) > 1 else owners)
    return f"{words} {'have' if len(owners) > 1 else 'has'}"


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
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 60 else f"{text[:57]}…"
