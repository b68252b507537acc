"""Rules over single characters to rules over terminals that mean the same, and are far faster to follow.

GBNF knows no lexer: `[a-z]* "end"` matches "send". llguidance has one, and its terminals take as many characters as
they can: as two terminals, the first would swallow "send" and the second never come. One terminal for each character
would be exact and far too slow for 49,152 tokens. So as much as possible becomes one terminal, if that provably changes
nothing: where one may end, the next character must not be able to go on with it, nor with another that began with the
same text. What breaks the rule is taken apart, in the end into single characters, which never do.
"""

from __future__ import annotations

from pellucid.errors import InvalidParameter
from pellucid.structured.automaton import Automaton, goes_on, union
from pellucid.structured.grammar_nodes import (
    EMPTY,
    Definition,
    Definitions,
    Either,
    Name,
    Node,
    Repeat,
    Sequence,
    Text,
    names,
)
from pellucid.structured.limits import MAX_REGEX_SIZE

MAX_POSITIONS = 1_500
"""Characters of a terminal beside others, with repetitions written out."""
MAX_WRITTEN_OUT = 60_000
"""Characters of all terminals."""
MAX_COMPARISONS = 200_000
MAX_SWEEPS = 40

_ALL_BYTES = (1 << 256) - 1

_NOWHERE = (0, 0)
_ONCE = 1 << 40  # more than any size


def with_terminals(rules: Definitions, start: str, param: str) -> dict[str, Definition]:
    """Rules and terminals. `rules` have been checked, and hold Text, Chars, Name, Sequence, Either and Repeat.

    Raises InvalidParameter when that would become too large.
    """
    lexemes = _Lexemes(rules, start, param)
    lexemes.separate()
    return lexemes.definitions()


