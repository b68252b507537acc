r"""Lark grammars to definitions.

    start: greeting " " NAME ("," NAME)*
    greeting: "hello" | "bye"
    NAME: /[A-Z][a-z]+/
    %ignore / /

What only shapes Lark's parse trees (`?rule`, `!rule`, `-> alias`) is passed over, since it changes no text. `%json {…}`
stands for a value of that schema. All else that is not in this file is refused by name: priorities, templates,
%declare, %override, %extend, & and ~ between terminals, and what llguidance adds to the language (attributes,
special tokens, nested grammars). Specification: the grammar reference of Lark 1.x; regular expressions as in regex.py.
"""

from __future__ import annotations

import json
import re
from typing import NoReturn

from pellucid.errors import InvalidParameter, UnsupportedParameter
from pellucid.structured.grammar_nodes import (
    EMPTY,
    Chars,
    Definition,
    Either,
    Expression,
    Name,
    Node,
    Repeat,
    Schema,
    Sequence,
    Text,
    check,
    fail,
)
from pellucid.structured.json_schema import prepare_schema
from pellucid.structured.json_text import parse_json
from pellucid.structured.lark_tokens import COMMON, CONTROLS, ESCAPES, TOKENS
from pellucid.structured.limits import MAX_GRAMMAR_DEPTH, MAX_GRAMMAR_NBYTES, MAX_REPEAT
from pellucid.structured.regex import literal, translate_sized

PARAM = "grammar"
START = "start"


def read_lark(text: str) -> tuple[dict[str, Definition], tuple[Node, ...]]:
    """Rules and terminals by name, checked, and what %ignore names.

    Raises InvalidParameter and UnsupportedParameter, which name line and column.
    """
    reader = _Reader(text)
    reader.read()
    check(reader.definitions, START, PARAM)
    for node in reader.ignored:
        check({**reader.definitions, "%ignore": Definition(node, (1, 1), True)}, START, PARAM)
    return reader.definitions, tuple(reader.ignored)


