"""Run the same requests in different company and compare what comes out bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from support.blocks import F16_FIELDS, random_blocks
from support.fake_model import ByteTokenizer

from pellucid.config import EngineConfig
from pellucid.engine.engine import Engine
from pellucid.engine.request import Request
from pellucid.executors.base import BLOCK_SIZE, Executor, Program
from pellucid.formats.qtensor import QTensor
from pellucid.formats.quant import QuantType
from pellucid.graph.builder import GraphBuilder
from pellucid.graph.ir import Graph, Value
from pellucid.graph.passes.fuse import fuse
from pellucid.graph.weights import from_array
from pellucid.sampling import SamplingParams

VOCAB_SIZE = 260
MAX_MODEL_LEN = 224


@dataclass(frozen=True)
class Ask:
    prompt: list[int]
    params: SamplingParams


def forty(vocab_size: int = VOCAB_SIZE, *, max_tokens: int = 6) -> list[Ask]:
    """40 requests of mixed lengths; greedy and seeded, with and without cuts, penalties and log-probabilities."""
    rng = np.random.default_rng(7)
    kinds: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 1.0},
        {"temperature": 0.8, "top_k": 20, "top_p": 0.9},
        {"temperature": 0, "repetition_penalty": 1.3, "frequency_penalty": 0.5},
        {"temperature": 1.5, "min_p": 0.02, "presence_penalty": 0.3},
    ]
    asks = []
    for i in range(40):
        length = [1, 2, 15, 16, 17, 33, 40, 64, 70, 130, 200][i % 11]  # attention adds keys up in chunks of 64
        params = {**kinds[i % len(kinds)], "seed": i, "max_tokens": max_tokens, "ignore_eos": True, "logprobs": 3}
        if i % 4 == 0:
            params["prompt_logprobs"] = 1
        asks.append(Ask(rng.integers(0, vocab_size, length).tolist(), SamplingParams(**params)))
    return asks


Answer = tuple[list[int], Any, Any]
"""Token ids, logprobs, prompt_logprobs."""


def served(
    program: Program, asks: Sequence[Ask], *, together: int, chunk: int | None = None, vocab_size: int = VOCAB_SIZE
) -> list[Request]:
    """The finished requests when `together` of them run at once and prompts are computed `chunk` tokens a step."""
    config = EngineConfig(
        model="test", max_num_seqs=together, max_num_batched_tokens=max(together, 256), prefill_chunk=chunk
    )
    engine = Engine(program, ByteTokenizer(), config, vocab_size=vocab_size, max_model_len=MAX_MODEL_LEN)  # type: ignore[arg-type]
    requests = [engine.add_request(a.prompt, a.params)[0] for a in asks]
    while engine.has_unfinished:
        engine.step()
    assert not any(r.error for r in requests), [r.error for r in requests]
    return requests


def answer(request: Request) -> Answer:
    return request.token_ids, request.logprobs, request.prompt_logprobs


def answers(
    program: Program, asks: Sequence[Ask], *, together: int, chunk: int | None = None, vocab_size: int = VOCAB_SIZE
) -> list[Answer]:
    """What `served` requests got."""
    return [answer(r) for r in served(program, asks, together=together, chunk=chunk, vocab_size=vocab_size)]


def differences(expected: Sequence[Answer], found: Sequence[Answer]) -> list[int]:
    """Which answers are not the same, bit for bit (floats are compared with ==, and none of them is NaN)."""
    return [i for i, (a, b) in enumerate(zip(expected, found, strict=True)) if a != b]


def compiled(executor: Executor, graph: Graph, *, sequences: int = 40) -> Program:
    return executor.compile(graph, sequences * MAX_MODEL_LEN // BLOCK_SIZE)


def quantised_graph(*, fused: bool = True) -> Graph:
    """Two layers, one of them with a window, whose matrices are random bytes of the common block types."""
    random = np.random.default_rng(3)
    width, heads, kv_heads, head_size, inner = 256, 4, 2, 64, 512
    inv_freq = from_array("inv_freq", 10_000.0 ** -(np.arange(head_size // 2) / (head_size // 2)))
    g = GraphBuilder()

    def matrix(name: str, type: QuantType, outputs: int, inputs: int) -> QTensor:
        """Random blocks, their scales made small enough that weights have a deviation of about 1/√inputs."""
        blocks = random_blocks(type, outputs * inputs // type.block_size, seed=len(name) + ord(name[-1]) + outputs)
        tensor = QTensor(name, type, (outputs, inputs), blocks.reshape(-1))
        factor = inputs**-0.5 / float(tensor.dequantize().std())
        for at in F16_FIELDS[type]:
            scales = blocks[:, at : at + 2].copy().view("<f2").astype(np.float32) * factor
            blocks[:, at : at + 2] = scales.astype("<f2").view(np.uint8)
        return QTensor(name, type, (outputs, inputs), blocks.reshape(-1))

    def norm(x: Value, name: str) -> Value:
        return g.rms_norm(x, from_array(name, 1 + 0.1 * random.standard_normal(width)), eps=1e-5)

    embedding = from_array("embed", random.standard_normal((VOCAB_SIZE, width)))
    x = g.embed(embedding)
    layers = [(QuantType.Q4_K, QuantType.Q6_K, QuantType.Q4_0), (QuantType.Q8_0, QuantType.Q4_1, QuantType.Q5_0)]
    for i, (attention, value, ffn) in enumerate(layers):
        with g.layer(i):
            h = norm(x, f"{i}.attn_norm")
            q = g.linear(h, matrix(f"{i}.q", attention, heads * head_size, width))
            k = g.linear(h, matrix(f"{i}.k", attention, kv_heads * head_size, width))
            v = g.linear(h, matrix(f"{i}.v", value, kv_heads * head_size, width))
            q, k = (g.rope(y, inv_freq, head_size=head_size, style="half") for y in (q, k))
            attended = g.attention(
                q, k, v, num_heads=heads, num_kv_heads=kv_heads, head_size=head_size, scale=0.125, window=20 * i
            )
            x = g.add(x, g.linear(attended, matrix(f"{i}.o", attention, width, width)))
            h = norm(x, f"{i}.ffn_norm")
            gate, up = (g.linear(h, matrix(f"{i}.{name}", ffn, inner, width)) for name in ("gate", "up"))
            x = g.add(x, g.linear(g.glu(gate, up, act="silu"), matrix(f"{i}.down", value, width, inner)))
    x = norm(g.select(x), "final_norm")
    graph = g.finish(g.linear(x, matrix("head", QuantType.Q6_K, VOCAB_SIZE, width)))
    return fuse(graph) if fused else graph
