"""What ranks exchange in a step, and how long it would take: a model on paper, not a measurement.

Bytes are counted from the spec. Ranks form a ring, so its slowest link decides: within a node all
links are alike, and beyond it the nodes' own. Latency is left out, and nothing is hidden behind
the backward, which the gradients' part can largely be: the share is an upper bound.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from care_core import models
from care_core.bench.work import passes
from care_core.spec import PretrainSpec

INSIDE = 300e9  #: bytes a second and rank within a node (NVLink of an A100, one direction)
BETWEEN = 25e9  #: bytes a second between nodes (200 Gbit/s)
NODE = 8  #: ranks of a node

FLOAT = 4  # bytes: gradients, embeddings and moments travel in fp32


class Exchange(NamedTuple):
    """A step of so many ranks: bytes that each sends, seconds, and the share of the step."""

    ranks: int
    gradients: float
    embeddings: float
    moments: float
    seconds: float
    share: float  #: of the step that is exchange, were none of it hidden


def exchanged(spec: PretrainSpec, ranks: int, step_s: float) -> Exchange:
    """The model for a batch per rank that stays the same while ranks are added.

    Args:
        spec: of one rank's work: its batch size is a rank's own here.
        ranks: how many, NODE of them a node.
        step_s: seconds of the step of one rank alone.
    """
    with torch.device("meta"):
        encoder = models.Encoder(spec.model, spec.stem, spec.image_size)
    others = (ranks - 1) / ranks
    # a ring's all-reduce: reduce, then hand round, each all but a rank's own part
    gradients = 2 * others * FLOAT * sum(p.numel() for p in encoder.parameters())
    rows = ranks * spec.training.batch_size
    # both views' rows of all ranks; the equivariance term's splits stay on their rank
    embeddings = (
        2 * others * rows * spec.model.embedding * FLOAT if spec.loss.negatives == "global" else 0.0
    )
    channels = sum(m.num_features for m in encoder.modules() if isinstance(m, _BatchNorm))
    views = passes(spec)[0] if spec.bn.views == "separate" else 1.0
    # two moments forward, two sums backward, of every rank for every other
    moments = (ranks - 1) * 4 * channels * FLOAT * views if spec.bn.sync else 0.0
    seconds = (gradients + embeddings + moments) / (INSIDE if ranks <= NODE else BETWEEN)
    return Exchange(ranks, gradients, embeddings, moments, seconds, seconds / (seconds + step_s))
