"""Readers for the calls of Gemma models.

Gemma 3 has no marker of its own: it answers in the form that its prompt asked for, JSON with "name" and "parameters" or
a Python list of calls, bare or in a fence such as ```` ```tool_code ````. FunctionGemma and Gemma 4 write
`call:name{key:value}` between control tokens, with texts between two more of them. Source: Google's documentation of
function calling with Gemma 3, FunctionGemma and Gemma 4.
"""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from typing import Any

from pellucid.chat.readers import (
    Block,
    JsonReader,
    ParsedCall,
    Reader,
    Tools,
    closed_at,
    json_calls,
    known_name,
    need_more,
    skip_space,
)
from pellucid.chat.scan import MAX_DEPTH, Malformed, Scanner, parse_json

_FENCE = "```"
_MAX_PYTHON = 64 << 10  # characters that Python's own parser is given


class FenceReader(Reader):
    """Python calls or JSON between a fence such as ```` ```json ```` and the next fence."""

    def __init__(self, tools: Tools, opener: str) -> None:
        self._tools = tools
        self._opener = opener
        self._position = len(opener)

    def read(self, text: str, final: bool) -> Block | None:
        end = text.find(_FENCE, self._position)
        if end < 0:
            self._position = max(len(self._opener), len(text) - len(_FENCE) + 1)
            return need_more(final)
        body = text[len(self._opener) : end].strip()
        calls = json_calls(body, self._tools) if body[:1] == "{" else list_calls(body, self._tools)
        return Block(calls, end + len(_FENCE))


class ListReader(Reader):
    """A bare list: of JSON objects, or of Python calls."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._reader: Reader | None = None
        self._scanner = Scanner(0, ('"', "'"), escapes=True, brackets="[]{}()")

    def read(self, text: str, final: bool) -> Block | None:
        if self._reader is not None:
            return self._reader.read(text, final)
        start = skip_space(text, 1)
        if start == len(text):
            return need_more(final)
        if text[start] == "{":
            self._reader = JsonReader(self._tools)
            return self._reader.read(text, final)
        self._check_name(text[start:].partition("(")[0], whole="(" in text[start:])
        end = self._scanner.find_end(text)
        return need_more(final) if end is None else Block(python_calls(text[:end], self._tools), end)

    def _check_name(self, name: str, *, whole: bool) -> None:
        """Lets a list that is no list of calls through as soon as that is clear."""
        if (
            name.rstrip() not in self._tools
            if whole
            else not any(tool.startswith(name.rstrip()) for tool in self._tools)
        ):
            raise Malformed("it names none of the tools")


def list_calls(text: str, tools: Tools) -> tuple[ParsedCall, ...]:
    """The calls of a JSON list or of Python code."""
    try:
        return json_calls(text, tools)
    except Malformed:
        return python_calls(text, tools)


def python_calls(text: str, tools: Tools) -> tuple[ParsedCall, ...]:
    """The calls in `f(a=1)`, `print(f(a=1))`, `[f(a=1), g()]` or several lines of these. Nothing is evaluated."""
    if len(text) > _MAX_PYTHON or sum(map(text.count, "([{")) > MAX_DEPTH * 16 or _depth(text) > MAX_DEPTH:
        raise Malformed("too long or too deep")
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Malformed(f"not Python: {error}") from None
    calls: list[ParsedCall] = []
    for statement in body:
        if not isinstance(statement, ast.Expr):
            raise Malformed("expected calls")
        value = statement.value
        items = value.elts if isinstance(value, ast.List) else [value]
        calls += [_python_call(item, tools) for item in items]
    if not calls:
        raise Malformed("expected calls")
    return tuple(calls)


def _python_call(node: ast.expr, tools: Tools) -> ParsedCall:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise Malformed("expected a call")
    if node.func.id == "print" and "print" not in tools and len(node.args) == 1 and not node.keywords:
        return _python_call(node.args[0], tools)
    name = known_name(node.func.id, tools)
    keys = list(tools[name].parameters.get("properties", {}))
    arguments: dict[str, Any] = {}
    if len(node.args) > len(keys):
        raise Malformed("more arguments than the function has")
    for key, value in zip(keys, node.args, strict=False):
        arguments[key] = _literal(value)
    for keyword in node.keywords:
        if keyword.arg is None or keyword.arg in arguments:
            raise Malformed("expected each argument once, by name")
        arguments[keyword.arg] = _literal(keyword.value)
    try:
        return ParsedCall(name, json.dumps(arguments, ensure_ascii=False, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise Malformed(str(error)) from None


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Name) and node.id in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[node.id]
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise Malformed(f"not a value: {error}") from None


def _depth(text: str) -> int:
    depth = deepest = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    return deepest


@dataclass(frozen=True)
class CallTokens:
    """The control tokens of a Gemma that has them: around a call, around a text, and what begins a tool's answer."""

    opener: str
    closer: str
    quote: str
    response: str


