"""What both grammar languages are read into: definitions made of nodes. Checked here, written in lark_writer.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn

from pellucid.errors import InvalidParameter
from pellucid.structured.limits import MAX_GRAMMAR_RULES, MAX_GRAMMAR_SYMBOLS, MAX_REGEX_SIZE

Ranges = tuple[tuple[int, int], ...]
"""Characters: first and last code points, ascending, apart from each other."""


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Chars:
    """One character."""

    ranges: Ranges


@dataclass(frozen=True)
class Expression:
    """A regular expression in Rust's syntax. size: as in regex.py."""

    rust: str
    size: int


@dataclass(frozen=True)
class Schema:
    """JSON, by a schema that `prepare_schema` has written."""

    json: str


@dataclass(frozen=True)
class Name:
    """place: line and column, from 1."""

    name: str
    place: tuple[int, int]


@dataclass(frozen=True)
class Sequence:
    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Either:
    options: tuple[Node, ...]


@dataclass(frozen=True)
class Repeat:
    """high: None for any number."""

    part: Node
    low: int
    high: int | None


Node = Text | Chars | Expression | Schema | Name | Sequence | Either | Repeat
EMPTY = Text("")


@dataclass(frozen=True)
class Definition:
    """is_terminal: what it matches is one piece for the lexer, which makes every piece as long as it can."""

    node: Node
    place: tuple[int, int]
    is_terminal: bool = False


Definitions = Mapping[str, Definition]


def children(node: Node) -> tuple[Node, ...]:
    if isinstance(node, Sequence):
        return node.parts
    if isinstance(node, Either):
        return node.options
    return (node.part,) if isinstance(node, Repeat) else ()


def names(node: Node) -> Iterator[Name]:
    """Every use of a name in `node`."""
    if isinstance(node, Name):
        yield node
    for child in children(node):
        yield from names(child)


def fail(param: str, place: tuple[int, int], reason: str) -> NoReturn:
    raise InvalidParameter(param, f"line {place[0]}, column {place[1]}: {reason}")


def check(definitions: Definitions, start: str, param: str) -> None:
    """Raises InvalidParameter where a name is unknown, a terminal contains itself, or a rule can never end."""
    if start not in definitions:
        raise InvalidParameter(param, f"there is no rule {start!r}, with which an answer begins")
    if len(definitions) > MAX_GRAMMAR_RULES:
        raise InvalidParameter(param, f"it has more than {MAX_GRAMMAR_RULES:,} rules")
    for definition in definitions.values():
        for used in names(definition.node):
            if used.name not in definitions:
                fail(param, used.place, f"there is no rule {used.name[:60]!r}")
    sizes = _Sizes(definitions, param)
    if sum(sizes.of(name) for name in definitions) > MAX_GRAMMAR_SYMBOLS:
        raise InvalidParameter(param, f"it has more than {MAX_GRAMMAR_SYMBOLS:,} symbols, repetitions written out")
    endless = set(definitions) - _productive(definitions)
    for name in reachable(definitions, start):
        if name in endless:
            fail(param, definitions[name].place, f"the rule {name[:60]!r} can never come to an end")


def reachable(definitions: Definitions, start: str) -> list[str]:
    """Names of what `start` leads to, itself first."""
    found = {start: None}
    queue = [start]
    for name in queue:  # grows while it is walked
        for used in names(definitions[name].node):
            if used.name not in found:
                found[used.name] = None
                queue.append(used.name)
    return queue


class _Sizes:
    """How large definitions are: terminals with everything written out, in rules the length of counts alone."""

    def __init__(self, definitions: Definitions, param: str) -> None:
        self._definitions = definitions
        self._param = param
        self._terminals: dict[str, int] = {}
        self._active: list[str] = []

    def of(self, name: str) -> int:
        definition = self._definitions[name]
        if not definition.is_terminal:
            return self._node(definition.node, in_terminal=False)
        if name in self._active or len(self._active) > 100:
            fail(
                self._param, definition.place, f"the terminal {name[:60]!r} contains itself, or is too deep; use a rule"
            )
        if name not in self._terminals:
            self._active.append(name)
            self._terminals[name] = self._node(definition.node, in_terminal=True)
            self._active.pop()
            if self._terminals[name] > MAX_REGEX_SIZE:
                fail(
                    self._param,
                    definition.place,
                    f"with repetitions written out it has more than {MAX_REGEX_SIZE:,} characters",
                )
        return self._terminals[name]

    def _node(self, node: Node, *, in_terminal: bool) -> int:
        if isinstance(node, Text):
            return max(1, len(node.text))
        if isinstance(node, Expression):
            return node.size
        if isinstance(node, Name):
            if not in_terminal:
                return 1
            if not self._definitions[node.name].is_terminal:
                fail(self._param, node.place, f"a terminal is made of terminals; {node.name[:60]!r} is a rule")
            return self.of(node.name)
        if isinstance(node, Repeat):
            count = max(1, node.low if node.high is None else node.high)
            return self._node(node.part, in_terminal=in_terminal) * (count if in_terminal else count.bit_length())
        return 1 + sum(self._node(child, in_terminal=in_terminal) for child in children(node))


def _productive(definitions: Definitions) -> set[str]:
    """Names of what some text satisfies."""
    found: set[str] = set()
    order = list(definitions)
    while True:
        before = len(found)
        order.reverse()  # chains of rules run either way
        for name in order:
            if name not in found and _ends(definitions[name].node, found):
                found.add(name)
        if len(found) == before:
            return found


def _ends(node: Node, known: set[str]) -> bool:
    if isinstance(node, Name):
        return node.name in known
    if isinstance(node, Either):
        return any(_ends(option, known) for option in node.options)
    if isinstance(node, Repeat):
        return node.low == 0 or _ends(node.part, known)
    if isinstance(node, Chars):
        return bool(node.ranges)
    return all(_ends(child, known) for child in children(node))
