"""JSON pointers: where in a schema a keyword stands, for references and for messages.

Specification: RFC 6901; percent-encoding as in URI fragments.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

TOP = "#"


def escape(part: str) -> str:
    return part.replace("~", "~0").replace("/", "~1")


def unescape(part: str) -> str:
    return unquote(part).replace("~1", "/").replace("~0", "~")


def look_up(root: Any, pointer: str) -> Any:
    """What `pointer`, such as #/$defs/name, points to within `root`. Raises KeyError where nothing is there."""
    value = root
    for part in pointer.split("/")[1:]:
        name = unescape(part)
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdecimal() and str(int(name[:6])) == name and int(name) < len(value):
            value = value[int(name)]
        else:
            raise KeyError(pointer)
    return value


def normalised(reference: str) -> str:
    """A reference within the document (# or #/…) with each part spelt in the one way that `escape` spells it."""
    if reference in (TOP, "#/"):
        return TOP
    return "#/" + "/".join(escape(unescape(part)) for part in reference[2:].split("/"))


def property_of(pointer: str) -> str:
    """The name of the property that the keyword at `pointer` is about; "*" where it may be about any."""
    parts = pointer.split("/")[1:-1]
    for i in range(len(parts) - 1, 0, -1):
        if parts[i - 1] == "properties":
            return parts[i]
        if parts[i] == "items" or parts[i - 1] in ("prefixItems", "items"):
            return "[]"
        if parts[i - 1] == "patternProperties" or parts[i] == "additionalProperties":
            return "*"
    return "*"


def shortened(pointer: str) -> str:
    return pointer if len(pointer) <= 120 else f"{pointer[:60]}…{pointer[-50:]}"