FUNCTION_GEMMA = CallTokens("<start_function_call>", "<end_function_call>", "<escape>", "<start_function_response>")
GEMMA4 = CallTokens("<|tool_call>", "<tool_call|>", '<|"|>', "<|tool_response>")
_CALL = "call:"


class CallReader(Reader):
    """`call:name{key:value,…}`, or JSON, between two control tokens."""

    def __init__(self, tools: Tools, tokens: CallTokens) -> None:
        self._tools = tools
        self._tokens = tokens
        self._json: Reader | None = None
        self._scanner: Scanner | None = None
        self._name = ""
        self._body = 0
        self._end: int | None = None

    def read(self, text: str, final: bool) -> Block | None:
        if self._json is not None:
            return self._json.read(text, final)
        start = skip_space(text, len(self._tokens.opener))
        if self._scanner is None:
            if text[start : start + 1] == "{":
                self._json = JsonReader(self._tools, self._tokens.opener, self._tokens.closer)
                return self._json.read(text, final)
            brace = text.find("{", start)
            if brace < 0:
                self._check_head(text[start:])
                return need_more(final)
            if not text.startswith(_CALL, start):
                raise Malformed(f"expected {_CALL}")
            self._name = known_name(text[start + len(_CALL) : brace].rstrip(), self._tools)
            self._body = brace
            self._scanner = Scanner(brace, (self._tokens.quote,), escapes=False)
        if self._end is None:
            self._end = self._scanner.find_end(text)
            if self._end is None:
                return need_more(final)
        end = closed_at(text, self._end, self._tokens.closer, final)
        if end is None:
            return None
        value = _Values(text[self._body : self._end], self._tokens.quote).whole()
        return Block((ParsedCall(self._name, json.dumps(value, ensure_ascii=False)),), end)

    def growing(self, text: str) -> ParsedCall | None:
        return None if self._json is None else self._json.growing(text)

    def _check_head(self, head: str) -> None:
        """Lets text that is no call through as soon as that is clear."""
        if not (_CALL.startswith(head) or any(f"{_CALL}{tool}".startswith(head.rstrip()) for tool in self._tools)):
            raise Malformed("it names none of the tools")


class _Values:
    """The values of `{key:value,…}`; its brackets are known to match and not to nest too deep."""

    def __init__(self, text: str, quote: str) -> None:
        self._text = text
        self._quote = quote
        self._position = 0

    def whole(self) -> dict[str, Any]:
        value = self._object()
        if self._position != len(self._text):
            raise Malformed("brackets are out of place")
        return value

    def _object(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        self._position += 1
        while not self._skip_to("}"):
            key = self._quoted() if self._text.startswith(self._quote, self._position) else self._bare(":")
            if self._text[self._position : self._position + 1] != ":":
                raise Malformed("expected a colon after a key")
            self._position += 1
            values[key.strip('"')] = self._value()
        return values

    def _list(self) -> list[Any]:
        values = []
        self._position += 1
        while not self._skip_to("]"):
            values.append(self._value())
        return values

    def _skip_to(self, closer: str) -> bool:
        """Past a comma and white space; True, and past the closer, when it is there."""
        while self._text[self._position] in ", \t\r\n":
            self._position += 1
        if self._text[self._position] != closer:
            return False
        self._position += 1
        return True

    def _value(self) -> Any:
        self._position = skip_space(self._text, self._position)
        if self._text.startswith(self._quote, self._position):
            return self._quoted()
        if self._text[self._position] == "{":
            return self._object()
        if self._text[self._position] == "[":
            return self._list()
        word = self._bare(",")
        try:
            return parse_json(word)
        except Malformed:
            return word

    def _quoted(self) -> str:
        start = self._position + len(self._quote)
        end = self._text.index(self._quote, start)
        self._position = end + len(self._quote)
        return self._text[start:end]

    def _bare(self, ends: str) -> str:
        start = self._position
        while self._position < len(self._text) and self._text[self._position] not in ends + "{}[]":
            self._position += 1
        word = self._text[start : self._position].strip()
        if not word:
            raise Malformed("a key or value is missing")
        return word
