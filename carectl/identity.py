"""Resolved spec → canonical JSON → sha256 → run id. The same question has the same id."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, NamedTuple

from care_core.spec import NUMERICS, PretrainSpec, ProbeSpec

SHOWN = 12


class Identity(NamedTuple):
    """What determines a run's result, its sha256, and the name of its folder."""

    fields: dict[str, Any]
    sha256: str
    run_id: str


def of_pretrain(spec: PretrainSpec, dataset: str) -> Identity:
    """Identity of a pretraining; `dataset` is the fingerprint of the images' content."""
    fields = {
        "kind": "pretrain",
        "numerics": NUMERICS,
        "dataset": dataset,
        "spec": spec.determining(),
    }
    return _identity(fields, f"{spec.name}-s{spec.seed}")


def of_probe(spec: ProbeSpec, dataset: str) -> Identity:
    """Identity of an evaluation: the encoder's origin, the protocol, and the images' content."""
    fields = {
        "kind": "probe",
        "numerics": NUMERICS,
        "dataset": dataset,
        "spec": spec.determining(),
    }
    return _identity(fields, f"probe-{spec.name}")


def _identity(fields: dict[str, Any], name: str) -> Identity:
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
    digest = hashlib.sha256(text.encode()).hexdigest()
    slug = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:60]
    return Identity(fields, digest, f"{slug}-{digest[:SHOWN]}")
