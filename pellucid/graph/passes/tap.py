"""tap: values from inside the model as outputs beside the logits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from fnmatch import fnmatchcase

from pellucid.errors import GraphError
from pellucid.graph.ir import Graph
from pellucid.graph.weights import near_matches


def tap(graph: Graph, names: Iterable[str]) -> Graph:
    """Adds the values called `names` to the outputs, under their own names; `blk.*.attention` taps all that match.

    Raises GraphError for a name or pattern that matches nothing, with the nearest names.
    """
    values = {node.name: node.output for node in graph}
    outputs = dict(graph.outputs)
    for name in names:
        found = [value for known, value in values.items() if fnmatchcase(known, name)]
        if not found:
            raise GraphError(f"tap: no value is called {name}{near_matches(name, values)}{_fused_hint(graph)}")
        for value in found:
            if outputs.setdefault(value.name, value) != value:
                raise GraphError(f"tap: {value} cannot be an output, the graph has another one of that name")
    return replace(graph, outputs=outputs)


def _fused_hint(graph: Graph) -> str:
    fused = any(node.op == "linear" and (len(node.inputs) > 1 or "norm" in node.attrs) for node in graph)
    return "; this graph is fused, and values merged into others have no name: tap before fuse" if fused else ""
