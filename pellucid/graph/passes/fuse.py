"""fuse: fewer, larger nodes that compute the same numbers.

    stack     linears that read the same value    → one linear with stacked weights, and a slice for each
              (q, k and v; gate and up)
    norm      a norm that one linear alone reads  → part of that linear
    residual  a linear that one add alone reads   → the linear adds the other operand itself

Each can be switched off. They work in this order, because stacking leaves a norm with a single reader.

Slices keep the names of the linears they replace, and an add's name is kept by the linear that swallows it. A norm, or
a linear before an add, has no value of its own any more; one that is an output of the graph is left alone. So `tap`
first, then `fuse`: then every name can be tapped.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from pellucid.formats.qtensor import QTensor
from pellucid.graph.ir import Attr, Graph, Node, Value


def fuse(graph: Graph, *, stack: bool = True, norm: bool = True, residual: bool = True) -> Graph:
    """`graph` with the chosen fusions done wherever they apply. Changes no result of the reference executor."""
    if stack:
        graph = _stack(graph)
    if norm:
        graph = _fuse_norms(graph)
    if residual:
        graph = _fuse_residuals(graph)
    return graph


def _stack(graph: Graph) -> Graph:
    siblings: defaultdict[tuple[str, int | None], list[Node]] = defaultdict(list)
    for node in graph:
        if _is_plain_linear(node):
            siblings[node.inputs[0].name, node.layer].append(node)
    groups = {group[0].name: group for group in siblings.values() if len(group) > 1}
    stacked = {node.name for group in groups.values() for node in group}
    nodes: list[Node] = []
    for node in graph:
        if node.name in groups:
            nodes += _stacked(groups[node.name])
        elif node.name not in stacked:
            nodes.append(node)
    return graph.with_nodes(nodes)


def _stacked(group: list[Node]) -> list[Node]:
    """One linear that makes the outputs of all of `group` side by side, and the slices that tell them apart."""
    weights: dict[str, QTensor] = {}
    slices: list[Node] = []
    first = group[0]
    prefix = first.name.rpartition(".")[0]
    short = "+".join(node.name.rpartition(".")[2] for node in group)
    whole = Value(f"{prefix}.{short}" if prefix else short, first.output.rows, sum(n.output.width for n in group))
    start = 0
    for i, node in enumerate(group):
        for role, tensor in node.weights.items():
            weights[f"{role}{i or ''}"] = tensor
        slices.append(Node("slice", node.output, (whole,), {}, {"start": start}, node.layer))
        start += node.output.width
    return [Node("linear", whole, first.inputs, weights, {}, first.layer), *slices]


def _fuse_norms(graph: Graph) -> Graph:
    consumers = graph.consumers()
    kept = _output_names(graph)
    fused: dict[str, Node] = {}  # norms by the name of the linear that takes them in
    for node in graph:
        readers = consumers[node.name]
        if node.op not in ("rms_norm", "layer_norm") or node.name in kept or len(readers) != 1:
            continue
        whole_row = node.weights["weight"].shape[0] == node.output.width
        linear = readers[0]
        if whole_row and linear.op == "linear" and "norm" not in linear.attrs and linear.inputs[0] == node.output:
            fused[linear.name] = node
    gone = {node.name for node in fused.values()}
    return graph.with_nodes(
        [_with_norm(node, fused[node.name]) if node.name in fused else node for node in graph if node.name not in gone]
    )


def _with_norm(linear: Node, norm: Node) -> Node:
    weights = {**linear.weights, "norm": norm.weights["weight"]}
    if "bias" in norm.weights:
        weights["norm_bias"] = norm.weights["bias"]
    attrs: dict[str, Attr] = {
        "norm": norm.op.removesuffix("_norm"),
        "eps": norm.attrs["eps"],
        "norm_offset": norm.attrs.get("offset", 0.0),
    }
    return replace(linear, inputs=(norm.inputs[0], *linear.inputs[1:]), weights=weights, attrs=attrs)


def _fuse_residuals(graph: Graph) -> Graph:
    consumers = graph.consumers()
    producers = graph.producers()
    kept = _output_names(graph)
    fused: dict[str, Node] = {}  # the linear with its residual, by the name of the add it takes the place of
    gone: set[str] = set()
    for add in graph:
        if add.op != "add":
            continue
        for value, other in (add.inputs[::-1], add.inputs):
            linear = producers[value.name]
            alone = len(consumers[value.name]) == 1 and value.name not in kept
            if linear.op == "linear" and len(linear.inputs) == 1 and alone:
                fused[add.name] = replace(linear, output=add.output, inputs=(*linear.inputs, other), layer=add.layer)
                gone.add(linear.name)
                break
    return graph.with_nodes([fused.get(node.name, node) for node in graph if node.name not in gone])


def _is_plain_linear(node: Node) -> bool:
    return node.op == "linear" and len(node.inputs) == 1 and len(node.matrices()) == 1 and "norm" not in node.attrs


def _output_names(graph: Graph) -> set[str]:
    return {value.name for value in graph.outputs.values()}
