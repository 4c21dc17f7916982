"""How a network's convolutions lie in memory: channels last, where that is the faster way."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from care_core.spec import PretrainSpec

#: Channels from which on, and pixels a side up to which, a CPU's exception holds.
DEEP, FEW = 512, 4


def arrange(network: nn.Module, spec: PretrainSpec) -> None:
    """On a CPU, lay bf16 convolutions of many channels over few pixels channels first.

    All else lies channels last, as `models.build` makes it; call this where the network lies on
    its device, before an optimiser or DDP knows its weights. Of the last stage of a ResNet at 32
    pixels, 3×3 over 512 channels of 4×4, forward and backward took 60 ms for 256 images with the
    channels first against 84 with them last; in fp32, at 7×7 and with fewer channels there was
    nothing to win (2 cores with AVX512-BF16). What is computed is the same.
    """
    if spec.training.precision != "bf16" or not spec.model.backbone.startswith("resnet"):
        return
    if spec.image_size // (8 if spec.stem == "cifar" else 32) > FEW:
        return  # the deepest layers see more
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.in_channels >= DEEP and layer.kernel_size[0] > 1:
            if layer.weight.device.type != "cpu":
                continue
            layer.weight.data = layer.weight.data.contiguous()
            layer.register_forward_pre_hook(_channels_first)


def _channels_first(layer: nn.Module, given: tuple[Any, ...]) -> tuple[Tensor, ...] | None:
    (x,) = given
    return (x.contiguous(),) if x.shape[-1] <= FEW else None
