"""Which models timm has, read from its source: to import it costs seconds, and torch."""

from __future__ import annotations

import difflib
import functools
import re
from importlib.util import find_spec
from pathlib import Path


def known(backbone: str) -> str:
    """The backbone itself, `timm/NAME`, if timm can have such a model.

    Lenient where it cannot tell: any name that timm's source has as a word passes, and all do where
    there is no source. Building the model judges for good.

    Raises:
        ValueError: timm has no model of that name; says what comes close.
    """
    name = backbone.removeprefix("timm/").partition(".")[0]  # a tag of weights may follow
    if not _source() or re.search(rf"\b{re.escape(name)}\b", _source()):
        return backbone
    models = re.findall(r"@register_model\s+def (\w+)\(", _source())
    near = difflib.get_close_matches(name, models, 1)
    hint = f", did you mean timm/{near[0]}?" if near else "; timm.list_models() names them"
    raise ValueError(f"timm has no model '{name}'{hint}")


@functools.cache
def _source() -> str:
    """The text of timm's model files."""
    found = find_spec("timm")
    folders = found.submodule_search_locations if found else None
    files = (path for folder in folders or () for path in Path(folder, "models").glob("*.py"))
    return "\n".join(path.read_text(errors="replace") for path in sorted(files))
