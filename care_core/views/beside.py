"""Work that a GPU does beside the step before: the next step's images are augmented meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from care_core.views.step import Step


class Beside:
    """Makes steps on a stream of their own. On a CPU there is one stream, and nothing to do.

    The process is ahead of its GPU: when it asks for a step, the one before has been launched but
    not done. Launched on a second stream, augmenting waits for none of it; the first stream waits
    for what is augmented, and the process for neither.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        if self.stream:  # images that are resident there were sent on the first stream
            self.stream.wait_stream(torch.cuda.current_stream(device))

    def make(self, made: Callable[..., Step], *given: Any) -> Step:
        """`made(*given)`, ready for the present stream."""
        if self.stream is None:
            return made(*given)
        with torch.cuda.stream(self.stream):
            step = made(*given)
        present = torch.cuda.current_stream(self.device)
        present.wait_stream(self.stream)
        for tensor in step.tensors:
            tensor.record_stream(present)  # or its memory would be reused while it is still read
        return step
