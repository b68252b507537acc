"""The reference executor: what every operator means, in NumPy.

This file is the specification that every other executor is tested against, and the place to read what the engine
computes; docs/operators.md is made from it. It is written to be understood, not to be fast: no kernel tricks, no
threads of its own, no quantised arithmetic may enter. Weights are expanded to floats once, when a graph is compiled.

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
from pellucid.executors.base import BLOCK_SIZE, Batch, ProgramInfo, StepResult
from pellucid.executors.kv_cache import kv_layers
from pellucid.graph.ir import Graph, Node

Array = npt.NDArray[Any]


def embed(ids: Array, weight: Array, *, scale: float) -> Array:
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


def rms_norm(x: Array, weight: Array, *, eps: float, offset: float) -> Array:
    """y = x / √(mean(x²) + eps) · (offset + weight)

    The mean is taken over each group of G = len(weight) columns on its own: a whole row, or one head for the norms of
    queries and keys. Gemma stores its weights less one, so `offset` is 1 for its safetensors.

    Source: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization".
    """
    groups = x.reshape(len(x), -1, len(weight))
    y = groups / np.sqrt(np.mean(groups * groups, axis=-1, keepdims=True) + eps) * (offset + weight)
    return y.reshape(x.shape)


def layer_norm(x: Array, weight: Array, bias: Array | None, *, eps: float) -> Array:
    """y = (x - mean(x)) / √(var(x) + eps) · weight + bias

    Mean and variance (divided by the width, not the width less one) are those of the row. bias may be absent.

    Source: Ba, Kiros and Hinton 2016, "Layer Normalization".
    """
    centred = x - np.mean(x, axis=1, keepdims=True)
    y = centred / np.sqrt(np.mean(centred * centred, axis=1, keepdims=True) + eps) * weight
    return y if bias is None else y + bias


def slice(x: Array, *, start: int, width: int) -> Array:
    """y = x[:, start : start + width]

    A view of some columns: one part of a stacked linear.
    """
    return x[:, start : start + width]


def rope(x: Array, positions: Array, inv_freq: Array, *, head_size: int, style: str, scale: float) -> Array:
    """(a, b) → (a · cos θ - b · sin θ,  a · sin θ + b · cos θ),  θ = position · inv_freq[i]

    Each head of `head_size` columns has its first 2·len(inv_freq) dims rotated in pairs, and the rest left alone. Pair
    i is (i, i + len(inv_freq)) in style "half" and (2i, 2i + 1) in style "interleaved". `scale` multiplies cos and sin
    (long-context variants use it). Scaling of the frequencies is already in inv_freq.

    Source: Su et al. 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding", §3.4.
    """
    pairs = len(inv_freq)
    first, second = np.s_[..., :pairs], np.s_[..., pairs : 2 * pairs]
    if style == "interleaved":
        first, second = np.s_[..., 0 : 2 * pairs : 2], np.s_[..., 1 : 2 * pairs : 2]
    # Float64 for the angle: at position 100,000 a float32 product is already off by 0.004 rad.
    angle = positions[:, None, None] * inv_freq.astype(np.float64)
    cos, sin = (scale * np.cos(angle)).astype(x.dtype), (scale * np.sin(angle)).astype(x.dtype)
    heads = x.reshape(len(x), -1, head_size)
    a, b = heads[first], heads[second]
    y = heads.copy()
    y[first] = a * cos - b * sin
    y[second] = a * sin + b * cos
    return y.reshape(x.shape)


def attention(
    q: Array, keys: Array, values: Array, positions: Array, *, scale: float, window: int, softcap: float
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
    scores = scale * (grouped @ k)  # [K, H/K, n, L]
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    distance = positions[:, None] - np.arange(length)  # [n, L]
    visible = (distance >= 0) & (distance < (window or math.inf))
    scores = np.where(visible, scores, -np.inf)
    weights = np.exp(scores - np.max(scores, axis=-1, keepdims=True))
    weights /= np.sum(weights, axis=-1, keepdims=True)
    return (weights @ v).transpose(2, 0, 1, 3).reshape(n, num_heads * head_size)


def act(x: Array, *, act: str) -> Array:
    """y = act(x), element by element

    - "silu": x / (1 + e⁻ˣ)
    - "gelu": x · Φ(x) = x/2 · (1 + erf(x / √2))
    - "gelu_tanh": x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))

    Sources: Elfwing et al. 2017 (SiLU); Hendrycks and Gimpel 2016, "Gaussian Error Linear Units".
    """
    if act == "silu":
        with np.errstate(over="ignore"):  # e⁻ˣ may be infinite; x / ∞ is the 0 that is wanted
            return x / (1 + np.exp(-x))
    if act == "gelu":
        return x * (0.5 * (1 + _erf(x / math.sqrt(2)).astype(x.dtype)))
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


_erf: Callable[[Array], Array] = np.frompyfunc(math.erf, 1, 1)


def glu(gate: Array, up: Array, *, act: str) -> Array:
    """y = act(gate) · up, element by element

    Source: Shazeer 2020, "GLU Variants Improve Transformer". The activations are those of `act`.
    """
    return OPERATORS["act"](gate, act=act) * up


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
    return cap * np.tanh(x / cap)


def select(x: Array, rows: Array) -> Array:
    """y = x[rows]

    Of the T rows of a step, the R ones whose logits are wanted: the last of each sequence that will be sampled.
    """
    return x[rows]


OPERATORS: dict[str, Callable[..., Array]] = {
    function.__name__: function
    for function in (embed, linear, rms_norm, layer_norm, slice, rope, attention, act, glu, add, softcap, select)
}


class ReferenceProgram:
    """A graph with its weights as float arrays and a KV cache of `num_blocks` blocks."""

    def __init__(self, graph: Graph, num_blocks: int, dtype: np.dtype[Any]) -> None:
        self._graph = graph
        self._dtype = dtype
        unknown = sorted({node.op for node in graph} - OPERATORS.keys())
        if unknown:
            raise UnsupportedModel(f"the reference executor has no operator {', '.join(unknown)}")
        self._token_limit = graph.rows_of_embedding("tokens")
        self._position_limit = graph.rows_of_embedding("positions")
        slots = num_blocks * BLOCK_SIZE
        try:
            self._weights = {name: t.dequantize().astype(dtype, copy=False) for name, t in graph.weights().items()}
            # [slots, K, D] of keys and of values, for each layer
            self._cache = {
                layer.index: (np.zeros((slots, layer.num_kv_heads, layer.head_size), dtype),) * 2 for layer in kv_layers(graph)
            }
        except MemoryError as error:
            raise ResourceError(f"not enough memory for the weights and {num_blocks} KV blocks: {error}") from error
