r"""Regular expressions: the part of ECMA-262's syntax that means the same to everybody, translated for llguidance.

JSON schemas write ECMA-262, llguidance reads Rust's syntax, and validators use whatever their language has. They differ
in details: what `.`, \d, \w and \s hold, where `$` matches, `[a&&b]`. So an expression is parsed here and written anew
in the one way that cannot be misread. Where the dialects disagree about a character, it is left out: \d is 0 to 9, \D
is what no dialect calls a digit. A set of strings can shrink by that, it never grows.

In JSON strings U+0000 is left out, too: llguidance (derivre 0.3.13) takes a class of all 32 control characters to hold
the quotation mark and the backslash, so that [^"] would let an escaped quotation mark through.

There is no backtracking anywhere: look-around and back-references, which are not regular, are refused by name, and so
are anchors and word boundaries in the middle of an expression.
"""

from __future__ import annotations

from typing import NoReturn

from pellucid.errors import InvalidParameter, UnsupportedParameter
from pellucid.structured.limits import MAX_REGEX_DEPTH, MAX_REGEX_NBYTES, MAX_REGEX_SIZE, MAX_REPEAT
from pellucid.structured.regex_nodes import (
    ANY,
    Anchor,
    Either,
    MisplacedAnchor,
    Node,
    Sequence,
    Text,
    has_anchor,
    without_anchors,
    write,
)

_LINE_END = r"\u{A}\u{D}\u{2028}\u{2029}"
_SPACE = r"\u{9}-\u{D}\u{20}\u{A0}\u{1680}\u{2000}-\u{200A}\u{2028}\u{2029}\u{202F}\u{205F}\u{3000}"

# What every dialect puts into a class, and what at least one does: the former stands for the class, the latter is what
# its opposite leaves out.
_CLASSES = {
    "d": ("0-9", r"\p{N}"),
    "w": ("0-9A-Za-z_", r"\p{Alphabetic}\p{M}\p{N}\p{Pc}"),
    "s": (_SPACE, _SPACE + r"\u{1C}-\u{1F}\u{85}\u{180E}\u{FEFF}"),
}
_CONTROLS = {"t": 0x09, "n": 0x0A, "v": 0x0B, "f": 0x0C, "r": 0x0D, "0": 0x00}
_CANNOT = {
    "(?=": "look-ahead",
    "(?!": "look-ahead",
    "(?<=": "look-behind",
    "(?<!": "look-behind",
    r"\b": "a word boundary",
    r"\B": "a word boundary",
    r"\k": "a back-reference",
}


def translate(expression: str, *, param: str, search: bool) -> str:
    """`expression` in Rust's syntax, for the whole of a text, without anchors, and safe between two slashes.

    search: the expression is JSON schema's and may match anywhere in a string, unless ^ and $ say otherwise; else it is
    about all of a text. Raises InvalidParameter, and UnsupportedParameter for what cannot be
    enforced.
    """
    return translate_sized(expression, param=param, search=search)[0]


def translate_sized(expression: str, *, param: str, search: bool) -> tuple[str, int]:
    """The same, and its size: characters and classes, with repetitions written out."""
    if len(expression.encode("utf-8", "replace")) > MAX_REGEX_NBYTES:
        raise InvalidParameter(param, f"the expression has more than {MAX_REGEX_NBYTES:,} bytes")
    parser = _Parser(expression, param, without_nul=search)
    node = parser.parse()
    try:
        return write(without_anchors(node, search, search)), node.size
    except MisplacedAnchor:
        parser.refuse("an anchor in the middle", "^ or $")


def literal(text: str) -> str:
    """An expression that matches exactly `text`, in Rust's syntax."""
    return "".join(c if c.isascii() and c.isalnum() else f"\\u{{{ord(c):X}}}" for c in text)


