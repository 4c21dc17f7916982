"""The JSON files of a run folder: each is read as what it has to be, or counts as not there.

A disk, an editor or another program may leave anything in them. Whoever reads a folder of ten
thousand runs must get past the one that is damaged, and be able to say which it is.
"""

from __future__ import annotations

import contextlib
import functools
import json
from pathlib import Path
from typing import Any, NotRequired

import pydantic_core
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic's, below Python 3.12

from care_core.files import read_whole

MAX_DEPTH = 100  # of sections in sections: none of ours has ten
Numbers = dict[str, float]


class _Spec(TypedDict, total=False):
    probe: dict[str, Any]
    seed: int
    data: dict[str, Any]


class _Record(TypedDict, total=False):
    kind: str
    name: str
    sha256: str
    identity: dict[str, Any]
    spec: _Spec


class _Tracking(TypedDict):
    uri: str
    run_id: str
    experiment_id: NotRequired[str]


class _Job(TypedDict, total=False):
    data_dir: str
    threads: int
    tracking: _Tracking | None
    source_run: str | None
    checkpoint: str | None
    backend: str
    launch: dict[str, Any]


class _Progress(TypedDict):
    epoch: int
    epochs: int
    metrics: Numbers
    step: NotRequired[int]
    images_per_s: NotRequired[float | None]
    eta_s: NotRequired[float | None]
    data_bound: NotRequired[float | None]
    heartbeat: NotRequired[float]
    uptime: NotRequired[float]


class _Result(TypedDict, total=False):
    kind: str
    steps: int
    seconds: float | None
    images_per_s: float | None
    checkpoint: str
    measured_on: str
    metrics: Numbers


class _Handle(TypedDict):
    host: str
    pid: int
    since: NotRequired[float]
    uptime: NotRequired[float]


class _Submission(TypedDict):
    logs: str
    job: str | int
    at: NotRequired[float]


_SHAPES: dict[str, Any] = {
    "spec.json": _Record, "job.json": _Job, "progress.json": _Progress, "result.json": _Result,
    "handle.json": _Handle, "submission.json": _Submission,
}  # fmt: skip
#: What a person would miss if it could not be read.
TOLD = ("spec.json", "job.json", "progress.json", "result.json")


def read(path: Path) -> dict[str, Any] | None:
    """What a file of a run folder holds; None where it is not there, or not what it has to be."""
    return _read(path)[0]


def wrong(path: Path) -> str:
    """Why a file that is there is not what it has to be; nothing, if it is or is not there."""
    return _read(path)[1]


def broken(folder: Path) -> str:
    """The files of a run folder that are there and are not what they have to be, and a remedy."""
    told = "; ".join(why for name in TOLD if (why := wrong(folder / name)))
    return f"{told}; mend it, or move the folder away" if told else ""


def _read(path: Path) -> tuple[dict[str, Any] | None, str]:
    try:
        raw = read_whole(path)
    except FileNotFoundError:
        return None, ""
    except OSError as error:
        return None, f"{path.name} cannot be read ({error.strerror})"
    try:
        found = _parsed(raw)
        if not isinstance(found, dict):
            return None, f"{path.name} is damaged: it holds no JSON object"
        if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and _deep(found):
            return None, f"{path.name} is damaged: it is nested without end"
        if path.name in _SHAPES:
            _adapter(path.name).validate_python(found, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        return None, f"{path.name} is damaged at {place}: {first['msg'].lower()}"
    except (ValueError, RecursionError):
        return None, f"{path.name} is damaged: it is not JSON"
    return found, ""


def _parsed(raw: bytes) -> Any:
    """JSON by pydantic's parser, which is twice as fast; what it refuses, as Python reads it."""
    with contextlib.suppress(ValueError):
        return pydantic_core.from_json(raw)
    return json.loads(raw)  # half a character, such as of a file's name, or another encoding


@functools.cache
def _adapter(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(_SHAPES[name])


def _deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for part in level
            for inner in (part.values() if isinstance(part, dict) else part)
            if isinstance(inner, dict | list)
        ]
    return bool(level)
