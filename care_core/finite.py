"""Steps that are not finite: found on the device and left out there, told when somebody asks.

A NaN in one update would be in every weight after it, and the host hears of it many steps later.
So each step is judged where it is computed: a bad one changes nothing, and its number is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

#: So many bad steps in a row are no accident: nothing is learnt any more.
ALL_BAD = 100

_WHOLE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Undo:
    """Takes back what was done to some tensors since `remember`, where a flag says so.

    The flag stays on the device. Bits are mixed as whole numbers (NaN times 0 is NaN): with a flag
    of 0 every tensor keeps what it holds, bitwise.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        groups: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            bits = tensor.detach().view(_WHOLE[tensor.element_size()])
            groups.setdefault(bits.dtype, []).append(bits)
        self.now = list(groups.values())
        self.then = [[torch.empty_like(bits) for bits in group] for group in self.now]

    def remember(self) -> None:
        """Copy what they hold."""
        for now, then in zip(self.now, self.then, strict=True):
            torch._foreach_copy_(then, now)

    def back(self, flag: Tensor) -> None:
        """Put the copies in their place if the flag, 0-d, is 1; once for each `remember`."""
        for now, then in zip(self.now, self.then, strict=True):
            torch._foreach_sub_(then, now)
            torch._foreach_mul_(then, flag.to(then[0].dtype))
            torch._foreach_add_(now, then)


class Guard:
    """Judges each step, and keeps count. Alike on every rank, and no line of it waits.

    A step is bad if the loss of a rank is not finite, or a gradient: a finite loss can have one (a
    norm at 0), and of a NaN in the loss it is what does the harm. The gradients are searched for
    an element that is not finite, as fp16's scaler does: a norm would overflow on large ones that
    are finite. They are the ranks' mean, so ranks agree on them; on the loss they are told.

    In fp16 a gradient overflows now and then because the loss is scaled. That is for the scaler to
    mend, and no fault as long as it has a scale to lower.
    """

    def __init__(self, kept: Iterable[Tensor], device: torch.device) -> None:
        """`kept`: what a step changes beside what the optimiser does."""
        self.undo = Undo(kept)
        none = torch.zeros((), dtype=torch.int64, device=device)
        self.first = none.clone()  #: this process's first bad step, from 1; 0: none
        self.skipped = none.clone()  #: how many steps of the run were bad
        self.row = none.clone()  #: how many of them lie behind without a good one
        self.terms: Tensor | None = None  #: the first bad step's
        self.names: tuple[str, ...] = ()
        self.one = torch.ones((), device=device)

    def judge(
        self,
        number: Tensor,
        terms: Mapping[str, Tensor],
        lost: Tensor,
        gradients: list[Tensor],
        scale: Tensor,
    ) -> Tensor:
        """Whether a step is bad: a 0-d float of 1 or 0, such as optimisers take as `found_inf`.

        Args:
            number: steps before this one; 0-d, on the device.
            terms: the loss and its terms.
            lost: whether the loss of any rank is not finite; 0-d, 1 or 0.
            gradients: of what is trained; they stay as they are.
            scale: of the loss, 0-d; 1 but in fp16.
        """
        found = torch.zeros_like(self.one)
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, found, self.one)
        bad = torch.maximum(found * (scale <= 1), lost)
        shot = torch.stack(list(terms.values()))
        self.names = tuple(terms)
        if self.terms is None:
            self.terms = shot.clone()
        self.terms.copy_(torch.where(self.first > 0, self.terms, shot))
        so = bad > 0
        self.first += so * (self.first == 0) * (number + 1)
        self.skipped += so
        self.row.add_(1).mul_(so)
        return bad

    def counts(self) -> list[Tensor]:
        """`first`, `skipped` and `row`, on the device, in float64 (to be read beside the terms)."""
        return [count.double() for count in (self.first, self.skipped, self.row)]


def finding(step: int, names: Sequence[str], terms: Sequence[Sequence[float]]) -> str:
    """What was not finite at a step: the loss, by which terms and on which rank, or the gradient.

    Args:
        terms: of each rank, in the order of `names`.
    """
    for rank, values in enumerate(terms):
        found = dict(zip(names, values, strict=True))
        if not math.isfinite(found["loss"]):
            parts = [
                name for name, value in found.items()
                if name != "loss" and not math.isfinite(value)
            ]  # fmt: skip
            where = f" on rank {rank}" if len(terms) > 1 else ""
            made = f" ({', '.join(parts)})" if parts else ""
            return f"the loss is {found['loss']} at step {step}{where}{made}"
    loss = dict(zip(names, terms[0], strict=True))["loss"]
    return f"the gradient is not finite at step {step}, though the loss is {loss:.6g}"
