r"""Regular expressions that end an answer, matched on text that arrives piece by piece, without backtracking.

An expression becomes a Glushkov automaton (1961): one state for each of its characters and classes, repetitions written
out. With each character of the text every state is updated once, so the time a character takes has a bound that does
not depend on the text. Which character a state takes is asked of Python's `re`, one character at a time.

The syntax is Python's, as far as it can be decided while the text grows: literals, escapes, classes, `.`, groups, `|`,
repetitions, and `(?i)` and `(?s)` at the beginning. Anchors, word boundaries, look-around, back-references and atomic
groups are refused by name. A match has at most MAX_MATCH characters, which bounds what a stream holds back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import NoReturn

from pellucid.errors import InvalidParameter, UnsupportedParameter
from pellucid.fields import show

MAX_EXPRESSION = 1_024
MAX_MATCH = 1_024
MAX_STATES = 512
MAX_TRANSITIONS = 4_096
MAX_DEPTH = 32
MAX_KNOWN_CHARS = 1_024

_ALL = (1 << MAX_MATCH) - 1
_ESCAPE = re.compile(r"\\(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|[dDwWsSafnrtv]|[^0-9A-Za-z])")
_SET = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
_COUNTS = re.compile(r"\{(\d{0,9})(?:(,)(\d{0,9}))?\}")
_CANNOT = {
    "(?=": "look-ahead", "(?!": "look-ahead", "(?<=": "look-behind", "(?<!": "look-behind", "(?>": "an atomic group",
    "(?P=": "a back-reference", "(?(": "a condition", "^": "an anchor", "$": "an anchor", r"\A": "an anchor",
    r"\Z": "an anchor", r"\b": "a word boundary", r"\B": "a word boundary",
}  # fmt: skip


@dataclass(frozen=True)
class _Part:
    """A piece of an automaton: where a match of it can begin and end, and whether it may be empty."""

    first: frozenset[int]
    last: frozenset[int]
    optional: bool


_EMPTY = _Part(frozenset(), frozenset(), optional=True)


class StopRegex:
    """A compiled expression, shared between requests; `RegexMatcher` is one answer's place in it."""

    def __init__(self, expression: str) -> None:
        """Raises InvalidParameter and UnsupportedParameter, with the parameter `stop_regex`."""
        self.expression = expression
        self._atoms: list[re.Pattern[str]] = []  # what each state takes
        self.before: list[set[int]] = []  # for each state, those from which it is reached
        self._num_transitions = 0
        self._known: dict[str, list[int]] = {}
        flags = re.match(r"\(\?([is]+)\)", expression)
        self._flags = re.NOFLAG
        for letter in flags[1] if flags else "":
            self._flags |= re.IGNORECASE if letter == "i" else re.DOTALL
        self._at, self._depth = flags.end() if flags else 0, 0
        whole = self._either()
        if self._at < len(expression):
            self._fail("a ')' without its '('")
        if whole.optional:
            self._fail("it matches the empty text, so every answer would end at once", at=0)
        self.first, self.last = whole.first, whole.last

    def states(self, char: str) -> list[int]:
        """Those that take `char`."""
        found = self._known.get(char)
        if found is None:
            if len(self._known) >= MAX_KNOWN_CHARS:
                self._known.clear()
            found = self._known[char] = [i for i, atom in enumerate(self._atoms) if atom.fullmatch(char)]
        return found

    def _either(self) -> _Part:
        part = self._sequence()
        while self._take("|"):
            other = self._sequence()
            part = _Part(part.first | other.first, part.last | other.last, part.optional or other.optional)
        return part

    def _sequence(self) -> _Part:
        part = _EMPTY
        while self._at < len(self.expression) and self.expression[self._at] not in "|)":
            start = self._at
            part = self._join(part, self._repeated(self._atom(), start))
        return part

    def _join(self, a: _Part, b: _Part) -> _Part:
        self._connect(a.last, b.first)
        return _Part(
            a.first | b.first if a.optional else a.first,
            a.last | b.last if b.optional else b.last,
            a.optional and b.optional,
        )

    def _connect(self, sources: frozenset[int], targets: frozenset[int]) -> None:
        self._num_transitions += len(sources) * len(targets)
        if self._num_transitions > MAX_TRANSITIONS:
            self._too_large()
        for target in targets:
            self.before[target] |= sources

    def _atom(self) -> _Part:
        for start, what in _CANNOT.items():
            if self.expression.startswith(start, self._at):
                raise UnsupportedParameter(
                    "stop_regex", f"it has {what} ({start}), which cannot be decided while the text grows; do without"
                )
        if self._take("("):
            return self._group()
        char = self.expression[self._at]
        if char in "*+?" or ((counts := _COUNTS.match(self.expression, self._at)) and (counts[1] or counts[2])):
            self._fail(f"{char!r} has nothing before it to repeat")
        if char in "[\\":
            found = (_SET if char == "[" else _ESCAPE).match(self.expression, self._at)
            if found is None:
                self._fail("a class without its ']'" if char == "[" else "this escape is not known")
            source = found[0]
        else:
            source = char if char == "." else re.escape(char)
        self._at += len(source) if char in "[\\" else 1
        if char == "[":  # what Python may one day take for operations on sets
            source = "[" + re.sub(r"(?<!\\)([\[&~|])", r"\\\1", source[1:])
        try:
            atom = re.compile(source, self._flags)
        except re.error as error:
            self._fail(f"{show(source)}: {error.msg}")
        return self._state(atom)

    def _state(self, atom: re.Pattern[str]) -> _Part:
        if len(self._atoms) >= MAX_STATES:
            self._too_large()
        self._atoms.append(atom)
        self.before.append(set())
        state = frozenset({len(self._atoms) - 1})
        return _Part(state, state, optional=False)

    def _group(self) -> _Part:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise InvalidParameter("stop_regex", f"the expression has groups more than {MAX_DEPTH} deep")
        if self._take("?") and not self._take(":"):
            name = re.compile(r"P<[^\W\d]\w*>").match(self.expression, self._at)
            if name is None:
                self._fail("this kind of group is not known")
            self._at = name.end()
        part = self._either()
        if not self._take(")"):
            self._fail("a '(' without its ')'")
        self._depth -= 1
        return part

    def _repeated(self, part: _Part, start: int) -> _Part:
        """`part`, whose source begins at `start`, with the repetition that follows it."""
        end = self._at
        counts = _COUNTS.match(self.expression, self._at)
        if counts and (counts[1] or counts[2]):
            low = int(counts[1] or 0)
            high = low if not counts[2] else int(counts[3]) if counts[3] else None
            self._at = counts.end()
        elif end < len(self.expression) and self.expression[end] in "*+?":
            low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}[self.expression[end]]
            self._at += 1
        else:
            return part
        if self._take("+"):
            raise UnsupportedParameter("stop_regex", "it has a possessive repetition; do without")
        self._take("?")  # a lazy repetition matches the same texts
        if self._at < len(self.expression) and self.expression[self._at] in "*+?":
            self._fail("a repetition of a repetition")
        if high is not None and high < low:
            self._fail(f"the repetition ends at {high}, below its start {low}")
        if max(low, high or 0) > MAX_STATES:
            self._too_large()
        copies = max(low, 1) if high is None else high
        if copies == 0 or not part.first:
            return _EMPTY
        whole, after = _EMPTY, self._at
        for i in range(copies):
            copy = part if i == 0 else self._again(start, end)
            if high is None and i == copies - 1:
                self._connect(copy.last, copy.first)
            whole = self._join(whole, _Part(copy.first, copy.last, copy.optional or i >= low))
        self._at = after
        return whole

    def _again(self, start: int, end: int) -> _Part:
        """Another copy of what the source from `start` to `end` means."""
        self._at = start
        part = self._atom()
        assert self._at == end
        return part

    def _take(self, text: str) -> bool:
        found = self.expression.startswith(text, self._at)
        self._at += len(text) * found
        return found

    def _fail(self, reason: str, at: int | None = None) -> NoReturn:
        place = self._at if at is None else at
        raise InvalidParameter("stop_regex", f"character {place + 1} of {show(self.expression)}: {reason}")

    def _too_large(self) -> NoReturn:
        raise InvalidParameter(
            "stop_regex",
            f"the expression is too large: with its repetitions written out it may have {MAX_STATES} characters and "
            f"classes and {MAX_TRANSITIONS:,} transitions between them",
        )


@lru_cache(maxsize=256)
def compile_stop_regex(expression: str) -> StopRegex:
    return StopRegex(expression)


class RegexMatcher:
    """`length` is the longest end of the text so far that may become a match."""

    def __init__(self, regex: StopRegex) -> None:
        self.stop = regex.expression
        self.length = 0
        self._regex = regex
        self._matched: dict[int, int] = {}  # state → bits; bit k: k + 1 characters of the text lead to this state

    def advance(self, char: str) -> int:
        """Take one more character; the length of the longest match that it completes, 0 if none."""
        regex, old, new = self._regex, self._matched, {}
        for state in regex.states(char):
            bits = 0
            for source in regex.before[state]:
                bits |= old.get(source, 0)
            if bits := (bits << 1 | (state in regex.first)) & _ALL:
                new[state] = bits
        self._matched = new
        self.length = max((bits.bit_length() for bits in new.values()), default=0)
        return max((bits.bit_length() for state, bits in new.items() if state in regex.last), default=0)
