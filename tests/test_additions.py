"""What docs/ says of adding a method or a dataset: its patch applies, is short, and trains."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import documented
import pytest
from documented import DOCS

VICREG = """
import torch
from pathlib import Path
from care_core import methods, pretrain
from care_core.distributed import ALONE
from care_core.spec import PretrainSpec
fields = {
    "name": "vicreg", "data": {"name": "digits", "image_size": 8},
    "model": {"backbone": "small", "width": 4, "hidden": 32, "embedding": 16},
    "method": {"name": "vicreg", "covariance": 2.0}, "equivariance": {"weight": 0.1},
    "training": {"epochs": 3, "batch_size": 128}, "monitor": {"every_epochs": 0},
    "log": {"every_steps": 1}, "optimizer": {"lr": 0.01},
}
spec = PretrainSpec.model_validate(fields)
method = methods.build(spec, ALONE)
a, b = torch.randn(2, 24, 16, dtype=torch.float64)
found = method.loss([], [a, b], None).loss
def terms(z):
    low = sum(max(0, 1 - float(z[:, j].var() + 1e-4) ** 0.5) for j in range(16)) / 16
    c = torch.cov(z.T)
    return low, sum(float(c[i, j]) ** 2 for i in range(16) for j in range(16) if i != j) / 16
(low, off), (low2, off2) = terms(a), terms(b)
expected = 25 * float((a - b).square().mean()) + 25 * (low + low2) + 2 * (off + off2)
assert abs(float(found) - expected) < 1e-4 * expected, (found, expected)
result = pretrain(spec, Path("run"), threads=1)
print(sorted(result["metrics"]))
import json
rows = [json.loads(line) for line in Path("run/metrics.jsonl").open()]
losses = [row["value"] for row in rows if row["key"] == "loss"]
assert sum(losses[-5:]) < 0.9 * sum(losses[:5]), losses
"""

SVHN = """
import hashlib
import numpy as np
from pathlib import Path
from scipy.io import savemat
from torchvision.datasets import SVHN
from care_core import data, pretrain
from care_core.spec import Data, PretrainSpec
Path("data/svhn").mkdir(parents=True)
draw = np.random.default_rng(0)
for split, count in (("train", 64), ("test", 16)):
    path = Path(f"data/svhn/{split}_32x32.mat")
    labels = draw.integers(1, 11, (count, 1), dtype=np.uint8)
    savemat(path, {"X": draw.integers(0, 255, (32, 32, 3, count), dtype=np.uint8), "y": labels})
    if split == "test":
        assert "md5" in data.verify("svhn", Path("data")).problems[0]
for entry in (SVHN.split_list["train"], SVHN.split_list["test"]):
    entry[2] = hashlib.md5(Path("data/svhn", entry[1]).read_bytes()).hexdigest()
assert data.verify("svhn", Path("data")).problems == []
test = data.load(Data(name="svhn"), "test", Path("data"))
assert (tuple(test.images.shape), test.classes) == ((16, 3, 32, 32), 10)
assert test.labels.tolist() == [int(label) % 10 for label in labels[:, 0]]
spec = PretrainSpec.model_validate({
    "name": "svhn", "data": {"name": "svhn"}, "augment": {"flip": 0},
    "model": {"backbone": "small", "width": 4}, "monitor": {"every_epochs": 0},
    "training": {"epochs": 1, "batch_size": 32},
})
print(pretrain(spec, Path("run"), threads=1)["images"])
"""


@pytest.mark.parametrize(
    ("name", "code", "said", "page"),
    [
        ("vicreg", VICREG, "['alignment', 'equivariance', 'loss', 'low', 'lr', 'near', 'off']",
         "methods.md"),
        ("svhn", SVHN, "64", "datasets.md"),
    ],
)  # fmt: skip
def test_an_example_of_an_addition_is_applied_and_trains(
    name: str, code: str, said: str, page: str, tmp_path: Path
) -> None:
    lines = documented.patched(tmp_path, name)
    text = (DOCS / page).read_text()
    assert f"{lines} lines" in text and lines < 60
    assert f"```diff\n{(DOCS / 'examples' / f'{name}.patch').read_text()}```" in text
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == said
