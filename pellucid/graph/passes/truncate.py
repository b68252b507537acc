"""truncate: the model's first layers, then its head."""

from __future__ import annotations

from dataclasses import replace

from pellucid.errors import GraphError
from pellucid.graph.ir import Graph, Value


def truncate(graph: Graph, layers: int) -> Graph:
    """Keeps layers 0 … layers - 1; the head then reads what layer `layers` would have read.

    Raises GraphError when there are not that many layers, when more than one value crosses the cut, or when an output
    (a tap) lies in a layer that is cut away.
    """
    total = graph.num_layers
    if not 1 <= layers <= total:
        raise GraphError(f"truncate: the graph has {total} layers, cannot keep the first {layers}")
    if layers == total:
        return graph
    kept = _crossing(graph, layers)
    last = _crossing(graph, total)
    if (kept.rows, kept.width) != (last.rows, last.width):
        raise GraphError(f"truncate: the head reads {last}, but layer {layers} reads {kept}")
    nodes = [
        replace(node, inputs=tuple(kept if value == last else value for value in node.inputs))
        for node in graph
        if node.layer is None or node.layer < layers
    ]
    names = {node.name for node in nodes}
    for name, value in graph.outputs.items():
        if value.name not in names:
            raise GraphError(f"truncate: output {name} lies in a layer after the first {layers}; do not tap it")
    return Graph(tuple(nodes), graph.outputs)


def _crossing(graph: Graph, layer: int) -> Value:
    """The one value that is made in the layers before `layer` and read after them."""
    inside = {node.name for node in graph if node.layer is not None and node.layer < layer}
    crossing = {
        value.name: value for node in graph if node.name not in inside for value in node.inputs if value.name in inside
    }
    if len(crossing) != 1:
        found = ", ".join(map(str, crossing.values())) or "nothing"
        raise GraphError(f"truncate: {found} crosses from layer {layer - 1} to the next, expected exactly one value")
    return next(iter(crossing.values()))
