"""Spec files: found by name, read with positions, validated with all mistakes at once.

A mistake is told as `file:line:column: key: what is wrong, did you mean …` with its source line.
No torch here: a spec is checked in milliseconds.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from care_core.spec import PretrainSpec, fidelity
from carectl import complaints, places, presets, yamlpos
from carectl.errors import CommandError
from carectl.places import Document, Loc, Mark, Problem, SpecFileError, dotted, problem
from carectl.presets import Resolved

if TYPE_CHECKING:
    from carectl.grid import Grid

__all__ = ["Problem", "Resolved", "SpecFileError", "dump", "find", "load", "load_grid", "names",
           "override", "resolve", "schema"]  # fmt: skip

M = TypeVar("M", bound=BaseModel)

# What a cross-field problem of a key is judged by, besides the key itself. While one of these is
# itself wrong, the problem would be about a value that nobody wrote, so it is not told.
_NEEDS: dict[str, tuple[str, ...]] = {
    "training.batch_size": ("data.name", "launch.gpus", "launch.nodes", "bn.sync", "bn.replicas"),
    "method.queue": ("method.name", "training.batch_size"),
    "equivariance.batch": (
        "equivariance.weight", "training.batch_size", "launch.gpus", "launch.nodes", "bn.sync",
        "bn.replicas",
    ),
    "equivariance.splits": (
        "equivariance.weight", "equivariance.batch", "training.batch_size", "launch.gpus",
        "launch.nodes",
    ),
    "bn.replicas": (
        "training.batch_size", "equivariance.weight", "equivariance.batch", "launch.gpus",
        "launch.nodes",
    ),
    "loss.method": ("loss.alignment", "loss.uniformity", "equivariance.weight"),
    "schedule.warmup_epochs": ("training.epochs",),
    "schedule.milestones": ("schedule.name", "training.epochs"),
    "model.backbone": ("data.name",),
    "model.width": ("model.backbone",),
    "model.stem": ("model.backbone",),
    "data.path": ("data.name",),
    "probe.data": ("data.name",),
    "monitor.every_epochs": ("data.name",),
    # leaks: what they are measured against is the preset's
    **{choice.key: ("fidelity",) for choice in fidelity.CHOICES if choice.leak},
}  # fmt: skip
# Stand-ins for required fields that are missing or wrong, so that the rest can still be judged.
_STAND_INS: dict[str, Any] = {"name": "unnamed", "data.name": "cifar10"}


def names() -> list[str]:
    """The shipped specs and grids, such as 'digits/care-simclr' and 'table1'."""
    folder = _shipped()
    return sorted(p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.yaml"))


def find(spec: str) -> Path:
    """The file of a spec: a path, or a shipped name such as 'digits/care-simclr'.

    Raises:
        CommandError: there is neither; it names what comes close.
    """
    if spec == "-":
        return Path("/dev/stdin")
    try:
        folder = bool(spec) and Path(spec).is_dir()
        if spec and not folder and Path(spec).exists():
            return Path(spec)
    except OSError as error:  # such as a name that is too long for one
        shown = f"{spec[: places.SHOWN]}{'…' * (len(spec) > places.SHOWN)}"
        raise CommandError(f"no spec '{shown}' ({error.strerror})") from error
    shipped = names()
    if spec in shipped:
        return _shipped() / f"{spec}.yaml"
    if folder:
        raise CommandError(f"'{spec}' is a folder; give a spec file in it")
    if Path(spec).suffix in (".yaml", ".yml"):
        near = [str(p) for p in _siblings(Path(spec)) if str(p) != spec]  # a link to nowhere
        hint = complaints.did_you_mean(spec, near + [f"{name}.yaml" for name in shipped])
        raise CommandError(f"no spec file '{spec}'{hint}")
    shipped = [name for name in shipped if "/" in name]  # the others are grids
    hint = complaints.did_you_mean(spec, shipped)
    raise CommandError(f"no spec '{spec}'{hint}; give a file, or one of: {_grouped(shipped)}")


def load(path: Path, overrides: Sequence[str] = ()) -> PretrainSpec:
    """Read and validate a spec, with settings `key.sub=value` (the value as YAML) put over it.

    Raises:
        SpecFileError: all mistakes, each with its place.
    """
    return resolve(path, overrides).spec


def resolve(path: Path, overrides: Sequence[str] = ()) -> Resolved:
    """As `load`, with what the fidelity preset chose.

    Under `fidelity: official` the recipe's `official` section lies over the rest of it, and the
    overrides over both.

    Raises:
        SpecFileError: all mistakes, each with its place.
    """
    document = yamlpos.read(path)
    official = presets.take_official(document, overrides)
    spec = _validate(PretrainSpec, _put(document, overrides))
    return Resolved(spec, fidelity.chosen(document.value), official)


def override(spec: PretrainSpec, overrides: Sequence[str]) -> PretrainSpec:
    """A spec with settings put over it. Another `fidelity` chooses anew what the last one chose.

    Raises:
        SpecFileError: all mistakes, each with its place in the overrides.
    """
    if not overrides:
        return spec
    key, _, _ = overrides[-1].partition("=")
    root = Mark(
        _called(overrides[-1]), 1, len(key) + 2 if "=" in overrides[-1] else 1, overrides[-1]
    )
    values = spec.model_dump(mode="json")
    if any(text.startswith("fidelity=") for text in overrides):
        values = fidelity.contract(values)
    document = Document(root, values)
    return _validate(PretrainSpec, _put(document, overrides))


def load_grid(path: Path) -> Grid:
    """Read and validate a grid of runs, such as table1.yaml.

    Raises:
        SpecFileError: all mistakes, each with its place.
    """
    from carectl.grid import Grid

    return _validate(Grid, yamlpos.read(path))


def dump(spec: BaseModel) -> str:
    """The resolved YAML of a spec, with all defaults; `load` gives back an equal one."""
    return yamlpos.dump(spec.model_dump(mode="json"))


def schema() -> dict[str, Any]:
    """The JSON schema of a spec file, for editors."""
    found = PretrainSpec.model_json_schema()
    found["properties"][presets.SECTION] = {
        "type": "object",
        "description": "settings that lie over the others under fidelity: official",
    }
    return found


def _shipped() -> Path:
    import experiments

    return Path(str(experiments.__file__)).parent


def _grouped(names: Sequence[str]) -> str:
    """Names by their folder: 'digits/{care-simclr, simclr}'."""
    folders: dict[str, list[str]] = {}
    for name in names:
        folder, _, rest = name.rpartition("/")
        folders.setdefault(folder, []).append(rest)
    return ", ".join(f"{folder}/{{{', '.join(rest)}}}" for folder, rest in folders.items())


def _siblings(path: Path) -> list[Path]:
    return [*path.parent.glob("*.yaml"), *path.parent.glob("*.yml")] if path.parent.is_dir() else []


def _put(document: Document, overrides: Sequence[str]) -> Document:
    """Put `key.sub=value` texts over a document, one after the other; a section is replaced."""
    for text in overrides:
        key, equals, _ = text.partition("=")
        start = Mark(_called(text), 1, 1, text)
        parts = key.split(".")
        if not equals or not all(part and part == part.strip() for part in parts):
            said = f"'{start.file.removeprefix('-o ')}'"
            message = f"{said} is not a setting; write key=value, such as training.epochs=10"
            document.problems.append(problem(start, "", message))
            continue
        if parts[0] == presets.SECTION:
            message = "is a section of a recipe's file; give the setting itself, without it"
            document.problems.append(problem(start, key, message))
            continue
        if wrong := _wrong_key(parts):
            document.problems.append(problem(start, "", wrong))
            continue
        value = yamlpos.parse(text, start.file, skip=len(key) + 1)
        if value.problems:
            document.problems += value.problems
            continue
        parent: dict[str, Any] = document.value
        for i, part in enumerate(parts[:-1], start=1):
            loc: Loc = tuple(parts[:i])
            if parent.get(part) is None:
                parent[part] = {}
                document.keys[loc] = start
            if not isinstance(parent[part], dict):
                message = f"'{dotted(loc)}' holds a value, not a section of keys"
                document.problems.append(problem(start, key, message))
                break
            parent = parent[part]
        else:
            parent[parts[-1]] = value.value
            _replace_marks(document, value, tuple(parts), start, len(key) - len(parts[-1]))
            if parts[-1] == "name":
                _drop_foreign(document, parent, tuple(parts[:-1]), value.value)
    if document.problems:
        raise SpecFileError(document.problems)
    return document


def _called(text: str) -> str:
    """What an override is called where a file's name would stand."""
    return f"-o {text}" if len(text) <= places.SHOWN else f"-o {text[: places.SHOWN]}…"


