"""The reference executor: what every operator means, in NumPy.

This file is the specification that every other executor is tested against, and the place to read what the engine
computes; docs/operators.md is made from it. It is written to be understood, not to be fast: no kernel tricks, no
threads of its own, no quantised arithmetic may enter. Weights are expanded to floats once, when a graph is compiled.
The roundings it knows, to eight bits and to bfloat16, are there on request only: they define those profiles.

Results do not depend on the batch beyond rounding: NumPy's matrix product may sum in another order for another number
of rows. Bit-for-bit batch invariance is the promise of the executors that serve requests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pellucid.errors import ExecutorError, ResourceError, UnsupportedModel
from pellucid.executors.base import BLOCK_SIZE, Batch, BlockCopy, ProgramInfo, Progress, StepResult, id_limits
from pellucid.executors.kv_cache import check_copies, kv_groups, kv_layers, kv_windows
from pellucid.formats.finite import check_finite
from pellucid.formats.quant import QuantType
from pellucid.graph.ir import Graph, Node

Array = npt.NDArray[np.floating[Any]]  # float32, or float64 on request
Ids = npt.NDArray[np.integer[Any]]


def embed(ids: Ids, weight: Array, *, scale: float) -> Array:
    """y[t] = scale · weight[ids[t]]

    `ids` are the token ids (source "tokens") or the positions (source "positions", learned position embeddings).
    Gemma scales its embeddings by √E.

    Source: Vaswani et al. 2017, "Attention Is All You Need", §3.4.
    """
    return weight[ids] * scale


def linear(x: Array, weights: Sequence[Array], biases: Sequence[Array | None], residual: Array | None = None) -> Array:
    """y = residual + x · Wᵀ + b

    W is [outputs, inputs]. Several weights W0, W1, … stand side by side in the output, as [x·W0ᵀ + b0, x·W1ᵀ + b1, …].
    b and residual may be absent. A fused `norm` ("rms" or "layer") is first applied to x, as `rms_norm` and
    `layer_norm` say, with the weights `norm` and `norm_bias`.
    """
    parts = [x @ w.T if b is None else x @ w.T + b for w, b in zip(weights, biases, strict=True)]
    y = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    return y if residual is None else residual + y


INT8_TYPES = frozenset({
    QuantType.Q4_0, QuantType.Q4_1, QuantType.Q5_0, QuantType.Q5_1,
    QuantType.Q2_K, QuantType.Q3_K, QuantType.Q4_K, QuantType.Q5_K, QuantType.Q6_K,
})  # fmt: skip
"""Weights whose inputs `activations="int8"` rounds: those with unsigned codes (decisions/0008)."""


def round_to_int8(x: Array) -> Array:
    """Blocks of 32 columns, each rounded to q · scale with whole |q| ≤ 127 and scale = max|x| / 127."""
    blocks = x.astype(np.float32).reshape(len(x), -1, 32)
    largest = np.abs(blocks).max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        inverse = np.float32(127) / largest
        inverse[~(inverse < 3e38)] = 0  # a block this small is zero
        return np.asarray(np.rint(blocks * inverse) * (largest / np.float32(127))).reshape(x.shape).astype(x.dtype)


def round_to_bfloat16(x: Array) -> Array:
    """Each number as the nearest of eight bits, ties to even; those below 2⁻¹²⁶ are zero."""
    bits = x.astype(np.float32).view(np.uint32)
    nearest = ((bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
    with np.errstate(invalid="ignore"):  # x * 0 keeps what is not finite
        rounded = np.where(np.isfinite(x) & (np.abs(x) >= 2.0**-126), nearest, x * 0)
    return rounded.astype(x.dtype)


def rms_norm(x: Array, weight: Array, *, eps: float, offset: float) -> Array:
    """y = x / √(mean(x²) + eps) · (offset + weight)

    The mean is taken over each group of G = len(weight) columns on its own: a whole row, or one head for the norms of
    queries and keys. Gemma stores its weights less one, so `offset` is 1 for its safetensors.

    Source: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization".
    """
    groups = x.reshape(len(x), x.shape[1] // len(weight), len(weight))
    mean_square = np.mean(groups * groups, axis=-1, keepdims=True)
    y: Array = groups / np.sqrt(mean_square + eps) * (offset + weight)
    return y.reshape(x.shape)


def layer_norm(x: Array, weight: Array, bias: Array | None, *, eps: float) -> Array:
    """y = (x - mean(x)) / √(var(x) + eps) · weight + bias

    Mean and variance (divided by the width, not the width less one) are those of the row. bias may be absent.

    Source: Ba, Kiros and Hinton 2016, "Layer Normalization".
    """
    centred = x - np.mean(x, axis=1, keepdims=True)
    variance = np.mean(centred * centred, axis=1, keepdims=True)
    y: Array = centred / np.sqrt(variance + eps) * weight
    return y if bias is None else y + bias


def slice_columns(x: Array, *, start: int, width: int) -> Array:
    """y = x[:, start : start + width]

    A view of some columns: one part of a stacked linear.
    """
    return x[:, start : start + width]


def rope(x: Array, positions: Ids, inv_freq: Array, *, head_size: int, style: str, scale: float) -> Array:
    """(a, b) → (a · cos θ - b · sin θ,  a · sin θ + b · cos θ),  θ = position · inv_freq[i]

    Each head of `head_size` columns has its first 2·len(inv_freq) dims rotated in pairs, and the rest left alone. Pair
    i is (i, i + len(inv_freq)) in style "half" and (2i, 2i + 1) in style "interleaved". `scale` multiplies cos and sin
    (long-context variants use it). Scaling of the frequencies is already in inv_freq.

    Source: Su et al. 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding", §3.2.
    """
    pairs = len(inv_freq)
    dims = np.arange(2 * pairs)
    first, second = (dims[0::2], dims[1::2]) if style == "interleaved" else (dims[:pairs], dims[pairs:])
    # Float64 for the angle: at position 100,000 a float32 product can already be off by 0.004.
    angle = positions[:, None, None] * inv_freq.astype(np.float64)
    cos, sin = (scale * np.cos(angle)).astype(x.dtype), (scale * np.sin(angle)).astype(x.dtype)
    heads = x.reshape(len(x), -1, head_size)
    a, b = heads[..., first], heads[..., second]
    y = heads.copy()
    y[..., first] = a * cos - b * sin
    y[..., second] = a * sin + b * cos
    return y.reshape(x.shape)


def attention(
    q: Array, keys: Array, values: Array, positions: Ids, *, scale: float, window: int, softcap: float
) -> Array:
    """y = softmax(mask(cap(scale · q · Kᵀ))) · V, for each head

    One sequence: `q` [n, H, D] are the queries of its newest tokens, `keys` and `values` [L, K, D] are all L tokens in
    its cache, in order, those of this step included. Query head h reads kv head h // (H / K) (grouped queries).
    The token at position p sees position j when j ≤ p and, with a window, j > p - window.
    With softcap c, a score s becomes c · tanh(s / c) before the mask.

    Sources: Vaswani et al. 2017, §3.2; Ainslie et al. 2023, "GQA"; Beltagy et al. 2020, "Longformer" (window);
    Gemma Team 2024, "Gemma 2" (soft-capping).
    """
    n, num_heads, head_size = q.shape
    length, num_kv_heads, _ = keys.shape
    grouped = q.reshape(n, num_kv_heads, -1, head_size).transpose(1, 2, 0, 3)  # [K, H/K, n, D]
    k, v = keys.transpose(1, 2, 0)[:, None], values.transpose(1, 0, 2)[:, None]  # [K, 1, D, L], [K, 1, L, D]
    scores: Array = scale * (grouped @ k)  # [K, H/K, n, L]
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    distance = positions[:, None] - np.arange(length)  # [n, L]
    visible = (distance >= 0) & (distance < (window or math.inf))
    scores = np.where(visible, scores, -math.inf)
    weights: Array = np.exp(scores - np.max(scores, axis=-1, keepdims=True))
    weights /= np.sum(weights, axis=-1, keepdims=True)
    return (weights @ v).transpose(2, 0, 1, 3).reshape(n, num_heads * head_size)


def activation(x: Array, *, act: str) -> Array:
    """y = act(x), element by element

    - "silu": x / (1 + e⁻ˣ)
    - "gelu": x · Φ(x) = x/2 · (1 + erf(x / √2))
    - "gelu_tanh": x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))

    Sources: Elfwing et al. 2017 (SiLU); Hendrycks and Gimpel 2016, "Gaussian Error Linear Units".
    """
    match act:
        case "silu":
            with np.errstate(over="ignore"):  # e⁻ˣ may be infinite: the gate is then the 0 it should be
                gate: Array = 1 / (1 + np.exp(-x))
        case "gelu":
            gate = (1 + _erf(x / math.sqrt(2))) / 2
        case "gelu_tanh":
            gate = (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))) / 2
        case _:
            raise ExecutorError(f"there is no activation {act!r}")
    return x * gate


def _erf(x: Array) -> Array:
    return np.asarray(np.frompyfunc(math.erf, 1, 1)(x), x.dtype)


def glu(gate: Array, up: Array, *, act: str) -> Array:
    """y = act(gate) · up, element by element

    Source: Shazeer 2020, "GLU Variants Improve Transformer". The activations are those of operator `act`.
    """
    return activation(gate, act=act) * up


def add(a: Array, b: Array) -> Array:
    """y = a + b

    The residual connection.

    Source: He et al. 2015, "Deep Residual Learning for Image Recognition".
    """
    return a + b


def softcap(x: Array, *, cap: float) -> Array:
    """y = cap · tanh(x / cap)

    Keeps logits within ±cap.

    Source: Gemma Team 2024, "Gemma 2: Improving Open Language Models at a Practical Size".
    """
    y: Array = cap * np.tanh(x / cap)
    return y


def select(x: Array, rows: Ids) -> Array:
    """y = x[rows]

    Of the T rows of a step, the R ones whose logits are wanted (the last of each sequence that will be sampled), or
    the P ones whose final hidden states are.
    """
    return x[rows]


OPERATORS: Mapping[str, Callable[..., Array]] = {
    "embed": embed,
    "linear": linear,
    "rms_norm": rms_norm,
    "layer_norm": layer_norm,
    "slice": slice_columns,
    "rope": rope,
    "attention": attention,
    "glu": glu,
    "act": activation,
    "add": add,
    "softcap": softcap,
    "select": select,
}
"""Every operator of the graph, in the order of docs/operators.md."""


class ReferenceProgram:
    """A graph with its weights as float arrays and, for each layer, the KV cache as arrays [slots, K, D]."""

    def __init__(self, graph: Graph, num_blocks: int | Sequence[int], dtype: npt.DTypeLike, rounding: str) -> None:
        if unknown := sorted({node.op for node in graph} - OPERATORS.keys()):
            raise UnsupportedModel(f"the reference executor has no operator {', '.join(unknown)}")
        self._graph = graph
        self._rounding = rounding
        self._last_reader = {value.name: node.name for node in graph for value in (node.output, *node.inputs)}
        self._vocab_size, self._max_positions = id_limits(graph)
        groups = kv_groups(graph, num_blocks)
        windows = kv_windows(graph)
        self._group = {layer.index: windows.index(layer.window) for layer in kv_layers(graph)}
        try:
            self._weights = {name: t.dequantize().astype(dtype, copy=False) for name, t in graph.weights().items()}
            caches = {
                layer.index: (
                    groups[self._group[layer.index]].num_blocks * BLOCK_SIZE,
                    layer.num_kv_heads,
                    layer.head_size,
                )
                for layer in kv_layers(graph)
            }
            self._keys = {index: np.zeros(shape, dtype) for index, shape in caches.items()}
            self._values = {index: np.zeros(shape, dtype) for index, shape in caches.items()}
        except MemoryError as error:
            raise ResourceError(f"not enough memory for the weights and the KV cache ({groups}): {error}") from error
        self._closed = False
        self.info = ProgramInfo(
            executor="reference",
            isa="numpy",
            threads=0,
            kv_cache_dtype=np.dtype(dtype).name,
            activations=np.dtype(dtype).name if rounding == "auto" else rounding,
            kv_groups=groups,
            weight_nbytes=sum(array.nbytes for array in self._weights.values()),
        )

    def copy_blocks(self, copies: Sequence[BlockCopy]) -> None:
        if self._closed:
            raise ExecutorError("this program is closed; compile the graph again")
        check_copies(copies, self.info.kv_groups)
        for group, source, destination in copies:
            for index in (index for index, own in self._group.items() if own == group):
                for cache in (self._keys[index], self._values[index]):
                    blocks = cache.reshape(-1, BLOCK_SIZE, *cache.shape[1:])
                    blocks[destination] = blocks[source]

    def run(self, batch: Batch) -> StepResult:
        if self._closed:
            raise ExecutorError("this program is closed; compile the graph again")
        batch.check(self.info.kv_groups, self._vocab_size, self._max_positions)
        values: dict[str, Array] = {}
        outputs: dict[str, Array] = {}
        for node in self._graph:
            y = self._evaluate(node, [values[value.name] for value in node.inputs], batch)
            values[node.name] = y
            for public, value in self._graph.outputs.items():
                if value == node.output:
                    outputs[public] = np.array(y, np.float32)
            for value in (node.output, *node.inputs):
                if self._last_reader[value.name] == node.name:
                    values.pop(value.name, None)
        return StepResult(outputs.pop("logits"), outputs)

    def close(self) -> None:
        self._closed = True
        self._weights, self._keys, self._values = {}, {}, {}

    def _evaluate(self, node: Node, inputs: list[Array], batch: Batch) -> Array:
        """The value of `node`: its operator's function, called with what the node, the weights and the batch hold."""
        attrs: Mapping[str, Any] = node.attrs
        weights = {role: self._weights[tensor.name] for role, tensor in node.weights.items()}
        match node.op:
            case "embed":
                ids = batch.token_ids if attrs["source"] == "tokens" else batch.positions
                return embed(ids, weights["weight"], scale=attrs["scale"])
            case "linear":
                return self._linear(node, inputs, weights)
            case "layer_norm":
                return layer_norm(inputs[0], weights["weight"], weights.get("bias"), **attrs)
            case "slice":
                return slice_columns(inputs[0], **attrs, width=node.output.width)
            case "rope":
                return rope(inputs[0], batch.positions, weights["inv_freq"], **attrs)
            case "attention":
                return self._attention(node, inputs, batch)
            case "select":
                return select(inputs[0], batch.logit_rows if node.output.rows == "R" else batch.hidden_rows)
            case _:
                return OPERATORS[node.op](*inputs, *weights.values(), **attrs)

    def _linear(self, node: Node, inputs: list[Array], weights: Mapping[str, Array]) -> Array:
        attrs: Mapping[str, Any] = node.attrs
        x, *residual = inputs
        if attrs.get("norm") == "rms":
            x = rms_norm(x, weights["norm"], eps=attrs["eps"], offset=attrs["norm_offset"])
        elif attrs.get("norm") == "layer":
            x = layer_norm(x, weights["norm"], weights.get("norm_bias"), eps=attrs["eps"])
        roles = [role for role in weights if role.startswith("weight")]
        biases = [weights.get(role.replace("weight", "bias")) for role in roles]
        if self._rounding == "bfloat16":
            return linear(round_to_bfloat16(x), [round_to_bfloat16(weights[role]) for role in roles], biases, *residual)
        rounds = [self._rounding == "int8" and node.weights[role].type in INT8_TYPES for role in roles]
        if not any(rounds):
            return linear(x, [weights[role] for role in roles], biases, *residual)
        inputs_of = {False: x, True: round_to_int8(x)}
        parts = [linear(inputs_of[r], [weights[role]], [b]) for r, role, b in zip(rounds, roles, biases, strict=True)]
        y = np.concatenate(parts, axis=1)
        return residual[0] + y if residual else y

    def _attention(self, node: Node, inputs: list[Array], batch: Batch) -> Array:
        """Writes the step's keys and values to their slots, then attends sequence by sequence over the block tables."""
        attrs: Mapping[str, Any] = node.attrs
        assert node.layer is not None
        keys, values = self._keys[node.layer], self._values[node.layer]
        q, k, v = (x.reshape(len(x), -1, attrs["head_size"]) for x in inputs)
        group = self._group[node.layer]
        slot_mapping, block_tables = batch.slot_mapping[group], batch.block_tables[group]
        keys[slot_mapping], values[slot_mapping] = k, v
        y = np.empty_like(inputs[0])
        for b, length in enumerate(batch.seq_lens):
            rows = np.s_[batch.query_start[b] : batch.query_start[b + 1]]
            positions = batch.positions[rows]
            # Blocks behind the window of the first of these tokens belong to others by now.
            oldest = max(0, positions[0] - attrs["window"] + 1) if attrs["window"] else 0
            visible = np.arange(oldest, length)
            slots = block_tables[b, visible // BLOCK_SIZE] * BLOCK_SIZE + visible % BLOCK_SIZE  # [L]
            y[rows] = attention(
                q[rows],
                keys[slots],
                values[slots],
                positions - oldest,
                scale=attrs["scale"],
                window=attrs["window"],
                softcap=attrs["softcap"],
            )
        return y


class ReferenceExecutor:
    """Runs graphs in NumPy, in "float32" or "float64" (weights, activations and KV cache alike).

    `activations`: "int8" for the profile of that name, which rounds the inputs of quantised linears, "bfloat16" for
    that one, which rounds all inputs and weights of linears; "auto" rounds nothing.
    """

    name = "reference"

    def __init__(self, dtype: Literal["float32", "float64"] = "float32", activations: str = "auto") -> None:
        if dtype not in ("float32", "float64"):
            raise ExecutorError(f"the reference executor has no dtype {dtype!r}, expected float32 or float64")
        if activations not in (expected := ("auto", "int8", "bfloat16")):
            text = f"the reference executor has no activations {activations!r}, expected one of {', '.join(expected)}"
            raise ExecutorError(text)
        self._dtype = dtype
        self._rounding = activations

    def kv_block_nbytes(self, graph: Graph) -> list[int]:
        columns = dict.fromkeys(kv_windows(graph), 0)
        for layer in kv_layers(graph):
            columns[layer.window] += 2 * layer.num_kv_heads * layer.head_size
        return [BLOCK_SIZE * n * np.dtype(self._dtype).itemsize for n in columns.values()]

    def compile(
        self,
        graph: Graph,
        num_blocks: int | Sequence[int],
        progress: Progress | None = None,
        *,
        require_finite: bool = True,
    ) -> ReferenceProgram:
        for tensor in graph.weights().values():
            if require_finite and len(tensor.shape) == 2:
                check_finite(tensor)
        return ReferenceProgram(graph, num_blocks, self._dtype, self._rounding)
