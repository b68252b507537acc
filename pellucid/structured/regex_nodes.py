"""Pieces of a regular expression, and how they are written in Rust's syntax without anchors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

ANY = r"[\u{0}-\u{10FFFF}]"


class MisplacedAnchor(Exception):
    """There is a ^ or a $ elsewhere than at the ends."""


@dataclass(frozen=True)
class Text:
    """A piece in Rust's syntax. size: characters and classes, with repetitions written out."""

    rust: str
    size: int = 1


@dataclass(frozen=True)
class Anchor:
    char: str  # ^ or $
    size: int = 0


@dataclass(frozen=True)
class Sequence:
    parts: tuple[Node, ...]

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)


@dataclass(frozen=True)
class Either:
    options: tuple[Node, ...]

    @property
    def size(self) -> int:
        return sum(option.size for option in self.options)


Node = Text | Anchor | Sequence | Either
REST = Text(f"{ANY}*")


def without_anchors(node: Node, open_left: bool, open_right: bool) -> Node:
    """`node` without its anchors; where it has none and the end is open, any text may be there."""
    if isinstance(node, Either):
        return Either(tuple(without_anchors(option, open_left, open_right) for option in node.options))
    parts: list[Node] = list(node.parts) if isinstance(node, Sequence) else [node]
    while parts and parts[0] == Anchor("^"):
        parts, open_left = parts[1:], False
    while parts and parts[-1] == Anchor("$"):
        parts, open_right = parts[:-1], False
    if parts and has_anchor(parts[0]):
        parts[0] = without_anchors(parts[0], open_left, open_right and len(parts) == 1)
        open_left, open_right = False, open_right and len(parts) > 1
    if len(parts) > 1 and has_anchor(parts[-1]):
        parts[-1] = without_anchors(parts[-1], False, open_right)
        open_right = False
    if any(has_anchor(part) for part in parts):
        raise MisplacedAnchor
    return Sequence((*[REST] * open_left, *parts, *[REST] * open_right))


def nodes(node: Node) -> Iterator[Node]:
    yield node
    for child in node.parts if isinstance(node, Sequence) else node.options if isinstance(node, Either) else ():
        yield from nodes(child)


def has_anchor(node: Node) -> bool:
    return any(isinstance(n, Anchor) for n in nodes(node))


def write(node: Node) -> str:
    if isinstance(node, Sequence):
        return "".join(f"(?:{write(p)})" if isinstance(p, Either) else write(p) for p in node.parts)
    if isinstance(node, Either):
        return "|".join(write(option) for option in node.options)
    assert isinstance(node, Text)
    return node.rust
