"""Glushkov's automaton of an expression, and whether one expression may end where another goes on.

Characters are compared by the first byte of their UTF-8 where the lexer must decide whether a terminal has ended: it
reads bytes. V. M. Glushkov, The abstract theory of automata, 1961.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from pellucid.structured.grammar_nodes import Chars, Either, Node, Ranges, Repeat, Sequence, Text


@dataclass
class Position:
    """A character of an expression. after: the positions that may follow."""

    ranges: Ranges
    bytes: int
    after: set[int] = field(default_factory=set)


class Automaton:
    """The positions of an expression: Glushkov's automaton."""

    def __init__(self, node: Node) -> None:
        self.positions: list[Position] = []
        _, self.first, self.last = self._add(node)
        self.first_bytes = union(self.positions[i].bytes for i in self.first)
        self.later_bytes = union(self.positions[j].bytes for p in self.positions for j in p.after)

    def _add(self, node: Node) -> tuple[bool, set[int], set[int]]:
        """(Whether it may be empty, where it may begin, where it may end)."""
        if isinstance(node, Text):
            return self._chain([self._position(((ord(char), ord(char)),)) for char in node.text])
        if isinstance(node, Chars):
            return self._position(node.ranges)
        if isinstance(node, Sequence):
            return self._chain([self._add(part) for part in node.parts])
        if isinstance(node, Either):
            options = [self._add(option) for option in node.options]
            return (
                any(empty for empty, _, _ in options),
                set().union(*(first for _, first, _ in options)),
                set().union(*(last for _, _, last in options)),
            )
        assert isinstance(node, Repeat)
        if node.high == 0:
            return True, set(), set()
        copies = [self._add(node.part) for _ in range(max(1, node.low if node.high is None else node.high))]
        for (_, _, last), (_, first, _) in pairwise(copies):
            self._join(last, first)
        if node.high is None:
            self._join(copies[-1][2], copies[-1][1])
        empty = copies[0][0]
        ends = copies if empty else copies[max(0, node.low - 1) :]
        return empty or node.low == 0, copies[0][1], set().union(*(last for _, _, last in ends))

    def _position(self, ranges: Ranges) -> tuple[bool, set[int], set[int]]:
        self.positions.append(Position(ranges, first_bytes(ranges)))
        number = len(self.positions) - 1
        return False, {number}, {number}

    def _chain(self, parts: list[tuple[bool, set[int], set[int]]]) -> tuple[bool, set[int], set[int]]:
        empty, first, last = True, set[int](), set[int]()
        for part_empty, part_first, part_last in parts:
            self._join(last, part_first)
            first |= part_first if empty else set()
            last = part_last | (last if part_empty else set())
            empty = empty and part_empty
        return empty, first, last

    def _join(self, before: set[int], after: set[int]) -> None:
        for number in before:
            self.positions[number].after |= after


def goes_on(one: Automaton, other: Automaton, follow: int, budget: list[int]) -> bool:
    """Whether a text of `one`, and then a character of `follow`, may be the beginning of a text of `other`."""
    queue = [(p, q) for p in one.first for q in other.first]
    seen: set[tuple[int, int]] = set()
    while queue:
        pair = queue.pop()
        if pair in seen:
            continue
        seen.add(pair)
        budget[0] -= 1
        if budget[0] < 0:
            return True
        p, q = one.positions[pair[0]], other.positions[pair[1]]
        if not p.bytes & q.bytes or not _overlap(p.ranges, q.ranges):
            continue
        if pair[0] in one.last and any(other.positions[i].bytes & follow for i in q.after):
            return True
        queue += [(i, j) for i in p.after for j in q.after]
    return False


def _overlap(one: Ranges, other: Ranges) -> bool:
    i = j = 0
    while i < len(one) and j < len(other):
        if one[i][1] < other[j][0]:
            i += 1
        elif other[j][1] < one[i][0]:
            j += 1
        else:
            return True
    return False


def first_bytes(ranges: Ranges) -> int:
    """A mask of the first bytes of the characters' UTF-8."""
    mask = 0
    for low, high in ranges:
        first, last = chr(low).encode()[0], chr(high).encode()[0]
        mask |= (1 << last + 1) - (1 << first)
    return mask


def union(masks: Iterable[int]) -> int:
    result = 0
    for mask in masks:
        result |= mask
    return result
