"""How close a training step is to what the machine allows, and how costs grow.

`measure` times the engine's own step beside its floor: the same network on ready-made tensors.
`care_core.bench.scaling` times the loss and the ranks as they grow; `care_core.bench.communication`
says on paper what more ranks than are at hand would exchange.
"""

from care_core.bench.measuring import measure
from care_core.bench.work import flops_per_image

__all__ = ["flops_per_image", "measure"]
