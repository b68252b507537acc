"""Writes docs/operators.md from the reference executor's functions and the builder's methods."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "operators.md"
sys.path.insert(0, str(ROOT))

from pellucid.executors.reference import OPERATORS  # noqa: E402
from pellucid.graph.builder import GraphBuilder  # noqa: E402

HEAD = """\
# Operators

<!-- Made by scripts/make_operator_docs.py from pellucid/executors/reference.py; edit that and run `make docs`. -->

A model is a graph of these {count} operators, and every executor implements exactly these. Each section shows how a
model file appends the node, what it computes, and the reference executor's function, which is the specification.

All values are float32 matrices with one row per token of the step (T), or per row whose logits are wanted (R).
Weight matrices are [outputs, inputs]. Letters: E hidden size, H query heads, K kv heads, D head size, V vocabulary,
L tokens of a sequence in the cache. `pellucid inspect MODEL --graph` prints a model's graph.
"""


def render() -> str:
    sections = [_section(op, function) for op, function in OPERATORS.items()]
    return "\n".join([HEAD.format(count=len(OPERATORS)), *sections])


def _section(op: str, function: Callable[..., Any]) -> str:
    formula, _, text = (inspect.getdoc(function) or "").partition("\n")
    method = getattr(GraphBuilder, op)
    parts = [
        f"## {op}",
        f"```python\ng.{op}{_parameters(method)}\n```",
        inspect.getdoc(method) or "",
        f"```text\n{formula}\n```",
        text.strip(),
        f"```python\n{_source(function)}\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _parameters(method: Callable[..., Any]) -> str:
    signature = inspect.signature(method)
    bare = [p.replace(annotation=p.empty) for p in list(signature.parameters.values())[1:]]
    return str(signature.replace(parameters=bare, return_annotation=signature.empty))


def _source(function: Callable[..., Any]) -> str:
    """The function's own lines, without its docstring."""
    lines = inspect.getsource(function).splitlines()
    [definition] = ast.parse(inspect.getsource(function)).body
    assert isinstance(definition, ast.FunctionDef)
    docstring = definition.body[0]
    return "\n".join(lines[: docstring.lineno - 1] + lines[docstring.end_lineno :])


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
