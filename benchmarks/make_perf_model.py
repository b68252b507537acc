"""Make a GGUF model with random bits and the shape of Llama 3.2 1B or Llama 3 8B, for speed: its text is noise.

    python benchmarks/make_perf_model.py OUT.gguf --shape 1b --type Q4_K_M

Blocks are random bytes whose float16 scales are set to a small constant, so that every weight is finite and activations
stay in a sane range; no quantiser is needed, and speed does not depend on the values. The vocabulary is SmolLM2's.
Q4_K_M is the usual mixture: Q6_K for the embedding and for half of the value and down projections, Q4_K for the rest.
With so small a vocabulary the head is tied to the embedding in both, and the file of 8B is of 7B weights, 4.1 GB.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bench_models import fetch_smollm2
from streaming_gguf import TensorPlan, write_streaming_gguf
from support.gguf_writer import F32, U32

from pellucid.formats.checkpoint import open_checkpoint
from pellucid.formats.quant import QuantType


@dataclass(frozen=True)
class Shape:
    hidden: int
    feed_forward: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int


SHAPES = {"1b": Shape(2048, 8192, 16, 32, 8, 64), "8b": Shape(4096, 14336, 32, 32, 8, 128)}
# Byte offsets of the float16 scales in a block.
SCALES = {QuantType.Q4_0: (0,), QuantType.Q8_0: (0,), QuantType.Q4_K: (0, 2), QuantType.Q6_K: (208,)}
# A scale that makes the weights' standard deviation about 0.02, given each type's range of integers.
SCALE = {QuantType.Q4_0: 0.004, QuantType.Q8_0: 0.0003, QuantType.Q4_K: 0.00005, QuantType.Q6_K: 0.00002}
KINDS = {
    "Q4_K_M": (QuantType.Q4_K, QuantType.Q6_K),
    "Q4_0": (QuantType.Q4_0, QuantType.Q4_0),
    "Q8_0": (QuantType.Q8_0, QuantType.Q8_0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--type", choices=KINDS, default="Q4_K_M")
    args = parser.parse_args()
    with open_checkpoint(fetch_smollm2()) as template:
        vocabulary = {key: value for key, value in template.metadata.items() if key.startswith("tokenizer.")}
    shape, vocab_size = SHAPES[args.shape], len(vocabulary["tokenizer.ggml.tokens"])
    metadata = {
        "general.architecture": "llama",
        "general.name": f"random {args.shape.upper()} {args.type}",
        "llama.block_count": U32(shape.layers),
        "llama.context_length": U32(8192),
        "llama.embedding_length": U32(shape.hidden),
        "llama.feed_forward_length": U32(shape.feed_forward),
        "llama.attention.head_count": U32(shape.heads),
        "llama.attention.head_count_kv": U32(shape.kv_heads),
        "llama.attention.layer_norm_rms_epsilon": F32(1e-5),
        "llama.rope.dimension_count": U32(shape.head_size),
        "llama.rope.freq_base": F32(500_000.0),
        "llama.vocab_size": U32(vocab_size),
        **{key: U32(value) if key.endswith("_token_id") else value for key, value in vocabulary.items()},
    }
    write_streaming_gguf(args.out, metadata, dict(tensors(shape, vocab_size, *KINDS[args.type])))


def tensors(shape: Shape, vocab_size: int, base: QuantType, larger: QuantType) -> Iterator[tuple[str, TensorPlan]]:
    """Every tensor; `larger` is the type of the embedding (which is also the head) and of the sensitive half."""
    rng, hidden = np.random.default_rng(0), shape.hidden
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size

    def matrix(kind: QuantType, outputs: int, inputs: int) -> TensorPlan:
        return kind, (outputs, inputs), lambda: random_blocks(rng, kind, outputs * inputs)

    def ones() -> TensorPlan:
        return QuantType.F32, (hidden,), lambda: np.ones(hidden, np.float32)

    yield "token_embd.weight", matrix(larger, vocab_size, hidden)
    for layer in range(shape.layers):
        sensitive = larger if layer % 2 == 0 else base
        name = f"blk.{layer}.{{}}.weight"
        yield name.format("attn_norm"), ones()
        yield name.format("attn_q"), matrix(base, queries, hidden)
        yield name.format("attn_k"), matrix(base, keys, hidden)
        yield name.format("attn_v"), matrix(sensitive, keys, hidden)
        yield name.format("attn_output"), matrix(base, hidden, queries)
        yield name.format("ffn_norm"), ones()
        yield name.format("ffn_gate"), matrix(base, shape.feed_forward, hidden)
        yield name.format("ffn_up"), matrix(base, shape.feed_forward, hidden)
        yield name.format("ffn_down"), matrix(sensitive, hidden, shape.feed_forward)
    yield "output_norm.weight", ones()


def random_blocks(rng: np.random.Generator, kind: QuantType, num_weights: int) -> np.ndarray:
    """uint8 [blocks, bytes of a block]: random bits with constant scales."""
    blocks = rng.integers(0, 256, (num_weights // kind.block_size, kind.block_nbytes), dtype=np.uint8)
    for offset in SCALES[kind]:
        blocks[:, offset : offset + 2] = np.array([SCALE[kind]], np.float16).view(np.uint8)
    return blocks


if __name__ == "__main__":
    main()
