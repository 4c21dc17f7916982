"""What a fidelity preset makes of a recipe: its `official` section, and what the preset filled in.

A recipe's `official` section holds what the official script passes instead of the paper's numbers.
It is known here and to `carectl.specs` alone: it is gone before a spec is validated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from care_core.spec import PretrainSpec
from care_core.spec.fidelity import Chosen, word
from carectl import complaints, yamlpos
from carectl.places import Document, Loc, Problem, dotted, problem

SECTION = "official"


class Resolved(NamedTuple):
    """A spec, with what its preset filled in and what its recipe's `official` section set."""

    spec: PretrainSpec
    chosen: list[Chosen]
    official: dict[str, Any]

    @property
    def values(self) -> dict[str, Any]:
        """Both as plain values for --json."""
        return {
            "preset": [
                {"number": choice.number, "key": choice.key, "value": value, "reason": reason}
                for choice, value, reason in self.chosen
            ],
            "official": self.official,
        }

    def comments(self) -> str:
        """Both as comments that can follow the spec's YAML."""
        preset = self.spec.fidelity
        lines = [f"# From the preset, fidelity: {preset} (docs/fidelity.md):"]
        lines += [
            f"#  {choice.number:2} {choice.key}: {word(value)} ({reason})"
            for choice, value, reason in self.chosen
        ]
        if not self.chosen:
            lines = [f"# Nothing is from the preset, fidelity: {preset}: all is said in the spec."]
        if self.official:
            lines.append("# From the recipe's official section, what the official script passes:")
            lines += [f"#     {key}: {word(value)}" for key, value in self.official.items()]
        return "\n".join(lines)


def take_official(document: Document, overrides: Sequence[str]) -> dict[str, Any]:
    """Take the `official` section out, and put it over the rest where that is the preset.

    Mistakes in it are added to the document's problems, whatever the preset.

    Returns:
        What it set, by dotted key; nothing under another preset.
    """
    if SECTION not in document.value:
        return {}
    section, found = document.value.pop(SECTION), {}
    document.problems += _mistakes(document, section)
    if document.problems or _preset(document, overrides) != "official":
        return {}
    for loc, value in _leaves(section, ()):
        if document.put(loc, value, (SECTION, *loc)):
            found[dotted(loc)] = value
    return found


def _mistakes(document: Document, section: Any) -> Iterator[Problem]:
    if not isinstance(section, dict):
        at = document.of_value((SECTION,))
        yield problem(at, SECTION, "must be a section of key: value lines")
        return
    for stray in complaints.strays(section, PretrainSpec):
        loc = (SECTION, *stray.loc)
        yield problem(document.of_key(loc), dotted(loc), stray.message)
    if "fidelity" in section:
        at = document.of_key((SECTION, "fidelity"))
        yield problem(at, "official.fidelity", "is official here by itself; leave it out")


def _preset(document: Document, overrides: Sequence[str]) -> Any:
    """What `fidelity` will be once the overrides are put over the document."""
    for text in reversed(overrides):
        key, _, value = text.partition("=")
        if key == "fidelity":
            return yamlpos.parse(value, "").value
    return document.value.get("fidelity")


def _leaves(section: dict[str, Any], at: Loc) -> Iterator[tuple[Loc, Any]]:
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*at, key))
        else:
            yield (*at, key), value