class _Reader:
    def __init__(self, source: str) -> None:
        self.definitions: dict[str, Definition] = {}
        self.ignored: list[Node] = []
        self._source = source
        self._at = 0
        self._line, self._line_start = 1, 0
        self._depth = 0
        self._nbytes = 0  # of schemas
        self.kind, self.text = "", ""
        self.place = (1, 1)
        self._next()

    def read(self) -> None:
        while self.kind != "end":
            if self.kind == "line":
                self._next()
            elif self.kind in ("rule", "terminal"):
                self._definition()
            elif self.kind == "directive":
                self._directive()
            else:
                self._fail(f"expected a rule, found {self.text[:20]!r}")

    def _definition(self) -> None:
        place, is_terminal = self.place, self.kind == "terminal"
        name = self._taken().lstrip("!?")
        if name in self.definitions:
            fail(PARAM, place, f"{name[:60]!r} is there already")
        for sign, what in ((".", "priorities"), ("{", "templates"), ("[", "attributes")):
            if self.text == sign:
                self._refuse(what)
        self._expect(":")
        self.definitions[name] = Definition(self._either(), place, is_terminal)
        self._end_of_line()

    def _directive(self) -> None:
        directive = self.text
        if directive == "%ignore":
            self._next()
            self.ignored.append(self._either())
            self._end_of_line()
        elif directive == "%import":
            self._import()
        else:
            self._refuse(directive)

    def _import(self) -> None:
        """%import common.NAME, common.NAME -> OTHER, or common (NAME, NAME)."""
        self._next()
        if self.text != "common":
            self._refuse("imports other than from common")
        self._next()
        if self.text == ".":
            self._next()
        if self.text == "(":
            self._next()
            while self.kind == "terminal":
                self._add_common(*[self._terminal()] * 2)
                if self.text == ",":
                    self._next()
            self._expect(")")
        else:
            name = self._terminal()
            if self.text == "->":
                self._next()
                self._add_common(name, self._terminal())
            else:
                self._add_common(name, name)
        self._end_of_line()

    def _terminal(self) -> str:
        if self.kind != "terminal":
            self._fail("expected the name of a terminal")
        return self._taken()

    def _add_common(self, name: str, new: str) -> None:
        if name not in COMMON:
            self._fail(f"common has no {name[:40]!r}; it has {', '.join(COMMON)}")
        self.definitions[new] = Definition(self._expression(COMMON[name]), self.place, True)

    def _either(self, *, in_brackets: bool = False) -> Node:
        options = [self._sequence(in_brackets)]
        while self._bar():
            options.append(self._sequence(in_brackets))
        return options[0] if len(options) == 1 else Either(tuple(options))

    def _bar(self) -> bool:
        """Takes a |, which may also begin the next line."""
        if self.kind == "line":
            before = self._at, self._line, self._line_start, self.kind, self.text, self.place
            self._next()
            if self.text != "|":
                self._at, self._line, self._line_start, self.kind, self.text, self.place = before
                return False
        if self.text != "|" or self.kind != "sign":
            return False
        self._next()
        return True

    def _sequence(self, in_brackets: bool) -> Node:
        parts = []
        while True:
            if in_brackets and self.kind == "line":
                self._next()
            elif self.kind in ("line", "end") or (self.kind == "sign" and self.text in ("|", ")", "]", "->")):
                break
            else:
                parts.append(self._repeated(self._atom()))
        if self.text == "->" and self.kind == "sign":  # the name of a tree
            self._next()
            if self.kind != "rule":
                self._fail("expected a name after ->")
            self._next()
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts)) if parts else EMPTY

    def _atom(self) -> Node:
        if self.kind in ("rule", "terminal"):
            place = self.place
            return Name(self._taken().lstrip("!?"), place)
        if self.kind == "string":
            return self._string()
        if self.kind == "regex":
            return self._regex()
        if self.text == "%json":
            return self._schema()
        if self.text == "~" or self.kind == "directive":
            self._refuse(self.text)
        if self.kind == "sign" and self.text in ("(", "["):
            self._depth += 1
            if self._depth > MAX_GRAMMAR_DEPTH:
                self._fail(f"brackets are more than {MAX_GRAMMAR_DEPTH} deep")
            opener = self._taken()
            node = self._either(in_brackets=True)
            self._expect(")" if opener == "(" else "]")
            self._depth -= 1
            return node if opener == "(" else Repeat(node, 0, 1)
        return self._fail(f"expected a name, a text or an expression, found {self.text[:20]!r}")

    def _repeated(self, part: Node) -> Node:
        counts = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        if self.kind != "sign":
            return part
        if self.text in counts:
            low, high = counts[self._taken()]
        elif self.text == "~":
            self._next()
            low = high = self._count()
            if self.text == "..":
                self._next()
                high = self._count()
        elif self.text == "{":
            self._next()
            low = 0 if self.text == "," else self._count()
            high = low
            if self.text == ",":
                self._next()
                high = self._count() if self.kind == "number" else None
            self._expect("}")
        else:
            return part
        if high is not None and high < low:
            self._fail(f"the repetition ends at {high}, below its start {low}")
        if self.kind == "sign" and self.text in ("*", "+", "?", "~", "{"):
            self._fail("a repetition of a repetition; put the inner one into brackets")
        return Repeat(part, low, high)

    def _count(self) -> int:
        if self.kind != "number":
            self._fail("expected a number")
        if len(self.text) > 9 or int(self.text) > MAX_REPEAT:
            self._fail(f"a repetition counts to {MAX_REPEAT:,} at most")
        return int(self._taken())

    def _string(self) -> Node:
        place, text = self.place, self._taken()
        ignore_case = text.endswith("i")
        value = self._unescaped(text[1 : -2 if ignore_case else -1], place)
        if self.text == "..":
            self._next()
            if self.kind != "string" or ignore_case:
                self._fail('expected a range such as "a".."z"')
            last = self._unescaped(self._taken()[1:-1], place)
            if len(value) != 1 or len(last) != 1 or value > last:
                fail(PARAM, place, "the ends of a range are two characters, the smaller one first")
            return Chars(((ord(value), ord(last)),))
        return Expression(f"(?i:{literal(value)})", len(value)) if ignore_case and value else Text(value)

    def _unescaped(self, text: str, place: tuple[int, int]) -> str:
        def char(match: re.Match[str]) -> str:
            escape = match[1]
            if escape in CONTROLS:
                return CONTROLS[escape]
            code = int(escape[1:], 16) if len(escape) > 1 else -1
            if not 0 <= code < 0x110000 or 0xD800 <= code < 0xE000:
                fail(PARAM, place, f"there is no escape \\{escape}")
            return chr(code)

        return ESCAPES.sub(char, text)

    def _regex(self) -> Node:
        place, text = self.place, self._taken()
        end = text.rindex("/")
        for flag in text[end + 1 :]:
            if flag not in "is":
                raise UnsupportedParameter(
                    PARAM, f"line {place[0]}, column {place[1]}: the flag {flag!r}; i and s are there"
                )
        flags = f"(?{text[end + 1 :]})" if text[end + 1 :] else ""
        return self._expression(flags + text[1:end].replace("\\/", "/"), place)

    def _expression(self, source: str, place: tuple[int, int] | None = None) -> Expression:
        where = f"{PARAM}: line {place[0]}, column {place[1]}" if place else PARAM
        return Expression(*translate_sized(source, param=where, search=False))

    def _schema(self) -> Schema:
        """%json and the object after it, which is found by its brackets."""
        place, start = self.place, self._at
        try:
            value, length = json.JSONDecoder().raw_decode(self._source[start:].lstrip())
        except (ValueError, RecursionError):
            fail(PARAM, place, "expected a JSON schema after %json")
        del value
        start += len(self._source[start:]) - len(self._source[start:].lstrip())
        where = f"{PARAM}: line {place[0]}, column {place[1]}"
        prepared = prepare_schema(parse_json(self._source[start : start + length], param=where), param=where)
        self._nbytes += len(prepared)
        if self._nbytes > MAX_GRAMMAR_NBYTES:
            raise InvalidParameter(
                PARAM, f"its schemas have more than {MAX_GRAMMAR_NBYTES:,} bytes with all references"
            )
        lines = self._source.count("\n", self._at, start + length)
        if lines:
            self._line += lines
            self._line_start = self._source.rindex("\n", 0, start + length) + 1
        self._at = start + length
        self._next()
        return Schema(prepared)

    def _taken(self) -> str:
        text = self.text
        self._next()
        return text

    def _expect(self, sign: str) -> None:
        if self.text != sign or self.kind != "sign":
            self._fail(f"expected {sign}" + (f", found {self.text[:20]!r}" if self.text else ""))
        self._next()

    def _end_of_line(self) -> None:
        if self.kind not in ("line", "end"):
            self._fail(f"expected the end of the line, found {self.text[:20]!r}")

    def _next(self) -> None:
        """Reads kind, text and place of what is next; spaces and comments are passed over."""
        while self._at < len(self._source):
            match = TOKENS.match(self._source, self._at)
            self.place = self._line, self._at - self._line_start + 1
            if match is None:
                self._unknown()
            self._at = match.end()
            if match.lastgroup == "line":
                self._line += match[0].count("\n")
                self._line_start = match.start() + match[0].rindex("\n") + 1
            if match.lastgroup != "space":
                self.kind, self.text = str(match.lastgroup), match[0]
                return
        self.kind, self.text, self.place = "end", "", (self._line, self._at - self._line_start + 1)

    def _unknown(self) -> NoReturn:
        char = self._source[self._at]
        known = {"<": "special tokens (structural_tag has them)", "@": "nested grammars", "&": "& between terminals"}
        if char in known:
            self._refuse(known[char])
        self._fail("a text or an expression without its end" if char in '"/' else f"unexpected {char!r}")

    def _fail(self, reason: str) -> NoReturn:
        fail(PARAM, self.place, reason)

    def _refuse(self, what: str) -> NoReturn:
        raise UnsupportedParameter(PARAM, f"line {self.place[0]}, column {self.place[1]}: {what}: not supported")
