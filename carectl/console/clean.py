"""Text for a terminal: what is shown may come from a file, and must not steer what shows it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

#: Controls (C0 without tab and line feed, DEL, C1), marks that turn the direction of writing over,
#: and halves of characters, which cannot be printed at all.
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def clean(text: str) -> str:
    """The text with a replacement character for each that would steer a terminal."""
    return _STEERING.sub("\ufffd", text)


class PlainConsole(Console):
    """A console to which a string is text: no markup, no emoji codes, nothing that steers."""

    def __init__(
        self, *, stderr: bool = False, width: int | None = None, soft_wrap: bool = False
    ) -> None:
        super().__init__(
            stderr=stderr, width=width, soft_wrap=soft_wrap,
            highlight=False, markup=False, emoji=False,
        )  # fmt: skip

    def on_broken_pipe(self) -> None:
        """Not rich's exit code 1, which here says that a job failed."""
        raise BrokenPipeError

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """As rich does it; its own steering stays, and text is cleaned once it is laid out."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=clean(segment.text))