class _Lexemes:
    def __init__(self, rules: Definitions, start: str, param: str) -> None:
        self._rules = rules
        self._param = param
        self._start = start
        self._sizes: dict[str, int] = {}
        for name in rules:
            self._size_of_rule(name, set())
        self._terminals: dict[str, Node] = {}
        self._bodies: dict[str, Node] = {}
        self._names: dict[Node, str] = {}
        self._broken: set[Node] = set()
        self._num_characters = 0
        if self._sizes[start] <= MAX_REGEX_SIZE:  # all of it is one expression
            self._bodies[start] = self._lifted(Name(start, _NOWHERE), MAX_REGEX_SIZE)
            return
        for name in self._needed():
            self._bodies[name] = self._lifted(rules[name].node, MAX_POSITIONS)

    def definitions(self) -> dict[str, Definition]:
        rules = {name: Definition(node, _NOWHERE) for name, node in self._bodies.items()}
        return rules | {name: Definition(node, _NOWHERE, True) for name, node in self._terminals.items()}

    def separate(self) -> None:
        """Takes apart what does not keep to the rule."""
        budget = [MAX_COMPARISONS]
        while len(self._terminals) > 1 or self._sizes[self._start] > MAX_REGEX_SIZE:
            wrong = self._ambiguous(budget)
            if not wrong:
                return
            broken = {name: self._terminals.pop(name) for name in wrong}
            self._broken.update(broken.values())
            parts = {name: self._apart(node) for name, node in broken.items()}
            self._bodies = {name: _replaced(node, parts) for name, node in self._bodies.items()}

    def _size_of_rule(self, name: str, active: set[str]) -> int:
        """With everything written out; _ONCE if the rule leads back to itself, or to one that does."""
        if name in active:
            return _ONCE
        if name not in self._sizes:
            active.add(name)
            self._sizes[name] = min(_ONCE, self._size(self._rules[name].node, active))
            active.discard(name)
        return self._sizes[name]

    def _size(self, node: Node, active: set[str]) -> int:
        if isinstance(node, Name):
            return self._size_of_rule(node.name, active)
        if isinstance(node, Repeat):
            return self._size(node.part, active) * max(1, node.low, node.high or 0)
        if isinstance(node, Sequence | Either):
            return sum(self._size(part, active) for part in _parts(node))
        return len(node.text) if isinstance(node, Text) else 1

    def _needed(self) -> list[str]:
        """Rules that are no expressions, or too large to be written out."""
        found = {self._start: None}
        queue = [self._start]
        for name in queue:  # grows while it is walked
            for used in names(self._rules[name].node):
                if used.name not in found and self._sizes[used.name] > MAX_POSITIONS:
                    found[used.name] = None
                    queue.append(used.name)
        return queue

    def _lifted(self, node: Node, most: int) -> Node:
        """`node` with terminals in place of its largest parts that are expressions of at most `most` characters."""
        if self._size(node, set()) <= most:
            return self._terminal(self._expanded(node))
        if isinstance(node, Repeat):
            return Repeat(self._lifted(node.part, most), node.low, node.high)
        if not isinstance(node, Sequence | Either):
            return node
        merged: list[Node] = []
        run: list[Node] = []
        total = 0
        for part in _parts(node):
            size = self._size(part, set())
            if size > most or total + size > most:
                merged += [self._lifted(_like(node, run), most)] if run else []
                run, total = [], 0
            if size > most:
                merged.append(self._lifted(part, most))
            else:
                run.append(part)
                total += size
        merged += [self._lifted(_like(node, run), most)] if run else []
        return _like(node, merged)

    def _expanded(self, node: Node) -> Node:
        """With the rules it names written out."""
        if isinstance(node, Name):
            return self._expanded(self._rules[node.name].node)
        if isinstance(node, Repeat):
            return Repeat(self._expanded(node.part), node.low, node.high)
        if isinstance(node, Sequence | Either):
            return _like(node, [self._expanded(part) for part in _parts(node)])
        return node

    def _terminal(self, node: Node) -> Node:
        """A use of a new terminal for the texts of `node` that are not empty."""
        rest = _without_empty(node)
        if rest is None:
            return EMPTY
        if rest in self._broken:
            return _optional(self._apart(rest), node)
        name = self._names.get(rest)
        if name is None:
            name = self._names[rest] = f" {len(self._names)}"  # no rule is called that
            self._num_characters += self._size(rest, set())
            if self._num_characters > MAX_WRITTEN_OUT:
                raise InvalidParameter(
                    self._param,
                    f"with its rules written out where they are used, it has more than {MAX_WRITTEN_OUT:,} characters",
                )
        self._terminals[name] = rest
        return _optional(Name(name, _NOWHERE), node)

    def _apart(self, node: Node) -> Node:
        """The same with smaller terminals."""
        if isinstance(node, Repeat):
            return Repeat(self._terminal(node.part), node.low, node.high)
        if isinstance(node, Text):
            return Sequence(tuple(self._terminal(Text(char)) for char in node.text))
        return _like(node, [self._terminal(part) for part in _parts(node)])

    def _ambiguous(self, budget: list[int]) -> set[str]:
        """Terminals that may go on where another, or they themselves, may end."""
        follow = _Follow(self._bodies, self._terminals, self._start).masks
        automata = {name: Automaton(node) for name, node in self._terminals.items()}
        longer = {name: automaton for name, automaton in automata.items() if automaton.later_bytes}
        found = set()
        for one, automaton in automata.items():
            for other, candidate in longer.items():
                if other in found or not candidate.later_bytes & follow[one]:
                    continue
                if not candidate.first_bytes & automaton.first_bytes:
                    continue
                if budget[0] < 0 or goes_on(automaton, candidate, follow[one], budget):
                    found.add(other)
        return found


