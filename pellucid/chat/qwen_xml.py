"""Reader for Qwen3-Coder's calls: `<function=name><parameter=key>value</parameter></function>`.

Values are plain text without escapes; what they mean depends on the type in the function's schema. Source: the model's
chat template and documentation, 2025.
"""

from __future__ import annotations

import json
from typing import Any

from pellucid.chat.readers import Block, ParsedCall, Reader, Tools, closed_at, known_name, need_more, skip_space
from pellucid.chat.scan import Malformed, parse_json

_FUNCTION = "<function="
_PARAMETER = "<parameter="
_END_PARAMETER = "</parameter>"
_END_FUNCTION = "</function>"
_MAX_NAME = 256


class XmlReader(Reader):
    """One `<function=…>` element, inside `<tool_call>` or, as the model sometimes writes it, without."""

    def __init__(self, tools: Tools, opener: str = "", closer: str = "") -> None:
        self._tools = tools
        self._opener = opener
        self._closer = closer
        self._position = 0
        self._name: str | None = None
        self._key: str | None = None
        self._value_start = 0
        self._arguments: dict[str, Any] = {}
        self._end: int | None = None

    def read(self, text: str, final: bool) -> Block | None:
        if self._name is None:
            name = self._tag(text, skip_space(text, len(self._opener)), _FUNCTION)
            if name is None:
                return need_more(final)
            self._name = known_name(name, self._tools)
        while self._end is None:
            if not (self._read_value(text) if self._key is not None else self._read_tag(text)):
                return need_more(final)
        end = closed_at(text, self._end, self._closer, final)
        if end is None:
            return None
        return Block((ParsedCall(self._name, json.dumps(self._arguments, ensure_ascii=False)),), end)

    def growing(self, text: str) -> ParsedCall | None:
        """Its parameters so far: one that is not complete has no type yet."""
        if self._name is None:
            return None
        return ParsedCall(self._name, json.dumps(self._arguments, ensure_ascii=False)[:-1])

    def _read_tag(self, text: str) -> bool:
        """The beginning of a parameter, or the end of the function; False if it is not all there."""
        start = skip_space(text, self._position)
        if text.startswith(_END_FUNCTION, start):
            self._end = start + len(_END_FUNCTION)
            return True
        if _END_FUNCTION.startswith(text[start:]):
            return False
        self._key = self._tag(text, start, _PARAMETER)
        self._value_start = self._position
        return self._key is not None

    def _read_value(self, text: str) -> bool:
        """A value ends where another parameter or the end of the function follows; it may quote an end of its own."""
        while True:
            end = text.find(_END_PARAMETER, self._position)
            if end < 0:
                self._position = max(self._position, len(text) - len(_END_PARAMETER) + 1)
                return False
            after = skip_space(text, end + len(_END_PARAMETER))
            following = text[after : after + len(_END_FUNCTION)]
            if following.startswith(_PARAMETER) or following == _END_FUNCTION:
                break
            if _PARAMETER.startswith(following) or _END_FUNCTION.startswith(following):
                self._position = end
                return False
            self._position = end + 1
        value = text[self._value_start : end].removeprefix("\n").removesuffix("\n")
        schema = self._tools[self._name or ""].parameters.get("properties", {}).get(self._key)
        self._arguments[self._key or ""] = typed_value(value, schema)
        self._key, self._position = None, after
        return True

    def _tag(self, text: str, start: int, opening: str) -> str | None:
        """The name in `<function=name>` or `<parameter=name>`, None if it is not all there; moves on behind it."""
        if not text.startswith(opening, start):
            if opening.startswith(text[start:]):
                return None
            raise Malformed(f"expected {opening}")
        end = text.find(">", start, start + _MAX_NAME)
        if end < 0:
            if len(text) - start >= _MAX_NAME:
                raise Malformed("a name without end")
            return None
        self._position = end + 1
        return text[start + len(opening) : end].strip()


def typed_value(text: str, schema: Any) -> Any:
    """What `text` stands for where a value of `schema` is expected; text itself where nothing else fits."""
    types = _types(schema)
    if not types or types - {"string"}:
        word = text.strip().lower() if text.strip() in ("True", "False", "None") else text  # as a template prints them
        try:
            value = parse_json({"none": "null"}.get(word, word))
        except Malformed:
            return text
        if not types or _type_name(value) & types:
            return value
    return text


def _types(schema: Any) -> set[str]:
    """The types that a schema names, also in its alternatives; empty if it names none."""
    if not isinstance(schema, dict):
        return set()
    named = schema.get("type", [])
    types = {named} if isinstance(named, str) else {t for t in named if isinstance(t, str)} if named else set()
    for key in ("anyOf", "oneOf"):
        alternatives = schema.get(key)
        if isinstance(alternatives, list):
            types.update(*map(_types, alternatives))
    return types


def _type_name(value: Any) -> set[str]:
    if value is None:
        return {"null"}
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int | float):
        return {"integer", "number"} if float(value).is_integer() else {"number"}
    return {"string"} if isinstance(value, str) else {"array"} if isinstance(value, list) else {"object"}
