"""The engine's contract: what determines a pretraining run and its evaluation.

Torch-free on purpose, so that a command line can validate a spec in milliseconds: `sections`,
`objectives` and `launch` are a spec's parts, `pretrain` and `probe` put them together.
"""

from care_core.spec.objectives import (
    BYOL,
    BarlowTwins,
    EquiMod,
    Equivariance,
    Loss,
    Method,
    MoCo,
    SimCLR,
)
from care_core.spec.pretrain import PretrainSpec
from care_core.spec.probe import USUAL_KINDS, ProbeSpec, probe_kinds
from care_core.spec.probe_sections import LinearProbe, Probe
from care_core.spec.sections import (
    Augment,
    BatchNorm,
    Checkpoint,
    Data,
    Log,
    Model,
    Monitor,
    Optimizer,
    Schedule,
    Section,
    Seed,
    Training,
)

__all__ = [
    "BYOL",
    "NUMERICS",
    "USUAL_KINDS",
    "Augment",
    "BarlowTwins",
    "BatchNorm",
    "Checkpoint",
    "Data",
    "EquiMod",
    "Equivariance",
    "LinearProbe",
    "Log",
    "Loss",
    "Method",
    "MoCo",
    "Model",
    "Monitor",
    "Optimizer",
    "PretrainSpec",
    "Probe",
    "ProbeSpec",
    "Schedule",
    "Section",
    "Seed",
    "SimCLR",
    "Training",
    "probe_kinds",
]  # fmt: skip

#: Raised whenever a computed function changes, so that old results are not taken for new ones.
NUMERICS = 2
