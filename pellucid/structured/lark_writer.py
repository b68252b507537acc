"""Definitions to Lark for llguidance: new names, everything in it written in one way."""

from __future__ import annotations

from pellucid.structured.grammar_nodes import (
    Chars,
    Definitions,
    Either,
    Expression,
    Name,
    Node,
    Repeat,
    Schema,
    Sequence,
    Text,
    reachable,
)
from pellucid.structured.regex import literal


def write(definitions: Definitions, start: str, ignored: tuple[Node, ...] = ()) -> str:
    """The rules that `start` leads to, as `start`; `ignored` may stand between all terminals."""
    wanted = dict.fromkeys(reachable(definitions, start))
    if ignored:
        wanted |= dict.fromkeys(name for name in definitions if definitions[name].is_terminal)
    new = {name: f"{'T' if definitions[name].is_terminal else 'r'}{i}" for i, name in enumerate(wanted)}
    lines = [f"start: {new[start]}"]
    for name, own in new.items():
        lines.append(f"{own}: {_write(definitions[name].node, new)}")
    return "\n".join([*lines, *(f"%ignore {_write(node, new)}" for node in ignored)]) + "\n"


def _write(node: Node, names: dict[str, str]) -> str:
    if isinstance(node, Either):
        return " | ".join(_write(option, names) for option in node.options)
    if isinstance(node, Sequence):
        return (
            " ".join(
                _in_brackets(part, names) if isinstance(part, Either) else _write(part, names) for part in node.parts
            )
            or '""'
        )
    if isinstance(node, Repeat):
        if node.high == 0:
            return '""'
        short = {(0, None): "*", (1, None): "+", (0, 1): "?"}
        high = "" if node.high is None else node.high
        return _in_brackets(node.part, names) + short.get((node.low, node.high), f"{{{node.low},{high}}}")
    if isinstance(node, Name):
        return names[node.name]
    if isinstance(node, Schema):
        return f"%json {node.json}"
    return f"/{expression(node)}/" if node != Text("") else '""'


def _in_brackets(node: Node, names: dict[str, str]) -> str:
    text = _write(node, names)
    return text if isinstance(node, Name | Text | Chars | Expression) else f"({text})"


def expression(node: Text | Chars | Expression) -> str:
    """In Rust's syntax."""
    if isinstance(node, Text):
        return literal(node.text)
    if isinstance(node, Expression):
        return node.rust
    return f"[{''.join(_range(first, last) for first, last in node.ranges)}]"


def _range(first: int, last: int) -> str:
    return f"\\u{{{first:X}}}" if first == last else f"\\u{{{first:X}}}-\\u{{{last:X}}}"
