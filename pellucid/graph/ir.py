"""The graph: nodes in execution order over float32 activations.

A model is a list of nodes. A node reads earlier values and named weights and makes one value. Nothing here knows about
KV blocks, quantisation, devices, threads or batching: an executor supplies those.

Letters: T tokens in the step, R rows with logits and P rows with hidden states (R, P ≤ T), E hidden size, H query
heads, K kv heads, D head size, F feed-forward size, V vocabulary.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from pellucid.formats.qtensor import QTensor

Attr = int | float | str | bool
Rows = Literal["T", "R", "P"]


@dataclass(frozen=True)
class Value:
    """A matrix of float32 with `width` columns.

    It has one row per token ("T"), per token whose logits ("R") or per token whose hidden state ("P") is wanted.
    """

    name: str
    rows: Rows
    width: int

    def __str__(self) -> str:
        return f"%{self.name}[{self.rows},{self.width}]"


@dataclass(frozen=True)
class Node:
    """One operator. `output.name` is the node's name and is unique in its graph.

    `weights` maps a role ("weight", "bias", "norm", "inv_freq", …; "weight", "weight1", … where several matrices are
    stacked along their outputs) to a tensor. `layer` is the transformer layer it belongs to, or None outside of them.
    """

    op: str
    output: Value
    inputs: tuple[Value, ...] = ()
    weights: Mapping[str, QTensor] = field(default_factory=dict)
    attrs: Mapping[str, Attr] = field(default_factory=dict)
    layer: int | None = None

    @property
    def name(self) -> str:
        return self.output.name

    def matrices(self) -> list[QTensor]:
        """The stacked matrices of a `linear` node, in output order."""
        return [t for role, t in self.weights.items() if role.startswith("weight")]

    def __str__(self) -> str:
        args = [str(v) for v in self.inputs]
        args += [f"{role}={t.name}:{t.type.name}{list(t.shape)}" for role, t in self.weights.items()]
        args += [
            f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in self.attrs.items()
        ]
        return f"{self.output} = {self.op}({', '.join(args)})"


@dataclass(frozen=True)
class Graph:
    """Nodes in execution order; `outputs` maps a public name ("logits", or a tapped value's name) to its value."""

    nodes: tuple[Node, ...]
    outputs: Mapping[str, Value]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def with_nodes(self, nodes: list[Node]) -> Graph:
        return replace(self, nodes=tuple(nodes))

    def producers(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    def consumers(self) -> dict[str, list[Node]]:
        """For each value name, the nodes that read it."""
        found: dict[str, list[Node]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for value in node.inputs:
                found[value.name].append(node)
        return found

    @property
    def num_layers(self) -> int:
        return 1 + max((node.layer for node in self.nodes if node.layer is not None), default=-1)

    def weights(self) -> dict[str, QTensor]:
        """Every distinct tensor the graph uses, by name (a tied head counts once)."""
        return {t.name: t for node in self.nodes for t in node.weights.values()}

    def summary(self) -> str:
        """Two lines: how many nodes of each operator; how many parameters, and bytes of each stored type."""
        ops = Counter(node.op for node in self.nodes)
        tensors = self.weights().values()
        nbytes: Counter[str] = Counter()
        for tensor in tensors:
            nbytes[tensor.type.name] += tensor.nbytes
        parameters = sum(math.prod(tensor.shape) for tensor in tensors)
        return (
            f"{len(self.nodes)} nodes: {', '.join(f'{count} {op}' for op, count in ops.most_common())}\n"
            f"{parameters:,} parameters in {len(tensors)} tensors, {sum(nbytes.values()):,} bytes: "
            f"{', '.join(f'{name} {size:,}' for name, size in nbytes.most_common())}"
        )

    def dump(self) -> str:
        """The graph as text: its summary, then one node a line, layers set apart."""
        lines = [f"# {line}" for line in self.summary().splitlines()]
        layer: int | None = None
        for node in self.nodes:
            if node.layer != layer:
                layer = node.layer
                lines.append(f"# layer {layer}" if layer is not None else "# head")
            lines.append(str(node))
        lines += [f"return {name} = {value}" for name, value in self.outputs.items()]
        return "\n".join(lines)