def _wrong_key(parts: Sequence[str]) -> str:
    if len(parts) > yamlpos.MAX_DEPTH:
        return f"nested more than {yamlpos.MAX_DEPTH} deep"
    return "" if all(map(yamlpos.whole, parts)) else yamlpos.HALF


def _replace_marks(document: Document, value: Document, at: Loc, start: Mark, offset: int) -> None:
    document.forget(at)
    document.keys[at] = Mark(start.file, 1, offset + 1, start.source_line)
    document.keys.update({(*at, *loc): mark for loc, mark in value.keys.items()})
    document.values.update({(*at, *loc): mark for loc, mark in value.values.items()})
    # an empty value has no place of its own: show what lies behind the =
    document.values.setdefault(at, Mark(start.file, 1, len(dotted(at)) + 2, start.source_line))


def _drop_foreign(document: Document, section: dict[str, Any], at: Loc, name: Any) -> None:
    """Another variant of a section, such as another method, keeps the keys that it has too.

    What an override asked for stays, to be told if it does not fit.
    """
    for key in complaints.foreign(at, str(name), PretrainSpec) & section.keys():
        mark = document.keys.get((*at, key))
        if mark is None or not mark.file.startswith("-o "):
            del section[key]
            document.forget((*at, key))


def _validate(model: type[M], document: Document) -> M:
    """Validate, and where that fails again without the wrong values, until all is told.

    A model's own validators only run once its fields are valid, so what is wrong is taken out
    (its default stands in) and the rest is judged once more.
    """
    data = copy.deepcopy(document.value)
    found: dict[tuple[str, str], Problem] = {}
    wrong: set[str] = set()
    more = 0
    while True:
        try:
            # JSON mode, strictly: lists become tuples, yet no text or truth value becomes a number.
            result = model.model_validate_json(json.dumps(data), strict=True)
        except ValidationError as error:
            told = complaints.collect(error, model, data, places.MAX_TOLD)
            more = max(more, error.error_count() - places.MAX_TOLD)
            own = [c for c in told if not c.cross]
            judged = wrong | {key for c in own for key in (dotted(c.loc), *c.meant)}
            for complaint in told:
                key = dotted(complaint.loc)
                # fields are all judged in the first round; later ones miss what was taken out
                if not _touches(_NEEDS.get(key, ()), judged) if complaint.cross else not wrong:
                    mark = (document.of_key if complaint.on_key else document.of_value)(
                        complaint.loc
                    )
                    found.setdefault(
                        (key, complaint.message), problem(mark, key, complaint.message)
                    )
                _take_out(data, complaint.loc)
            round_wrong = judged | {dotted(c.loc) for c in told}
            if round_wrong <= wrong or more > 0:
                break
            wrong = round_wrong
        else:
            if not found:
                return result
            break
    raise SpecFileError(
        sorted(found.values(), key=lambda p: (p.file[:2] == "-o", p.line, p.column)), max(more, 0)
    )


def _touches(needs: Sequence[str], wrong: set[str]) -> bool:
    return any(f"{n}.".startswith(f"{w}.") for n in needs for w in wrong)


def _take_out(data: Any, loc: Loc) -> None:
    """Remove a setting (for an item of a list, the whole list), or put a stand-in there."""
    keys = [part for part in loc if isinstance(part, str)]
    whole = loc[: next((i for i, part in enumerate(loc) if isinstance(part, int)), len(loc))]
    if not keys or len(whole) == 0:
        return
    parent = data
    for part in whole[:-1]:
        if not isinstance(parent, dict) or not isinstance(parent.get(str(part)), dict):
            return
        parent = parent[str(part)]
    parent.pop(str(whole[-1]), None)
    for key, value in _STAND_INS.items():
        section, _, last = key.rpartition(".")
        if dotted(whole) in (key, section):
            target = data.setdefault(section, {}) if section else data
            target[last] = value
