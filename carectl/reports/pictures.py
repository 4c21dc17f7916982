"""An SVG file as a part of a page: its names are its own, and its colours follow the page's."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from carectl.reports import drawing

#: Addresses, rules for the whole page, and what is not a drawing.
_OUTSIDE = ("metadata", "style", "script", "title", "foreignObject")


def inline(svg: Path, key: str, alt: str) -> str:
    """The picture as an <svg> element.

    Args:
        key: unique on the page; put before each name in the picture.
        alt: what is to be seen, in words.
    """
    root = ElementTree.parse(svg).getroot()
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in _OUTSIDE:
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {_local(name): value for name, value in element.attrib.items()}
        _rename(element, key)
        element.attrib = {n: v for n, v in element.attrib.items() if _drawn(n, v)}
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.attrib |= {"role": "img", "aria-label": alt, "focusable": "false"}
    text = ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)
    for name, colour in drawing.TURNED.items():
        text = re.sub(re.escape(colour), f"var(--fig-{name})", text, flags=re.IGNORECASE)
    return text


def _rename(element: ElementTree.Element, key: str) -> None:
    for name, value in element.attrib.items():
        if name == "id":
            element.attrib[name] = f"{key}-{value}"
        elif name == "href" and value.startswith("#"):
            element.attrib[name] = f"#{key}-{value[1:]}"
        elif "url(#" in value:
            element.attrib[name] = value.replace("url(#", f"url(#{key}-")


def _drawn(name: str, value: str) -> bool:
    """Whether an attribute belongs to a drawing: no handler, and no address outside the page."""
    if name == "href":
        return value.startswith(("#", "data:image/png"))
    return not name.lower().startswith("on") and not re.search(r"url\((?!#)", value)


def _local(name: str) -> str:
    return name.rsplit("}", 1)[-1]
