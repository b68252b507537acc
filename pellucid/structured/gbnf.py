r"""GBNF, llama.cpp's grammar language, to definitions.

    root ::= "yes" | "no" ("," [ \t]* reason)? # comment
    reason ::= [^\n]{1,80}

A rule goes to the end of its line; inside brackets and after `::=` and `|` lines may break. Specification: the
description in llama.cpp's grammars folder, and its parser (build 11434). What names tokens of a vocabulary (`<think>`,
`<[1000]>`, `!<…>`) is refused.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NoReturn

from pellucid.errors import UnsupportedParameter
from pellucid.structured.grammar_nodes import (
    EMPTY,
    Chars,
    Definition,
    Either,
    Name,
    Node,
    Ranges,
    Repeat,
    Sequence,
    Text,
    check,
    fail,
)
from pellucid.structured.limits import MAX_GRAMMAR_DEPTH, MAX_REPEAT

PARAM = "gbnf"
START = "root"
ANY: Ranges = ((0, 0xD7FF), (0xE000, 0x10FFFF))

_CONTROLS = {"t": "\t", "r": "\r", "n": "\n", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-"}
_HEXADECIMAL = {"x": 2, "u": 4, "U": 8}


def read_gbnf(text: str) -> dict[str, Definition]:
    """Rules by name, checked. Raises InvalidParameter and UnsupportedParameter, which name line and column."""
    rules = _Reader(text).rules()
    check(rules, START, PARAM)
    return rules


class _Reader:
    def __init__(self, source: str) -> None:
        self.source = source
        self.starts = [0, *(i + 1 for i, char in enumerate(source) if char == "\n")]  # of lines
        self.at = 0
        self.depth = 0

    def rules(self) -> dict[str, Definition]:
        found: dict[str, Definition] = {}
        self.space(lines=True)
        while self.at < len(self.source):
            place = self.place()
            name = self.name()
            self.space(lines=False)
            if not self.take("::="):
                self.fail("expected ::= after the name of a rule")
            if name in found:
                fail(PARAM, place, f"there is a rule {name[:60]!r} already")
            self.space(lines=True)
            found[name] = Definition(self.either(in_brackets=False), place)
            if self.at < len(self.source) and self.source[self.at] not in "\r\n":
                self.fail("expected the end of the line" if self.source[self.at] != ")" else "a ) without its (")
            self.space(lines=True)
        return found

    def either(self, *, in_brackets: bool) -> Node:
        options = [self.sequence(in_brackets)]
        while self.bar():
            self.space(lines=True)
            options.append(self.sequence(in_brackets))
        return options[0] if len(options) == 1 else Either(tuple(options))

    def bar(self) -> bool:
        """Takes a |, which may also begin the next line."""
        before = self.at
        self.space(lines=True)
        if self.take("|"):
            return True
        self.at = before
        return False

    def sequence(self, in_brackets: bool) -> Node:
        parts: list[Node] = []
        while self.at < len(self.source) and self.source[self.at] not in "|)\r\n":
            part = self.item()
            self.space(lines=in_brackets)
            if (counted := self.repeated(part)) is not None:
                part = counted
                self.space(lines=in_brackets)
                if self.at < len(self.source) and self.source[self.at] in "*+?{":
                    self.fail("a repetition of a repetition; put the inner one into brackets")
            parts.append(part)
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts)) if parts else EMPTY

    def item(self) -> Node:
        char = self.source[self.at]
        if char in "<!":
            raise UnsupportedParameter(
                PARAM, f"line {self.place()[0]}, column {self.place()[1]}: tokens cannot be named"
            )
        if char in "*+?{":
            self.fail(f"{char!r} has nothing before it to repeat")
        if self.take('"'):
            return Text(self.quoted())
        if self.take("["):
            return Chars(self.char_class())
        if self.take("."):
            return Chars(ANY)
        if self.take("("):
            self.depth += 1
            if self.depth > MAX_GRAMMAR_DEPTH:
                self.fail(f"brackets are more than {MAX_GRAMMAR_DEPTH} deep")
            self.space(lines=True)
            node = self.either(in_brackets=True)
            if not self.take(")"):
                self.fail("expected )")
            self.depth -= 1
            return node
        place = self.place()
        return Name(self.name(), place)

    def repeated(self, part: Node) -> Node | None:
        if self.take("*"):
            return Repeat(part, 0, None)
        if self.take("+"):
            return Repeat(part, 1, None)
        if self.take("?"):
            return Repeat(part, 0, 1)
        if not self.take("{"):
            return None
        self.space(lines=True)
        low = self.count()
        high: int | None = low
        if self.take(","):
            self.space(lines=True)
            high = self.count() if self.at < len(self.source) and self.source[self.at].isdigit() else None
        if not self.take("}"):
            self.fail("expected a repetition such as {2}, {2,} or {2,5}")
        if high is not None and high < low:
            self.fail(f"the repetition ends at {high}, below its start {low}")
        return Repeat(part, low, high)

    def count(self) -> int:
        start = self.at
        while self.at < len(self.source) and self.source[self.at] in "0123456789":
            self.at += 1
        digits = self.source[start : self.at]
        if not digits:
            self.fail("expected a number")
        if len(digits) > 9 or int(digits) > MAX_REPEAT:
            self.fail(f"a repetition counts to {MAX_REPEAT:,} at most")
        self.space(lines=True)
        return int(digits)

    def quoted(self) -> str:
        chars = []
        while not self.take('"'):
            chars.append(self.char())
        return "".join(chars)

    def char_class(self) -> Ranges:
        negated = self.take("^")
        ranges = []
        while not self.take("]"):
            low = high = ord(self.char())
            if self.source.startswith("-", self.at) and not self.source.startswith("-]", self.at):
                self.at += 1
                high = ord(self.char())
                if high < low:
                    self.fail("the ends of a range are two characters, the smaller one first")
            ranges.append((low, high))
        if not ranges:
            self.fail("an empty class")
        return inverse(ranges) if negated else inverse(list(inverse(ranges)))

    def char(self) -> str:
        """A character of a text or class. Either may hold line ends."""
        if self.at >= len(self.source):
            self.fail("it ends in the middle")
        char, self.at = self.source[self.at], self.at + 1
        if char != "\\":
            return char
        kind = self.source[self.at : self.at + 1]
        self.at += 1
        if kind in _HEXADECIMAL:
            digits = self.source[self.at : self.at + _HEXADECIMAL[kind]]
            if len(digits) < _HEXADECIMAL[kind] or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
                self.fail(f"expected {_HEXADECIMAL[kind]} hexadecimal digits")
            self.at += len(digits)
            code = int(digits, 16)
            if code > 0x10FFFF or 0xD800 <= code < 0xE000:
                self.fail(f"U+{code:04X} is no character")
            return chr(code)
        if kind not in _CONTROLS or not kind:
            self.fail(f"there is no escape \\{kind}")
        return _CONTROLS[kind]

    def name(self) -> str:
        start = self.at
        while self.at < len(self.source) and (self.source[self.at].isalnum() or self.source[self.at] == "-"):
            if not self.source[self.at].isascii():
                break
            self.at += 1
        if self.at == start:
            self.fail(f"unexpected {self.source[start : start + 1]!r}; expected a name, a text or a class")
        return self.source[start : self.at]

    def space(self, *, lines: bool) -> None:
        while self.at < len(self.source):
            char = self.source[self.at]
            if char == "#":
                while self.at < len(self.source) and self.source[self.at] not in "\r\n":
                    self.at += 1
            elif char in " \t" or (lines and char in "\r\n"):
                self.at += 1
            else:
                return

    def take(self, text: str) -> bool:
        found = self.source.startswith(text, self.at)
        self.at += len(text) * found
        return found

    def place(self) -> tuple[int, int]:
        line = bisect_right(self.starts, self.at)
        return line, self.at - self.starts[line - 1] + 1

    def fail(self, reason: str) -> NoReturn:
        fail(PARAM, self.place(), reason)


def inverse(ranges: list[tuple[int, int]]) -> Ranges:
    """All other characters."""
    found, start = [], 0
    for low, high in sorted([*ranges, (0xD800, 0xDFFF), (0x110000, 0x110000)]):
        if low > start:
            found.append((start, low - 1))
        start = max(start, high + 1)
    return tuple(found)
