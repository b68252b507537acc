"""Small graphs with random weights, built by hand, that use every operator between them."""

from __future__ import annotations

import numpy as np

from pellucid.formats.qtensor import QTensor
from pellucid.graph.builder import GraphBuilder
from pellucid.graph.ir import Graph, Value
from pellucid.graph.weights import from_array

VOCAB = 61


class RandomWeights:
    """Makes named F32 tensors with a fixed seed."""

    def __init__(self, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)

    def __call__(self, name: str, *shape: int, scale: float = 0.25) -> QTensor:
        return from_array(name, self._random.standard_normal(shape) * scale)

    def norm(self, name: str, size: int) -> QTensor:
        return from_array(name, 1 + 0.1 * self._random.standard_normal(size))


def random_ids(count: int, seed: int = 0) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).integers(0, VOCAB, count)]


def llama_like(num_layers: int = 3, *, interleaved: bool = False) -> Graph:
    """Pre-norm, grouped queries, q/k norms, partial rope, a gated feed-forward, soft-caps; odd layers have a window."""
    w, g = RandomWeights(), GraphBuilder()
    width, heads, kv_heads, head_size, inner = 24, 6, 2, 8, 40
    inv_freq = from_array("inv_freq", 100.0 ** -(np.arange(3) / 3))
    embedding = w("embed", VOCAB, width)
    x = g.embed(embedding, scale=2.5)
    for i in range(num_layers):
        with g.layer(i):
            h = g.rms_norm(x, w.norm(f"{i}.attn_norm", width), eps=1e-5, offset=0.3, name="attn_norm")
            q = g.linear(h, w(f"{i}.q", heads * head_size, width), w(f"{i}.q.bias", heads * head_size), name="q")
            k = g.linear(h, w(f"{i}.k", kv_heads * head_size, width), name="k")
            v = g.linear(h, w(f"{i}.v", kv_heads * head_size, width), name="v")

            def rotated(value: Value, role: str, i: int = i) -> Value:
                normed = g.rms_norm(value, w.norm(f"{i}.{role}_norm", head_size), eps=1e-5, offset=0.1)
                style = "interleaved" if interleaved else "half"
                return g.rope(normed, inv_freq, head_size=head_size, style=style, scale=1.1)

            attended = g.attention(
                rotated(q, "q"),
                rotated(k, "k"),
                v,
                num_heads=heads,
                num_kv_heads=kv_heads,
                head_size=head_size,
                scale=head_size**-0.5,
                window=7 if i % 2 else 0,
                softcap=20.0 if i % 2 else 0.0,
                name="attention",
            )
            x = g.add(x, g.linear(attended, w(f"{i}.o", width, heads * head_size), name="o"), name="attn_out")
            h = g.rms_norm(x, w.norm(f"{i}.ffn_norm", width), eps=1e-5, name="ffn_norm")
            gate = g.linear(h, w(f"{i}.gate", inner, width), name="gate")
            up = g.linear(h, w(f"{i}.up", inner, width), name="up")
            down = g.linear(g.glu(gate, up, act="silu"), w(f"{i}.down", width, inner), name="down")
            x = g.add(x, down, name="ffn_out")
    x = g.rms_norm(g.select(x), w.norm("final_norm", width), eps=1e-5, name="final_norm")
    return g.finish(g.softcap(g.linear(x, embedding, name="head"), cap=15.0, name="logits"))


def gpt2_like(num_layers: int = 2, *, num_positions: int = 80) -> Graph:
    """LayerNorm with biases, learned positions, one stored qkv matrix, a plain feed-forward."""
    w, g = RandomWeights(1), GraphBuilder()
    width, heads, head_size, inner = 24, 3, 8, 48
    embedding = w("embed", VOCAB, width)
    positions = g.embed(w("positions", num_positions, width), source="positions", name="positions")
    x = g.add(g.embed(embedding), positions)
    for i in range(num_layers):
        with g.layer(i):
            h = g.layer_norm(x, w.norm(f"{i}.ln1", width), w(f"{i}.ln1.bias", width), eps=1e-5, name="ln1")
            qkv = g.linear(h, w(f"{i}.qkv", 3 * width, width), w(f"{i}.qkv.bias", 3 * width), name="qkv")
            q, k, v = (g.slice(qkv, start, width) for start in (0, width, 2 * width))
            attended = g.attention(
                q, k, v, num_heads=heads, num_kv_heads=heads, head_size=head_size, scale=head_size**-0.5
            )
            x = g.add(g.linear(attended, w(f"{i}.o", width, width), w(f"{i}.o.bias", width), name="o"), x)
            h = g.layer_norm(x, w.norm(f"{i}.ln2", width), w(f"{i}.ln2.bias", width), eps=1e-5, name="ln2")
            inside = g.act(
                g.linear(h, w(f"{i}.up", inner, width), w(f"{i}.up.bias", inner), name="up"), act="gelu_tanh"
            )
            x = g.add(g.linear(inside, w(f"{i}.down", width, inner), name="down"), x)
    x = g.layer_norm(g.select(x), w.norm("final_norm", width), eps=1e-5)
    return g.finish(g.linear(x, embedding, name="head"))
