"""hidden: the model's last hidden states as an output of their own, for the rows that a batch asks for."""

from __future__ import annotations

from dataclasses import replace

from pellucid.errors import GraphError
from pellucid.graph.ir import Graph, Node, Value

HIDDEN = "hidden"
"""The output's name in Graph.outputs and StepResult.taps."""

_NORMS = ("rms_norm", "layer_norm")


def hidden(graph: Graph) -> Graph:
    """Adds the output "hidden" [P, E]: what the head reads, after the final norm, for the rows of batch.hidden_rows.

    It has rows of its own, so a batch pays for the hidden states it asks for and for no others, whatever logits it
    wants. No matrix is used twice. Comes before `fuse`, which moves the final norm into the head.

    Raises GraphError unless the graph has one `select`, where the head begins, and what follows it is not fused.
    """
    selects = [node for node in graph if node.op == "select"]
    if len(selects) != 1:
        raise GraphError(f"hidden: the graph has {len(selects)} `select` nodes, expected one, before the head")
    readers = graph.consumers()[selects[0].name]
    if any("norm" in node.attrs for node in readers):
        raise GraphError("hidden: this graph is fused, and the final norm has no value of its own: hidden before fuse")
    [x] = selects[0].inputs
    added = [Node("select", Value("hidden_select", "P", x.width), (x,))]
    if len(readers) == 1 and readers[0].op in _NORMS:
        added.append(replace(readers[0], output=Value("hidden_norm", "P", x.width), inputs=(added[0].output,)))
    return Graph((*graph.nodes, *added), {**graph.outputs, HIDDEN: added[-1].output})
