"""Calls that are not JSON, as elements of a structural tag: Qwen's `<parameter=…>` and Gemma's `call:name{key:value}`.

Each holds arguments to as much of JSON Schema as its reader gives back exactly; for a schema that says more there is
None, and the call is written as JSON between the same markers, which the readers take as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from pellucid.chat.qwen_xml import typed_value

Element = dict[str, Any]
Part = str | Element
"""Text, which may be a control token, or an element."""

_ANNOTATIONS = frozenset({"title", "description", "default", "examples"})
_OBJECT_KEYWORDS = _ANNOTATIONS | {"type", "properties", "required", "additionalProperties"}
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_SCALARS = frozenset({"integer", "number", "boolean", "null"})
_MAX_MEMBERS = 24
_MAX_DEPTH = 3


class _NotExact(Exception):
    """The style cannot hold a value to its schema."""


def const(text: str) -> Element:
    return {"type": "const_string", "value": text}


def sequence(*elements: Element) -> Element:
    return {"type": "sequence", "elements": list(elements)}


def either(*elements: Element) -> Element:
    return {"type": "or", "elements": list(elements)}


def xml_call(name: str, parameters: Mapping[str, Any]) -> list[Part] | None:
    """`<function=name>` with a `<parameter=key>` for each argument; see qwen_xml.py."""
    try:
        required, optional = _members(parameters, _xml_value)
    except _NotExact:
        return None
    written = [_xml_parameter(*item) for item in required]
    written += [either(const(""), _xml_parameter(*item)) for item in optional]
    return [f"<function={name}>\n", *written, "</function>"]


def braces_call(name: str, parameters: Mapping[str, Any], quote: Part) -> list[Part] | None:
    """`call:name{key:value,…}`, with texts between two `quote`s (a text or a token); see gemma.py."""
    try:
        return [f"call:{name}", _braces_object(parameters, quote, 0)]
    except _NotExact:
        return None


def _members(
    parameters: Mapping[str, Any], write: Callable[[dict[str, Any]], Element]
) -> tuple[list[tuple[str, Element]], list[tuple[str, Element]]]:
    """(Key, value) of the members that must be there, and of those that may. Raises _NotExact."""
    properties, required = parameters.get("properties", {}), parameters.get("required", [])
    if not (parameters.keys() <= _OBJECT_KEYWORDS and isinstance(properties, dict) and isinstance(required, list)):
        raise _NotExact
    if isinstance(parameters.get("additionalProperties"), dict) or len(properties) > _MAX_MEMBERS:
        raise _NotExact
    if not all(_KEY.fullmatch(key) for key in properties) or any(key not in list(properties) for key in required):
        raise _NotExact
    written = {key: write(_plain(schema)) for key, schema in properties.items()}
    return (
        [(key, value) for key, value in written.items() if key in required],
        [(key, value) for key, value in written.items() if key not in required],
    )


def _plain(schema: Any) -> dict[str, Any]:
    """A schema without what only describes. Raises _NotExact."""
    if not isinstance(schema, dict):
        raise _NotExact
    return {name: value for name, value in schema.items() if name not in _ANNOTATIONS}


def _values(schema: Mapping[str, Any]) -> list[Any] | None:
    """The only values, texts or other scalars, that a schema allows; None if it does not list them."""
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if len(schema.keys() & {"enum", "const"}) != 1 or not isinstance(values, list) or not values:
        return None
    if schema.keys() <= {"enum", "const"} and all(isinstance(value, str | int | None) for value in values):
        return values
    if schema.get("type") == "string" and len(schema) == 2 and all(isinstance(value, str) for value in values):
        return values
    return None


def _xml_parameter(key: str, value: Element) -> Element:
    return sequence(const(f"<parameter={key}>\n"), value)


def _xml_value(schema: dict[str, Any]) -> Element:
    """A value and the end of its element."""
    end = "</parameter>"
    if schema in ({}, {"type": "string"}):
        return sequence({"type": "tag", "begin": "", "content": {"type": "any_text"}, "end": end}, const("\n"))
    if (values := _values(schema)) is not None:
        texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
        for text, value in zip(texts, values, strict=True):
            if typed_value(text, schema) != value or end in text or text != text.strip("\n"):
                raise _NotExact
        return sequence(either(*map(const, texts)), const(f"\n{end}\n"))
    kind = schema.get("type")
    if not isinstance(kind, str) or kind not in {*_SCALARS, "array", "object"} or "$ref" in json.dumps(schema):
        raise _NotExact
    return sequence({"type": "json_schema", "json_schema": schema}, const(f"\n{end}\n"))


def _braces_object(schema: Mapping[str, Any], quote: Part, depth: int) -> Element:
    if depth > _MAX_DEPTH:
        raise _NotExact
    required, optional = _members(schema, lambda value: _braces_value(value, quote, depth + 1))
    must = [sequence(const(key + ":"), value) for key, value in required]
    may = [sequence(const(key + ":"), value) for key, value in optional]
    if must:
        following = [sequence(const(","), member) for member in must[1:]]
        inside = sequence(must[0], *following, *_maybe(may))
    else:
        inside = either(const(""), *(sequence(member, *_maybe(may[i + 1 :])) for i, member in enumerate(may)))
    return sequence(const("{"), inside, const("}"))


def _maybe(members: list[Element]) -> list[Element]:
    return [either(const(""), sequence(const(","), member)) for member in members]


def _braces_value(schema: dict[str, Any], quote: Part, depth: int) -> Element:
    edge = const(quote) if isinstance(quote, str) else quote
    text = {"type": "tag", "begin": quote, "content": {"type": "any_text"}, "end": quote}
    if schema == {}:
        return either(text, {"type": "json_schema", "json_schema": {"type": sorted(_SCALARS)}})
    if schema == {"type": "string"}:
        return text
    if (values := _values(schema)) is not None:
        if any(isinstance(value, str) and "<" in value for value in values):  # it might be the quote
            raise _NotExact
        return either(*(sequence(edge, const(v), edge) if isinstance(v, str) else const(json.dumps(v)) for v in values))
    kind = schema.get("type")
    if kind == "object" and (schema.get("properties") or schema.get("additionalProperties") is False):
        return _braces_object(schema, quote, depth)
    if kind == "array" and schema.keys() <= {"type", "items"} and depth <= _MAX_DEPTH:
        item = _braces_value(_plain(schema.get("items", {})), quote, depth + 1)
        tag = {"type": "tag", "begin": "", "content": item, "end": ""}
        return sequence(const("["), {"type": "tags_with_separator", "tags": [tag], "separator": ","}, const("]"))
    if isinstance(kind, str) and kind in _SCALARS:
        return {"type": "json_schema", "json_schema": schema}
    raise _NotExact
