"""Golden values: a computed function that changes must raise NUMERICS, or old runs pass for new."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import FAST, tiny
from ranks import rows

from care_core import pretrain
from care_core.spec import NUMERICS

#: By NUMERICS and case: the loss of the first and of the fifth step.
GOLDEN: dict[int, dict[str, tuple[float, float]]] = {
    2: {
        "care-simclr": (6.871720, 6.706381),
        "together": (6.903113, 6.264956),
        "care-moco": (5.631558, 7.257657),
        "care-barlow": (7.146530, 6.852791),
        "byol": (5.043561, 4.641293),
        "equimod": (15.759212, 15.340205),
        "official terms": (13.125519, 13.018767),
        "lars": (6.894470, 6.297314),
        "clouds": (7.643577, 7.471125),
    }
}

CASES: dict[str, dict[str, Any]] = {
    "care-simclr": {},
    "together": {"bn": {"views": "together"}, "optimizer": {"name": "sgd", "lr": 0.1}},
    "care-moco": {"method": {"name": "moco", "queue": 512}},
    "care-barlow": {"method": {"name": "barlow"}},
    "byol": {"method": {"name": "byol", "hidden": 16}, "equivariance": {"weight": 0}},
    "equimod": {"method": {"name": "equimod", "hidden": 16, "embedding": 8}},
    "official terms": {"loss": {"form": "official", "alignment": 1, "uniformity": 1}},
    "lars": {"optimizer": {"name": "lars", "lr": 0.1, "momentum": 0.9}, "bn": {"replicas": 2}},
    "clouds": {"data": {"name": "chains", "points": 16},
               "model": {"backbone": "deepset", "width": 8, "hidden": 16, "embedding": 8}},
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_run_computes_what_it_did_since_numerics_was_raised(tmp_path: Path, name: str) -> None:
    fields = {**FAST, **CASES[name], "training": {"epochs": 1, "batch_size": 256}}
    pretrain(tiny(**fields), tmp_path, threads=1)
    found = {step: value for key, value, step in rows(tmp_path) if key == "loss"}
    first, fifth = GOLDEN[NUMERICS][name]
    remedy = "raise care_core.spec.NUMERICS and write the new values down here"
    # machines round apart, and five updates enlarge it
    assert found[1] == pytest.approx(first, rel=1e-4), remedy
    assert found[5] == pytest.approx(fifth, rel=2e-3), remedy