class _Parser:
    def __init__(self, source: str, param: str, *, without_nul: bool) -> None:
        self.source = source
        self.param = param
        self.without_nul = without_nul
        self.at = 0
        self.depth = 0
        self.dot = f"[^{_LINE_END}]"
        self.ignore_case = False

    def parse(self) -> Node:
        if self.source.startswith("(?") and (end := self.source.find(")")) > 2 and self.source[2:end].isalpha():
            self.at = 2
            self.flags(")")
        node = self.either()
        if self.at < len(self.source):
            self.fail("a ')' without its '('")
        return node

    def either(self) -> Node:
        options = [self.sequence()]
        while self.take("|"):
            options.append(self.sequence())
        return options[0] if len(options) == 1 else Either(tuple(options))

    def sequence(self) -> Node:
        parts: list[Node] = []
        while self.at < len(self.source) and self.source[self.at] not in "|)":
            part = self.repeated(self.atom())
            parts.append(part)
            if part.size > MAX_REGEX_SIZE:
                self.too_large()
        node = Sequence(tuple(parts))
        if node.size > MAX_REGEX_SIZE:
            self.too_large()
        return node

    def atom(self) -> Node:
        for start, what in _CANNOT.items():
            if self.source.startswith(start, self.at):
                self.refuse(what, start)
        char = self.next()
        if char in "^$":
            return Anchor(char)
        if char == "(":
            return self.group()
        if char == "[":
            return self.in_case(self.char_class())
        if char == ".":
            return self.in_case(self.dot)
        if char == "\\":
            return self.in_case(f"[{self.escape(negated=False)}]")
        if char in "*+?{}]":
            self.fail(f"{char!r} has nothing before it to repeat, or wants a backslash", self.at - 1)
        return self.in_case(f"[{_code(0)}]" if char == "\0" else literal(char))

    def in_case(self, rust: str) -> Text:
        """A character or a class as a piece of the expression."""
        if self.without_nul and rust.startswith("["):
            rust = f"[{rust}&&[^{_code(0)}]]"
        return Text(f"(?i:{rust})" if self.ignore_case else rust)

    def group(self) -> Node:
        self.depth += 1
        if self.depth > MAX_REGEX_DEPTH:
            raise InvalidParameter(self.param, f"the expression has groups more than {MAX_REGEX_DEPTH} deep")
        before = self.dot, self.ignore_case
        if self.take("?"):
            if self.take("<") or self.take("P<"):
                name = self.until(">")
                if not name.isidentifier():
                    self.fail(f"{name[:40]!r} is no name for a group")
            elif not self.take(":"):
                self.flags(":")
        inner = self.either()
        if not self.take(")"):
            self.fail("a '(' without its ')'")
        self.dot, self.ignore_case = before
        self.depth -= 1
        return inner

    def flags(self, end: str) -> None:
        for flag in self.until(end):
            if flag == "i":
                self.ignore_case = True
            elif flag == "s":
                self.dot = ANY
            else:
                self.refuse(f"the flag {flag!r}", "(?" + flag)

    def repeated(self, node: Node) -> Node:
        start = self.at
        if self.take("*"):
            low, high = 0, None
        elif self.take("+"):
            low, high = 1, None
        elif self.take("?"):
            low, high = 0, 1
        elif self.take("{"):
            low, high = self.counts()
        else:
            return node
        self.take("?")  # a lazy repetition matches the same strings
        if self.at < len(self.source) and self.source[self.at] in "*+?{":
            self.fail("a repetition of a repetition", self.at)
        if has_anchor(node):
            self.refuse("an anchor inside a repetition", self.source[start])
        times = f"{{{low},{'' if high is None else high}}}"
        return Text(f"(?:{write(node)}){times}", max(1, node.size) * max(1, low if high is None else high))

    def counts(self) -> tuple[int, int | None]:
        start = self.at
        low, comma, high = self.until("}").partition(",")
        if not _is_count(low) or not (high == "" or _is_count(high)):
            self.fail(
                "expected a repetition such as {2}, {2,} or {2,5}; a brace that is meant wants a backslash", start
            )
        most = int(high) if high else None if comma else int(low)
        if max(int(low), most or 0) > MAX_REPEAT:
            raise InvalidParameter(self.param, f"a repetition counts to more than {MAX_REPEAT:,} in the expression")
        if most is not None and most < int(low):
            self.fail(f"the repetition ends at {most}, below its start {low}", start)
        return int(low), most

    def char_class(self) -> str:
        negated = self.take("^")
        items: list[str] = []
        while not self.take("]"):
            start = self.at
            low = self.class_item(negated)
            if not self.source.startswith("-", self.at) or self.source.startswith("-]", self.at):
                items.append(low if isinstance(low, str) else _code(low))
                continue
            self.at += 1
            high = self.class_item(negated)
            if isinstance(low, str) or isinstance(high, str) or low > high:
                self.fail("the ends of a range in a class are two characters, the smaller one first", start)
            items.append(f"{_code(low)}-{_code(high)}")
        if not items:
            self.refuse("an empty class", "[]")
        return f"[{'^' if negated else ''}{''.join(items)}]"

    def class_item(self, negated: bool) -> int | str:
        """A character of a class as its code point, or a class within it in Rust's syntax."""
        char = self.next()
        if char != "\\":
            if char == "[" and self.source.startswith((":", ".", "="), self.at):
                self.refuse("a POSIX class", "[" + self.source[self.at])
            return ord(char)
        if self.take("b"):
            return 0x08
        if self.take("-"):
            return ord("-")
        inner = self.escape(negated)
        is_character = inner.startswith("\\u{") and inner.count("}") == 1
        return int(inner[3:-1], 16) if is_character else inner

    def escape(self, negated: bool) -> str:
        """What follows a backslash, as the inside of a class in Rust's syntax. negated: that class is negated."""
        char = self.next()
        if char.lower() in _CLASSES:
            sure, possible = _CLASSES[char.lower()]
            inside = sure if char.islower() != negated else possible
            return inside if char.islower() else f"[^{inside}]"
        if char in _CONTROLS:
            if char == "0" and self.source[self.at : self.at + 1].isdigit():
                self.refuse("an octal escape", "\\0")
            return _code(_CONTROLS[char])
        if char in "123456789":
            self.refuse("a back-reference", "\\" + char)
        if char == "c" and (letter := self.next()).isascii() and letter.isalpha():
            return _code(ord(letter) % 32)
        if char == "x":
            return _code(self.hexadecimal(2))
        if char == "u":
            return _code(self.unicode())
        if char in "pP":
            return self.property(char)
        if not char.isascii() or char.isalnum():
            self.refuse("this escape", "\\" + char)
        return _code(ord(char))

    def unicode(self) -> int:
        if self.take("{"):
            digits = self.until("}")
            if not 1 <= len(digits) <= 6 or not _is_hexadecimal(digits):
                self.fail("expected one to six hexadecimal digits after \\u{")
            code = int(digits, 16)
        else:
            code = self.hexadecimal(4)
            if 0xD800 <= code < 0xDC00 and self.source.startswith("\\u", self.at):
                self.at += 2
                low = self.hexadecimal(4)
                if not 0xDC00 <= low < 0xE000:
                    self.fail("half of a surrogate pair")
                code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
        if 0xD800 <= code < 0xE000 or code > 0x10FFFF:
            self.fail(f"U+{code:04X} is no character")
        return code

    def property(self, char: str) -> str:
        name = self.until("}") if self.take("{") else ""
        if not name or not name.replace("=", "").replace("_", "").isalnum() or not name.isascii() or len(name) > 60:
            self.fail(f"expected a property such as \\{char}{{L}}")
        return f"\\{char}{{{name}}}"

    def hexadecimal(self, count: int) -> int:
        digits = self.source[self.at : self.at + count]
        if len(digits) < count or not _is_hexadecimal(digits):
            self.fail(f"expected {count} hexadecimal digits")
        self.at += count
        return int(digits, 16)

    def take(self, text: str) -> bool:
        found = self.source.startswith(text, self.at)
        self.at += len(text) * found
        return found

    def next(self) -> str:
        if self.at >= len(self.source):
            self.fail("it ends in the middle")
        self.at += 1
        return self.source[self.at - 1]

    def until(self, end: str) -> str:
        found = self.source.find(end, self.at)
        if found < 0:
            self.fail(f"expected {end!r}")
        text, self.at = self.source[self.at : found], found + 1
        return text

    def fail(self, reason: str, at: int | None = None) -> NoReturn:
        place = self.at if at is None else at
        raise InvalidParameter(self.param, f"the expression is damaged at character {place + 1}: {reason}")

    def refuse(self, what: str, spelt: str) -> NoReturn:
        raise UnsupportedParameter(
            self.param, f"the expression has {what} ({spelt}), which cannot be enforced; write it without"
        )

    def too_large(self) -> NoReturn:
        raise InvalidParameter(
            self.param, f"the expression has more than {MAX_REGEX_SIZE:,} characters with its repetitions written out"
        )


def _code(code: int) -> str:
    return f"\\u{{{code:X}}}"


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _is_hexadecimal(text: str) -> bool:
    return all(c in "0123456789abcdefABCDEF" for c in text)
