"""Readers: each takes the text of one tool call, from its marker on, until it has the call or knows there is none.

A reader is asked again with more of the same text until it answers. What it answers depends on the text alone, never on
how the text was cut, and it looks at every character a bounded number of times.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pellucid.chat.scan import Malformed, Scanner, items, json_scanner, members, parse_json
from pellucid.chat.tools import Tool

Tools = Mapping[str, Tool]
"""Those that may be called, by name."""

SPACE = " \t\r\n"
_ARGUMENT_KEYS = ("arguments", "parameters")
_FIRST_KEYS = {"name", "arguments", "parameters", "type", "id", "function"}
_FIRST_KEY = re.compile(r'[\[{\s]*"((?:[^"\\]|\\.)*)"')

_HEAD = re.compile(r'\s*(?:\[\s*)?\{\s*"name"\s*:\s*"([^"\\]*)"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')


@dataclass(frozen=True)
class ParsedCall:
    """A complete call: the name of one of the tools, and the text of a JSON object."""

    name: str
    arguments: str


@dataclass(frozen=True)
class Block:
    """The calls that were found, and how many characters of the text they took."""

    calls: tuple[ParsedCall, ...]
    end: int


class Reader(ABC):
    """Reads one block. `text` is the same at each call, but longer."""

    @abstractmethod
    def read(self, text: str, final: bool) -> Block | None:
        """The block that `text` begins with; None while more text is needed, never when it is `final`.

        Raises Malformed when the text is no call of one of the tools.
        """

    def growing(self, text: str) -> ParsedCall | None:
        """The call that `read` is still waiting for, with the arguments so far, if its name is known."""
        return None


class JsonReader(Reader):
    """A JSON object or list of objects, between two markers that may both be empty.

    The end marker is taken if it is there; models leave it away, so that it may also be missing.
    """

    def __init__(self, tools: Tools, opener: str = "", closer: str = "") -> None:
        self._tools = tools
        self._opener = opener
        self._closer = closer
        self._end: int | None = None
        self._scanner: Scanner | None = None
        self._checked_key = False
        self._arguments: GrowingArguments | None = None

    def read(self, text: str, final: bool) -> Block | None:
        start = skip_space(text, len(self._opener))
        if start == len(text):
            return need_more(final)
        if self._scanner is None:
            if text[start] not in "{[":
                raise Malformed("expected a JSON object")
            self._scanner = json_scanner(start)
        if not self._checked_key and (match := _FIRST_KEY.match(text, start)):
            self._checked_key = True
            if match[1] not in _FIRST_KEYS:  # a JSON answer, not a call: let it through as soon as that is clear
                raise Malformed(f"{match[1]!r} is no part of a call")
        if self._end is None:
            self._end = self._scanner.find_end(text)
            if self._end is None:
                return need_more(final)
        end = closed_at(text, self._end, self._closer, final)
        return None if end is None else Block(json_calls(text[start : self._end], self._tools), end)

    def growing(self, text: str) -> ParsedCall | None:
        if self._arguments is None:
            match = _HEAD.match(text, len(self._opener))
            if match is None:
                return None
            self._arguments = GrowingArguments(match[1], match.end())
        return self._arguments.so_far(text)


class GrowingArguments:
    """The arguments of a call while they are written: those of `name`, from `start` on."""

    def __init__(self, name: str, start: int) -> None:
        self._name = name
        self._start = start
        self._scanner = json_scanner(start)
        self._end: int | None = None

    def so_far(self, text: str) -> ParsedCall:
        if self._end is None:
            self._end = self._scanner.find_end(text)
        return ParsedCall(self._name, text[self._start : self._end])


def json_calls(text: str, tools: Tools) -> tuple[ParsedCall, ...]:
    """The calls of a JSON object, or of a list of one or more of them. Raises Malformed."""
    value = parse_json(text, strict=False)
    if isinstance(value, dict):
        return (_json_call(text, value, tools),)
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        raise Malformed("expected an object, or a list of objects")
    return tuple(
        _json_call(text[start:end], item, tools) for (start, end), item in zip(items(text), value, strict=True)
    )


def _json_call(text: str, value: dict[str, Any], tools: Tools) -> ParsedCall:
    if isinstance(value.get("function"), dict) and "name" not in value:  # OpenAI's form of a call
        value = value["function"]
        text = json.dumps(value, ensure_ascii=False)
    name = known_name(value.get("name"), tools)
    for key in _ARGUMENT_KEYS:
        if isinstance(value.get(key), dict):
            start, end = members(text)[key]
            return ParsedCall(name, json_object(text[start:end]))
        if isinstance(value.get(key), str):
            return ParsedCall(name, json_object(value[key]))
    if any(value.get(key) is not None for key in _ARGUMENT_KEYS):
        raise Malformed("the arguments are not an object")
    return ParsedCall(name, "{}")


def json_object(text: str) -> str:
    """`text` if it is a JSON object; put right if only line breaks in strings are wrong. Raises Malformed."""
    try:
        value = parse_json(text)
    except Malformed:
        value = parse_json(text, strict=False)
        text = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict):
        raise Malformed("the arguments are not an object")
    return text


def known_name(name: object, tools: Tools) -> str:
    if not isinstance(name, str) or name not in tools:
        raise Malformed("it names none of the tools")
    return name


def need_more(final: bool) -> Block | None:
    """For a reader that has not seen the end of its call. Raises Malformed when no more will come."""
    if final:
        raise Malformed("the answer ends inside the call")
    return None


def skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in SPACE:
        position += 1
    return position


def closed_at(text: str, position: int, closer: str, final: bool) -> int | None:
    """Where the closer that may follow ends, or `position` if it does not follow; None while that is not clear."""
    if not closer:
        return position
    start = skip_space(text, position)
    rest = text[start : start + len(closer)]
    if rest == closer:
        return start + len(closer)
    if not closer.startswith(rest):
        return position
    return len(text) if final else None