class _Follow:
    """The first bytes of what may stand after each terminal, as masks."""

    def __init__(self, bodies: dict[str, Node], terminals: dict[str, Node], start: str) -> None:
        self._bodies = bodies
        self._terminals = terminals
        self._first: dict[str, tuple[bool, int]] = dict.fromkeys(bodies, (False, 0))
        for name, node in terminals.items():
            self._first[name] = False, Automaton(node).first_bytes
        self.masks = dict.fromkeys([*bodies, *terminals], 0)
        order = list(bodies)
        for _ in range(MAX_SWEEPS):
            order.reverse()  # chains of rules run either way
            if not sum(self._grow(name) for name in order):
                break
        else:
            self.masks = dict.fromkeys(self.masks, _ALL_BYTES)  # it would take too long to find out
        for _ in range(MAX_SWEEPS):
            order.reverse()
            self._changed = False
            for name in order:
                self._walk(bodies[name], self.masks[name])
            if not self._changed:
                return
        self.masks = dict.fromkeys(self.masks, _ALL_BYTES)

    def _grow(self, name: str) -> bool:
        before = self._first[name]
        self._first[name] = self._begin(self._bodies[name])
        return before != self._first[name]

    def _begin(self, node: Node) -> tuple[bool, int]:
        """(Whether it may be empty, first bytes)."""
        if isinstance(node, Name):
            return self._first[node.name]
        if isinstance(node, Repeat):
            empty, mask = self._begin(node.part)
            return empty or node.low == 0, mask if node.high != 0 else 0
        if isinstance(node, Either):
            options = [self._begin(option) for option in node.options]
            return any(empty for empty, _ in options), union(mask for _, mask in options)
        mask = 0
        for part in _parts(node):
            empty, own = self._begin(part)
            mask |= own
            if not empty:
                return False, mask
        return True, mask

    def _walk(self, node: Node, after: int) -> None:
        if isinstance(node, Name):
            if after & ~self.masks[node.name]:
                self.masks[node.name] |= after
                self._changed = True
        elif isinstance(node, Repeat):
            many = node.high is None or node.high > 1
            self._walk(node.part, after | (self._begin(node.part)[1] if many else 0))
        elif isinstance(node, Either):
            for option in node.options:
                self._walk(option, after)
        else:
            for part in reversed(_parts(node)):
                self._walk(part, after)
                empty, own = self._begin(part)
                after = own | (after if empty else 0)


def _parts(node: Node) -> tuple[Node, ...]:
    return node.parts if isinstance(node, Sequence) else node.options if isinstance(node, Either) else ()


def _like(node: Node, parts: list[Node]) -> Node:
    if len(parts) == 1:
        return parts[0]
    return Either(tuple(parts)) if isinstance(node, Either) else Sequence(tuple(parts))


def _optional(use: Node, node: Node) -> Node:
    return Repeat(use, 0, 1) if _is_nullable(node) else use


def _replaced(node: Node, new: dict[str, Node]) -> Node:
    if isinstance(node, Name):
        return new.get(node.name, node)
    if isinstance(node, Repeat):
        return Repeat(_replaced(node.part, new), node.low, node.high)
    return _like(node, [_replaced(part, new) for part in _parts(node)]) if _parts(node) else node


def _is_nullable(node: Node) -> bool:
    if isinstance(node, Text):
        return not node.text
    if isinstance(node, Repeat):
        return node.low == 0 or _is_nullable(node.part)
    if isinstance(node, Either):
        return any(map(_is_nullable, node.options))
    return isinstance(node, Sequence) and all(map(_is_nullable, node.parts))


def _without_empty(node: Node) -> Node | None:
    """The same texts but the empty one; None if there is no other."""
    if not _is_nullable(node):
        return node
    if isinstance(node, Repeat):
        rest = None if node.high == 0 else _without_empty(node.part)
        return None if rest is None else Repeat(rest, 1, node.high)
    options: list[Node] = []
    if isinstance(node, Either):
        options = [rest for option in node.options if (rest := _without_empty(option)) is not None]
    elif isinstance(node, Sequence):  # all parts may be empty: the first that is not is one after the other
        for i, part in enumerate(node.parts):
            if (rest := _without_empty(part)) is not None:
                options.append(Sequence((rest, *node.parts[i + 1 :])))
    return _like(Either(()), options) if options else None
