"""Reader for Mistral's calls, which follow the control token `[TOOL_CALLS]`.

Up to tokenizer version 7 a JSON list, `[{"name": …, "arguments": {…}}]`; from version 11 on one call each time,
`name[ARGS]{…}`, with `[CALL_ID]…` or nothing where [ARGS] is. Source: Mistral's documentation of its tokenizers.
"""

from __future__ import annotations

import re

from pellucid.chat.readers import (
    Block,
    GrowingArguments,
    JsonReader,
    ParsedCall,
    Reader,
    Tools,
    json_object,
    known_name,
    need_more,
    skip_space,
)
from pellucid.chat.scan import Malformed, Scanner, json_scanner

OPENER = "[TOOL_CALLS]"
_HEAD = re.compile(r"([A-Za-z0-9_-]{1,64})(?:\[CALL_ID\][A-Za-z0-9_-]{0,64})?(?:\[ARGS\])?\s{0,64}(?=\{)")
_MAX_HEAD = 256  # more than it can have


class MistralReader(Reader):
    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._json: Reader | None = None
        self._head: re.Match[str] | None = None
        self._scanner: Scanner | None = None
        self._arguments: GrowingArguments | None = None

    def read(self, text: str, final: bool) -> Block | None:
        if self._json is not None:
            return self._json.read(text, final)
        start = skip_space(text, len(OPENER))
        if start == len(text):
            return need_more(final)
        if text[start] in "[{":
            self._json = JsonReader(self._tools, OPENER)
            return self._json.read(text, final)
        if self._scanner is None:
            self._head = _HEAD.match(text, start)
            if self._head is None:
                if "{" in text[start:] or len(text) - start > _MAX_HEAD:
                    raise Malformed("expected the name of a function and its arguments")
                return need_more(final)
            self._scanner = json_scanner(self._head.end())
        end = self._scanner.find_end(text)
        if end is None or self._head is None:
            return need_more(final)
        name = known_name(self._head[1], self._tools)
        return Block((ParsedCall(name, json_object(text[self._head.end() : end])),), end)

    def growing(self, text: str) -> ParsedCall | None:
        if self._json is not None:
            return self._json.growing(text)
        if self._head is None:
            return None
        if self._arguments is None:
            self._arguments = GrowingArguments(self._head[1], self._head.end())
        return self._arguments.so_far(text)
