"""Graphs of one operator over given rows, whose value is tapped."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from support.blocks import random_blocks
from support.steps import make_batch, new_sequences

from pellucid.executors.cpu import CpuExecutor
from pellucid.executors.reference import ReferenceExecutor
from pellucid.formats.qtensor import QTensor
from pellucid.formats.quant import QuantType
from pellucid.graph.builder import GraphBuilder
from pellucid.graph.ir import Graph, Value
from pellucid.graph.passes.tap import tap
from pellucid.graph.weights import from_array


def rows_of(count: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def matrix(type: QuantType, outputs: int, inputs: int, seed: int = 0, name: str = "w") -> QTensor:
    """A stored matrix of random bits with weights of magnitude around 1."""
    blocks = random_blocks(type, outputs * inputs // type.block_size, seed)
    if type in (QuantType.F16, QuantType.BF16):
        values = np.random.default_rng(seed).standard_normal(outputs * inputs).astype(np.float32)
        wide = values.astype(np.float16).view(np.uint16) if type is QuantType.F16 else values.view(np.uint32) >> 16
        blocks = wide.astype("<u2").view(np.uint8)
    if type is QuantType.MXFP4:
        blocks[:, 0] = 120 + np.arange(len(blocks)) % 9
    return QTensor(name, type, (outputs, inputs), blocks.reshape(-1))


def one_op(x: np.ndarray, build: Callable[[GraphBuilder, Value], Value]) -> Graph:
    """embed (the rows of `x`, token t being row t) → the operator, named "op" → a head that nobody looks at."""
    g = GraphBuilder()
    embedded = g.embed(from_array("x", x), name="x")
    with g.layer(0):
        value = build(g, embedded)
    head = from_array("head", np.zeros((len(x), value.width), np.float32))
    return tap(g.finish(g.linear(g.select(value), head, name="logits")), [value.name])


def run(executor: CpuExecutor | ReferenceExecutor, graph: Graph, count: int, chunk: int | None = None) -> np.ndarray:
    """The tapped value for `count` rows of one sequence, `chunk` rows a step."""
    # The input is a weight, and may hold what no weight may.
    program = executor.compile(graph, num_blocks=2 * (count // 16 + 1), require_finite=False)
    [sequence] = new_sequences(program.info.kv_groups[0].num_blocks, [range(count)])
    found = []
    while (left := count - sequence.num_computed) > 0:
        step = min(chunk or count, left)
        result = program.run(make_batch([(sequence, step)], logit_rows=[0]))
        sequence.num_computed += step
        [tapped] = result.taps.values()
        found.append(tapped)
    return np.concatenate(found)


def assert_close(found: np.ndarray, expected: np.ndarray, magnitude: np.ndarray | float, tolerance: float) -> None:
    assert found.shape == expected.shape
    assert np.isfinite(expected).all()
    worst = np.max(np.abs(found - expected) / np.maximum(magnitude, 1e-30))
    assert worst <= tolerance, f"relative error {worst:.2e}, allowed {tolerance:.2e}"
