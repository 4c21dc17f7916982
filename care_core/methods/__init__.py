"""The methods, one file each: a module that holds the encoder and turns views into a loss."""

from __future__ import annotations

from typing import Any

from care_core import batchnorm
from care_core.distributed import World
from care_core.methods.barlow import BarlowTwins
from care_core.methods.base import Method
from care_core.methods.byol import BYOL
from care_core.methods.equimod import EquiMod
from care_core.methods.moco import MoCo
from care_core.methods.simclr import SimCLR
from care_core.spec import PretrainSpec, objectives
from care_core.spec.sections import Section
from care_core.views.step import Step

__all__ = ["Method", "Step", "build"]

_METHODS: dict[type[Section], Any] = {
    objectives.SimCLR: SimCLR,
    objectives.MoCo: MoCo,
    objectives.BarlowTwins: BarlowTwins,
    objectives.BYOL: BYOL,
    objectives.EquiMod: EquiMod,
}


def build(spec: PretrainSpec, world: World) -> Method:
    """The method that a spec names, freshly initialised from its seed."""
    method: Method = _METHODS[type(spec.method)](spec, world, spec.method)
    batchnorm.adopt(method, spec.bn, world)
    return method
