"""GraphBuilder: one method an operator, every shape checked while the graph is built.

What each operator computes stands in executors/reference.py, and as a page in docs/operators.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pellucid.errors import GraphError
from pellucid.formats.qtensor import QTensor
from pellucid.graph.checks import Place
from pellucid.graph.ir import Attr, Graph, Node, Rows, Value
from pellucid.graph.weights import format_shape

ACTIVATIONS = ("silu", "gelu_tanh", "gelu")
ROPE_STYLES = ("half", "interleaved")
EMBED_SOURCES = ("tokens", "positions")


@dataclass(frozen=True)
class Norm:
    """A norm that a linear applies to its input first: "rms" (with `offset`) or "layer" (with `bias`)."""

    kind: Literal["rms", "layer"]
    weight: QTensor
    eps: float
    bias: QTensor | None = None
    offset: float = 0.0


class GraphBuilder:
    """Appends nodes in execution order.

    Inside `with g.layer(i):` nodes belong to layer i and their names start with `blk.i.`. A node without a `name` is
    called after its operator. Every method raises GraphError, naming layer, node and tensor, when shapes or settings do
    not fit; nothing is appended then.
    """

    def __init__(self) -> None:
        self._nodes: list[Node] = []
        self._values: dict[str, Value] = {}
        self._tensors: dict[str, QTensor] = {}
        self._cache_layers: set[int] = set()
        self._layer: int | None = None

    @contextmanager
    def layer(self, index: int) -> Iterator[None]:
        """Nodes appended inside belong to transformer layer `index` (0, 1, 2, … without gaps)."""
        if self._layer is not None:
            raise GraphError(f"layer {index} cannot be opened inside layer {self._layer}")
        self._layer = index
        try:
            yield
        finally:
            self._layer = None

    def embed(
        self,
        weight: QTensor,
        *,
        source: Literal["tokens", "positions"] = "tokens",
        scale: float = 1.0,
        name: str | None = None,
    ) -> Value:
        """Rows of `weight` [V, E] picked by token id or by position, times `scale`: [T, E]."""
        at = self._start("embed", name)
        at.shape(weight, (None, None))
        at.one_of("source", source, EMBED_SOURCES)
        attrs: dict[str, Attr] = {"source": source, "scale": at.finite("scale", scale)}
        return self._append(at, "T", weight.shape[1], (), {"weight": weight}, attrs)

    def linear(
        self,
        x: Value,
        weight: QTensor | Sequence[QTensor],
        bias: QTensor | Sequence[QTensor | None] | None = None,
        *,
        norm: Norm | None = None,
        residual: Value | None = None,
        name: str | None = None,
    ) -> Value:
        """[residual +] norm?(x) Wᵀ + b. Several weights [N0, I], [N1, I] … are stacked along their outputs: [., ΣN]."""
        at = self._start("linear", name)
        self._known(at, x)
        matrices = [weight] if isinstance(weight, QTensor) else list(weight)
        biases = [bias] if isinstance(bias, QTensor) else list(bias or [None] * len(matrices))
        if not matrices or len(matrices) != len(biases):
            raise at.error(f"has {len(matrices)} weights and {len(biases)} biases, expected as many of each")
        weights: dict[str, QTensor] = {}
        for i, matrix in enumerate(matrices):
            at.shape(matrix, (None, x.width), f" because its input {x} has {x.width} columns")
            weights[f"weight{i or ''}"] = matrix
        for i, (vector, matrix) in enumerate(zip(biases, matrices, strict=True)):
            if vector is not None:
                at.vector(vector, matrix.shape[0])
                weights[f"bias{i or ''}"] = vector
        width = sum(matrix.shape[0] for matrix in matrices)
        attrs: dict[str, Attr] = {}
        if norm is not None:
            at.one_of("norm", norm.kind, ("rms", "layer"))
            attrs |= {"norm": norm.kind, "eps": at.positive("eps", norm.eps)}
            attrs |= {"norm_offset": at.finite("norm_offset", norm.offset)}
            at.vector(norm.weight, x.width)
            weights["norm"] = norm.weight
            if norm.bias is not None:
                at.vector(norm.bias, x.width)
                weights["norm_bias"] = norm.bias
        inputs: tuple[Value, ...] = (x,)
        if residual is not None:
            self._known(at, residual)
            if (residual.rows, residual.width) != (x.rows, width):
                raise at.error(f"residual {residual} does not fit, expected [{x.rows},{width}]")
            inputs = (x, residual)
        return self._append(at, x.rows, width, inputs, weights, attrs)

    def rms_norm(self, x: Value, weight: QTensor, *, eps: float, offset: float = 0.0, name: str | None = None) -> Value:
        """Each group of G = len(weight) columns is normalised on its own; G must divide the width."""
        at = self._start("rms_norm", name)
        self._known(at, x)
        at.vector(weight, None)
        if x.width % weight.shape[0]:
            found = format_shape(weight.shape)
            raise at.error(
                f"tensor {weight.name} is {found}, expected a size that divides the {x.width} columns of {x}"
            )
        attrs: dict[str, Attr] = {"eps": at.positive("eps", eps), "offset": at.finite("offset", offset)}
        return self._append(at, x.rows, x.width, (x,), {"weight": weight}, attrs)

    def layer_norm(
        self, x: Value, weight: QTensor, bias: QTensor | None = None, *, eps: float, name: str | None = None
    ) -> Value:
        """Mean 0 and variance 1 for each row, times `weight` [width], plus `bias` [width]."""
        at = self._start("layer_norm", name)
        self._known(at, x)
        weights = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
        for vector in weights.values():
            at.vector(vector, x.width)
        return self._append(at, x.rows, x.width, (x,), weights, {"eps": at.positive("eps", eps)})

    def slice(self, x: Value, start: int, width: int, *, name: str | None = None) -> Value:
        """Columns start … start + width - 1 of `x`."""
        at = self._start("slice", name)
        self._known(at, x)
        if start < 0 or width < 1 or start + width > x.width:
            raise at.error(f"columns {start} to {start + width} do not lie inside {x}")
        return self._append(at, x.rows, width, (x,), {}, {"start": start})

    def rope(
        self,
        x: Value,
        inv_freq: QTensor,
        *,
        head_size: int,
        style: Literal["half", "interleaved"] = "half",
        scale: float = 1.0,
        name: str | None = None,
    ) -> Value:
        """Rotates the first 2·len(inv_freq) dims of every head by position · inv_freq."""
        at = self._start("rope", name)
        self._tokens(at, x)
        at.at_least("head_size", head_size, 2)
        at.one_of("style", style, ROPE_STYLES)
        if x.width % head_size:
            raise at.error(f"{x} cannot be cut into heads of {head_size} columns")
        at.vector(inv_freq, None)
        if 2 * inv_freq.shape[0] > head_size:
            found = format_shape(inv_freq.shape)
            raise at.error(f"tensor {inv_freq.name} is {found}, expected at most [{head_size // 2}], half of head_size")
        attrs: dict[str, Attr] = {"head_size": head_size, "style": style, "scale": at.finite("scale", scale)}
        return self._append(at, x.rows, x.width, (x,), {"inv_freq": inv_freq}, attrs)

    def attention(
        self,
        q: Value,
        k: Value,
        v: Value,
        *,
        num_heads: int,
        num_kv_heads: int,
        head_size: int,
        scale: float,
        window: int = 0,
        softcap: float = 0.0,
        name: str | None = None,
    ) -> Value:
        """Causal attention over the layer's KV cache, once a layer. window 0 sees all; softcap 0 caps nothing."""
        at = self._start("attention", name)
        for value in (q, k, v):
            self._tokens(at, value)
        attrs: dict[str, Attr] = {
            "num_heads": at.at_least("num_heads", num_heads, 1),
            "num_kv_heads": at.at_least("num_kv_heads", num_kv_heads, 1),
            "head_size": at.at_least("head_size", head_size, 1),
            "scale": at.positive("scale", scale),
            "window": at.at_least("window", window, 0),
            "softcap": at.positive("softcap", softcap) if softcap else 0.0,
        }
        if num_heads % num_kv_heads:
            raise at.error(f"num_heads is {num_heads}, expected a multiple of num_kv_heads, {num_kv_heads}")
        for role, value, heads in (("q", q, num_heads), ("k", k, num_kv_heads), ("v", v, num_kv_heads)):
            if value.width != heads * head_size:
                raise at.error(f"{role} is {value}, expected {heads} heads × {head_size} = {heads * head_size} columns")
        if self._layer is None:
            raise at.error("attention must be inside a layer, whose KV cache it uses; open one with `with g.layer(i):`")
        if self._layer in self._cache_layers:
            raise at.error("this layer has an attention already; a layer has one KV cache")
        value = self._append(at, "T", num_heads * head_size, (q, k, v), {}, attrs)
        self._cache_layers.add(self._layer)
        return value

    def glu(self, gate: Value, up: Value, *, act: str, name: str | None = None) -> Value:
        """act(gate) * up, for feed-forward blocks with a gate."""
        at = self._start("glu", name)
        self._same(at, gate, up)
        at.one_of("act", act, ACTIVATIONS)
        return self._append(at, gate.rows, gate.width, (gate, up), {}, {"act": act})

    def act(self, x: Value, *, act: str, name: str | None = None) -> Value:
        """`act` is "silu", "gelu" or "gelu_tanh"."""
        at = self._start("act", name)
        self._known(at, x)
        at.one_of("act", act, ACTIVATIONS)
        return self._append(at, x.rows, x.width, (x,), {}, {"act": act})

    def add(self, a: Value, b: Value, *, name: str | None = None) -> Value:
        """a + b, of one shape."""
        at = self._start("add", name)
        self._same(at, a, b)
        return self._append(at, a.rows, a.width, (a, b), {}, {})

    def softcap(self, x: Value, *, cap: float, name: str | None = None) -> Value:
        """cap * tanh(x / cap)."""
        at = self._start("softcap", name)
        self._known(at, x)
        return self._append(at, x.rows, x.width, (x,), {}, {"cap": at.positive("cap", cap)})

    def select(self, x: Value, *, name: str | None = None) -> Value:
        """Of T rows, the R whose logits are wanted."""
        at = self._start("select", name)
        self._tokens(at, x)
        return self._append(at, "R", x.width, (x,), {}, {})

    def finish(self, logits: Value) -> Graph:
        """The graph built so far, with `logits` [R, V] as its output. Raises GraphError unless it has rows R."""
        if self._values.get(logits.name) != logits:
            raise GraphError(f"logits {logits} is not a value of this graph")
        if logits.rows != "R":
            raise GraphError(f"logits are {logits}, expected one row per wanted row (R): put `select` before the head")
        layers = {node.layer for node in self._nodes if node.layer is not None}
        if layers != set(range(len(layers))):
            raise GraphError(f"the graph has layers {sorted(layers)}, expected 0 to {len(layers) - 1} without gaps")
        return Graph(tuple(self._nodes), {"logits": logits})

    def _start(self, op: str, name: str | None) -> Place:
        """Where the next node stands, for error messages. A given name must be new; a default one is made so."""
        prefix = "" if self._layer is None else f"blk.{self._layer}."
        full = prefix + (name or op)
        at = Place(op, full, self._layer)
        if name is None:
            count = 2
            while full in self._values:
                full = f"{prefix}{op}_{count}"
                count += 1
            return Place(op, full, self._layer)
        if full in self._values:
            raise at.error("another node has this name already, names must be unique")
        return at

    def _append(
        self,
        at: Place,
        rows: Rows,
        width: int,
        inputs: tuple[Value, ...],
        weights: dict[str, QTensor],
        attrs: dict[str, Attr],
    ) -> Value:
        for tensor in weights.values():
            known = self._tensors.setdefault(tensor.name, tensor)
            if known is not tensor and (known.shape != tensor.shape or not np.array_equal(known.data, tensor.data)):
                raise at.error(f"another tensor of this graph is called {tensor.name} and holds other numbers")
        value = Value(at.name, rows, width)
        self._nodes.append(Node(at.op, value, inputs, weights, attrs, self._layer))
        self._values[at.name] = value
        return value

    def _known(self, at: Place, value: Value) -> None:
        if self._values.get(value.name) != value:
            raise at.error(f"{value} is not a value of this graph")

    def _tokens(self, at: Place, value: Value) -> None:
        self._known(at, value)
        if value.rows != "T":
            raise at.error(f"{value} has rows {value.rows}, expected one row per token (T)")

    def _same(self, at: Place, a: Value, b: Value) -> None:
        self._known(at, a)
        self._known(at, b)
        if (a.rows, a.width) != (b.rows, b.width):
            raise at.error(f"{a} and {b} differ in shape, expected the same")
