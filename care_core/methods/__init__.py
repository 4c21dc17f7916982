"""The methods, one file each: a module that holds the encoder and turns views into a loss."""

from __future__ import annotations

from care_core.distributed import World
from care_core.methods.simclr import SimCLR
from care_core.spec import PretrainSpec


def build(spec: PretrainSpec, world: World) -> SimCLR:
    """The method that a spec names, freshly initialised from its seed."""
    return SimCLR(spec, world)
