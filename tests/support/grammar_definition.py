"""What GBNF means, said plainly: a node leads from one place of a text to a set of places; rules by fixed point."""

from __future__ import annotations

import random

from pellucid.structured.grammar_nodes import Chars, Definitions, Either, Name, Node, Repeat, Sequence, Text


def matches(rules: Definitions, start: str, text: str) -> bool:
    known: dict[tuple[str, int], frozenset[int]] = {}

    def ends(node: Node, at: int) -> frozenset[int]:
        if isinstance(node, Text):
            return frozenset({at + len(node.text)} if text.startswith(node.text, at) else ())
        if isinstance(node, Chars):
            fits = at < len(text) and any(low <= ord(text[at]) <= high for low, high in node.ranges)
            return frozenset({at + 1} if fits else ())
        if isinstance(node, Name):
            return known.setdefault((node.name, at), frozenset())
        if isinstance(node, Either):
            return frozenset().union(*(ends(option, at) for option in node.options))
        places = frozenset({at})
        if isinstance(node, Sequence):
            for part in node.parts:
                places = frozenset().union(*(ends(part, place) for place in places))
            return places
        assert isinstance(node, Repeat)
        most = node.low + len(text) + 1 if node.high is None else node.high
        found = places if node.low == 0 else frozenset[int]()
        for count in range(1, most + 1):
            places = frozenset().union(*(ends(node.part, place) for place in places))
            if count >= node.low:
                if places <= found:
                    break
                found |= places
        return found

    before: dict[tuple[str, int], frozenset[int]] = {}
    known[start, 0] = frozenset()
    while known != before:
        before = dict(known)
        for name, at in before:
            known[name, at] = ends(rules[name].node, at)
    return len(text) in known[start, 0]


def random_gbnf(rng: random.Random) -> str:
    """A grammar of three rules over the letters a and b and brackets."""

    def expression(depth: int) -> str:
        kind = rng.randrange(9 if depth else 4)
        if kind < 2:
            return rng.choice(['"a"', '"b"', '"ab"', '"ba"', '"aa"'])
        if kind == 2:
            return rng.choice(["[ab]", "[^b]", "."])
        if kind == 3:
            return rng.choice(["root", "x", "y"])
        if kind < 6:
            return " ".join(expression(depth - 1) for _ in range(rng.randint(2, 3)))
        inner = f"({expression(depth - 1)})"
        return f"({inner} | {expression(depth - 1)})" if kind == 6 else inner + rng.choice(["*", "+", "?", "{1,2}"])

    return "\n".join(
        f"{name} ::= {expression(3)} | {end}" for name, end in (("root", "x"), ("x", '"a" y'), ("y", '"b"'))
    )
