"""Finds where a bracketed value ends in text that arrives in pieces, reading every character once."""

from __future__ import annotations

import json
import re
from typing import Any

MAX_DEPTH = 64

_CLOSERS = {"{": "}", "[": "]", "(": ")"}


class Malformed(Exception):
    """The text cannot become a call any more."""


class Scanner:
    """Looks for the end of a value that begins with a bracket.

    quotes: what opens and closes a string; in strings, brackets mean nothing. escapes: a backslash takes away the
    meaning of the character after it. allowed: the characters that may stand outside strings, as the inside of a
    regular expression's class; None for any. brackets: which ones nest.
    """

    def __init__(
        self, start: int, quotes: tuple[str, ...], *, escapes: bool, allowed: str | None = None, brackets: str = "[]{}"
    ) -> None:
        self.position = start
        self._longest = max(map(len, quotes))
        self._closers: list[str] = []
        self._quote: str | None = None
        refused = "" if allowed is None else f"|[^{allowed}]"
        self._outside = re.compile("|".join(map(re.escape, (*quotes, *brackets))) + refused)
        ends = {quote: re.escape(quote) + (r"|\\" if escapes else "") for quote in quotes}
        self._inside = {quote: re.compile(pattern) for quote, pattern in ends.items()}
        self._quotes = quotes

    def find_end(self, text: str) -> int | None:
        """Where the value ends in `text`, which only ever grows; None while it goes on. Raises Malformed."""
        while True:
            pattern = self._outside if self._quote is None else self._inside[self._quote]
            match = pattern.search(text, self.position)
            if match is None:
                # The end of the text may be the beginning of a quote, or of an escaped character.
                self.position = max(self.position, len(text) - self._longest + 1)
                return None
            found, self.position = match.group(), match.end()
            if found == "\\":
                if match.end() == len(text):
                    self.position = match.start()
                    return None
                self.position += 1
            elif self._quote is not None:
                self._quote = None
            elif found in self._quotes:
                self._quote = found
            elif found in _CLOSERS:
                self._closers.append(_CLOSERS[found])
                if len(self._closers) > MAX_DEPTH:
                    raise Malformed(f"nested more than {MAX_DEPTH} deep")
            elif not self._closers or found != self._closers.pop():
                raise Malformed(f"{found!r} is out of place")
            elif not self._closers:
                return self.position


def json_scanner(start: int) -> Scanner:
    """For a JSON object or array at `start`; characters that JSON has no place for end the search at once."""
    return Scanner(start, ('"',), escapes=True, allowed=r" \t\n\r,:.+\-A-Za-z0-9")


def parse_json(text: str, *, strict: bool = True) -> Any:
    """The value of a JSON text. Raises Malformed, also for NaN, Infinity and numbers beyond Python's limit.

    Without `strict`, strings may hold line breaks, which models forget to escape.
    """
    try:
        return json.loads(text, strict=strict, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Malformed(str(error)) from None


def members(text: str) -> dict[str, tuple[int, int]]:
    """Where the values of a valid JSON object begin and end in its text, by key."""
    decoder = json.JSONDecoder(strict=False)
    spans: dict[str, tuple[int, int]] = {}
    position = _skip(text, text.index("{") + 1)
    while text[position] == '"':
        key, position = decoder.raw_decode(text, position)
        start = _skip(text, _skip(text, position) + 1)
        _, end = decoder.raw_decode(text, start)
        spans[key] = (start, end)
        position = _skip(text, end)
        if text[position] == ",":
            position = _skip(text, position + 1)
    return spans


def items(text: str) -> list[tuple[int, int]]:
    """Where the items of a valid JSON array begin and end in its text."""
    decoder = json.JSONDecoder(strict=False)
    spans: list[tuple[int, int]] = []
    position = _skip(text, text.index("[") + 1)
    while text[position] != "]":
        _, end = decoder.raw_decode(text, position)
        spans.append((position, end))
        position = _skip(text, end)
        if text[position] == ",":
            position = _skip(text, position + 1)
    return spans


_SPACE = re.compile(r"[ \t\n\r]*")


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _refuse_constant(name: str) -> None:
    raise Malformed(f"{name} is not JSON")
