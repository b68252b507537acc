"""The op table: every operator × instruction set × stored type × odd shapes, against the reference executor.

Each case is a graph of one operator over given rows; the operator's value is tapped. Tolerances:

- float weights and everything else in float32: 2e-6 of the sum of magnitudes (rounding, other orders of summation);
- quantised weights: activations keep 14 bits within a block of 32, an error of at most 2^-15 of the block's largest
  value each, so 2^-15 · Σ|w||x|max is the most there can be;
- the profile with int8 activations: the reference rounds them alike, so that float32 rounding is all that is left.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from support.blocks import F16_FIELDS
from support.one_op import assert_close, matrix, one_op, rows_of, run
from support.steps import make_batch, new_sequences

from pellucid.executors.cpu import CpuExecutor, available_isas
from pellucid.executors.reference import INT8_TYPES, ReferenceExecutor
from pellucid.formats.qtensor import QTensor
from pellucid.formats.quant import QuantType
from pellucid.graph.builder import GraphBuilder, Norm
from pellucid.graph.ir import Graph, Value
from pellucid.graph.passes.tap import tap
from pellucid.graph.weights import from_array

ISAS = available_isas()
FLOATS = (QuantType.F32, QuantType.F16, QuantType.BF16)
QUANTISED = tuple(t for t in QuantType if t not in FLOATS)
ROW_COUNTS = (1, 2, 3, 4, 5, 9, 33)
# Of the largest input: what rounding keys and values to 11, 8 and 7 bits does to scores and sums.
KV_TOLERANCES = {"float32": 3e-6, "float16": 4e-3, "bfloat16": 3e-2, "q8_0": 3e-2}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("outputs", [1, 15, 16, 17, 40])
@pytest.mark.parametrize("type", list(QuantType), ids=lambda t: t.name)
def test_linear(isa: str, type: QuantType, outputs: int) -> None:
    for blocks in (1, 2, 3) if type.block_size > 1 else (1, 7, 33, 64):
        inputs = type.block_size * blocks
        x, w = rows_of(max(ROW_COUNTS), inputs, seed=blocks), matrix(type, outputs, inputs, seed=outputs)
        graph = one_op(x, lambda g, v, w=w: g.linear(v, w))
        weights = np.abs(w.dequantize())
        if type in FLOATS:
            magnitude, tolerance = np.abs(x) @ weights.T, 2e-6
        else:
            largest = np.abs(x).reshape(len(x), -1, 32).max(axis=2).repeat(32, axis=1)
            magnitude, tolerance = largest @ weights.T, 2.0**-15
        expected = run(ReferenceExecutor("float64"), graph, len(x))
        found = run(CpuExecutor(threads=2, isa=isa), graph, len(x))
        assert_close(found, expected, magnitude, tolerance)
        for count in ROW_COUNTS:  # a row's bits do not depend on its company
            np.testing.assert_array_equal(run(CpuExecutor(threads=1, isa=isa), graph, len(x), chunk=count), found)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", [t for t in QUANTISED if t.block_size == 256], ids=lambda t: t.name)
def test_sums_of_super_blocks_do_not_overflow(isa: str, type: QuantType) -> None:
    """The largest codes times the largest factors of either sign, and inputs as large as rounded ones can be."""
    for bits in (0x00, 0x80, 0xFF):
        blocks = np.full((40, type.block_nbytes), bits, np.uint8)
        if type is QuantType.Q6_K:  # its factors are bytes: -128 with codes of -32 is the largest weight of all types
            blocks[:, 192:208] = 0x80
        for at in F16_FIELDS[type]:
            blocks[:, at : at + 2] = np.array([1.0], "<f2").view(np.uint8)
        w = QTensor("w", type, (20, 512), blocks.reshape(-1))
        for sign in (1, -1):
            x = np.full((33, 512), sign, np.float32)
            graph = one_op(x, lambda g, v, w=w: g.linear(v, w))
            expected = run(ReferenceExecutor("float64"), graph, len(x))
            for count in (1, 33):  # a panel read as packed, and expanded
                found = run(CpuExecutor(threads=1, isa=isa), graph, len(x), chunk=count)
                assert_close(found, expected, np.abs(w.dequantize()).sum(axis=1), 1e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("outputs", [1, 16, 40])
@pytest.mark.parametrize("type", QUANTISED, ids=lambda t: t.name)
def test_linear_with_int8_activations(isa: str, type: QuantType, outputs: int) -> None:
    for blocks in (1, 3):
        inputs = type.block_size * blocks
        x, w = rows_of(max(ROW_COUNTS), inputs, seed=blocks), matrix(type, outputs, inputs, seed=outputs)
        x[0], x[1, ::2] = 0, 1e-38  # nothing to scale, and what is too small for it
        graph = one_op(x, lambda g, v, w=w: g.linear(v, w))
        found = run(CpuExecutor(threads=2, isa=isa, activations="int8"), graph, len(x))
        if type in INT8_TYPES:
            expected = run(ReferenceExecutor("float64", activations="int8"), graph, len(x))
            assert_close(found, expected, terms(x, w), 2e-6)
        else:
            np.testing.assert_array_equal(found, run(CpuExecutor(isa=isa), graph, len(x)))
        for count in ROW_COUNTS:
            executor = CpuExecutor(threads=1, isa=isa, activations="int8")
            np.testing.assert_array_equal(run(executor, graph, len(x), chunk=count), found)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", sorted(INT8_TYPES, key=lambda t: t.name), ids=lambda t: t.name)
def test_int8_sums_do_not_overflow(isa: str, type: QuantType) -> None:
    """The largest code everywhere, times the largest activations of either sign."""
    blocks = np.full((16, type.block_nbytes), 255, np.uint8)
    for at in F16_FIELDS[type]:
        blocks[:, at : at + 2] = np.array([1.0], "<f2").view(np.uint8)
    w = QTensor("w", type, (16, type.block_size), blocks.reshape(-1))
    x = np.ones((8, type.block_size), np.float32)
    x[1::2] = -1
    x[2, ::3] = -1
    graph = one_op(x, lambda g, v: g.linear(v, w))
    expected = run(ReferenceExecutor("float64"), graph, len(x))  # ones are rounded to themselves
    found = run(CpuExecutor(isa=isa, activations="int8"), graph, len(x))
    assert_close(found, expected, terms(x, w), 2e-6)


def terms(x: np.ndarray, w: QTensor) -> np.ndarray:
    """What is added for each output at most: codes and minima have terms of their own, and may cancel in a weight."""
    steps = np.abs(w.dequantize()).reshape(-1, 32).max(axis=1)  # of each block
    largest = np.abs(x).reshape(len(x), -1, 32).max(axis=2) * 32
    return np.asarray(largest @ steps.reshape(w.shape[0], -1).T * 4 + 1e-30)


@pytest.mark.parametrize("isa", ISAS)
def test_int8_beside_types_that_stay(isa: str) -> None:
    """Stacked matrices, some of which read int8, with a norm before and a residual after."""
    width = 256
    types = (QuantType.Q4_K, QuantType.Q8_0, QuantType.F32, QuantType.Q6_K)
    x = rows_of(21, width)
    stacked = [matrix(t, 64, width, seed=i, name=f"w{i}") for i, t in enumerate(types)]
    norm = Norm("rms", from_array("norm", np.ones(width, np.float32)), 1e-5, None, 0.0)
    graph = one_op(x, lambda g, v: g.linear(v, stacked, [None] * 4, norm=norm, residual=v))
    found = run(CpuExecutor(isa=isa, activations="int8"), graph, 21)
    exact, plain = (
        run(ReferenceExecutor("float64", activations="int8"), graph, 21),
        run(CpuExecutor(isa=isa), graph, 21),
    )
    size = np.abs(exact).max(axis=1, keepdims=True)
    assert np.mean(np.abs(found - exact) / size) < 1e-4  # a norm's last bit may round an activation the other way
    np.testing.assert_array_equal(found[:, 64:192], plain[:, 64:192])
    assert np.mean(np.abs(found - plain)[:, :64] / size) > 1e-4


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_linear_with_everything_fused(isa: str, norm: str) -> None:
    """Stacked matrices of three types, biases, a norm before and a residual after."""
    width, sizes = 256, (17, 32, 207)
    types = (QuantType.Q4_K, QuantType.Q8_0, QuantType.F32)
    x = rows_of(21, width)
    stacked = [matrix(t, n, width, seed=n, name=f"w{n}") for t, n in zip(types, sizes, strict=True)]
    bias = [from_array("b17", rows_of(1, 17)[0]), None, from_array("b207", rows_of(1, 207)[0])]
    shift = from_array("norm.bias", rows_of(1, width, seed=2)[0]) if norm == "layer" else None
    fused = Norm(norm, from_array("norm", rows_of(1, width, seed=1)[0]), 1e-5, shift, 0.5 if norm == "rms" else 0.0)
    graph = one_op(x, lambda g, v: g.linear(v, stacked, bias, norm=fused, residual=v))
    expected, found = (run(e, graph, 21) for e in (ReferenceExecutor("float64"), CpuExecutor(isa=isa)))
    assert_close(found, expected, np.abs(expected).max(axis=1, keepdims=True) * 16, 2.0**-15)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", list(QuantType), ids=lambda t: t.name)
def test_embed(isa: str, type: QuantType) -> None:
    table = matrix(type, 37, 2 * max(type.block_size, 16), seed=3)
    graph = one_op_from(lambda g: g.embed(table, scale=2.5))
    expected = run(ReferenceExecutor(), graph, 37)
    assert_close(run(CpuExecutor(isa=isa), graph, 37), expected, np.abs(expected), 3e-7)


def one_op_from(build: Callable[[GraphBuilder], Value]) -> Graph:
    """A graph that begins with the operator in question."""
    g = GraphBuilder()
    value = build(g)
    head = from_array("head", np.zeros((64, value.width), np.float32))
    return tap(g.finish(g.linear(g.select(value), head, name="logits")), [value.name])


@pytest.mark.parametrize("isa", ISAS)
def test_embed_by_position(isa: str) -> None:
    table = from_array("positions", rows_of(40, 24))
    graph = one_op_from(lambda g: g.embed(table, source="positions"))
    np.testing.assert_array_equal(run(CpuExecutor(isa=isa), graph, 40, chunk=7), rows_of(40, 24))


WIDTHS = (1, 7, 16, 17, 96, 577)
RowOp = Callable[[GraphBuilder, Value], Value]


def row_ops(width: int) -> dict[str, RowOp]:
    vector = from_array("vector", rows_of(1, width, seed=5)[0])
    other = from_array("other", rows_of(1, width, seed=6)[0])
    ops: dict[str, RowOp] = {
        "rms_norm": lambda g, x: g.rms_norm(x, vector, eps=1e-5, offset=1.0),
        "layer_norm": lambda g, x: g.layer_norm(x, vector, other, eps=1e-5),
        "layer_norm without bias": lambda g, x: g.layer_norm(x, vector, None, eps=1e-5),
        "add": lambda g, x: g.add(x, x),
        "softcap": lambda g, x: g.softcap(x, cap=3.0),
    }
    for act in ("silu", "gelu", "gelu_tanh"):
        ops[f"act {act}"] = lambda g, x, act=act: g.act(x, act=act)
        ops[f"glu {act}"] = lambda g, x, act=act: g.glu(x, g.add(x, x), act=act)
    return ops


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("width", WIDTHS)
def test_row_operators(isa: str, width: int) -> None:
    x = 4 * rows_of(19, width)
    for name, build in row_ops(width).items():
        graph = one_op(x, build)
        expected = run(ReferenceExecutor("float64"), graph, len(x))
        found = run(CpuExecutor(threads=2, isa=isa), graph, len(x))
        # Normalising divides by a spread that may be small beside the values: allow for their size too.
        magnitude = np.abs(expected) + (np.abs(x).max() if "norm" in name and width > 1 else 1.0)
        assert_close(found, expected, magnitude, 3e-6)
        np.testing.assert_array_equal(run(CpuExecutor(threads=1, isa=isa), graph, len(x), chunk=1), found)


@pytest.mark.parametrize("isa", ISAS)
def test_extreme_activations_saturate_as_they_should(isa: str) -> None:
    x = np.array([[-1e30, -200.0, -90.0, -1e-30, 0.0, 1e-30, 90.0, 200.0, 1e30]], np.float32)
    for act in ("silu", "gelu", "gelu_tanh"):
        found = run(CpuExecutor(isa=isa), one_op(x, lambda g, v, act=act: g.act(v, act=act)), 1)
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found[0, 4:], np.array([0, 5e-31, 90, 200, 1e30], np.float32), rtol=1e-6)
        np.testing.assert_allclose(found[0, :3], 0, atol=1e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("style", ["half", "interleaved"])
@pytest.mark.parametrize(("head_size", "pairs"), [(2, 1), (8, 4), (8, 3), (20, 10), (64, 32), (96, 24)])
def test_rope(isa: str, style: str, head_size: int, pairs: int) -> None:
    x = rows_of(70, 3 * head_size)
    inv_freq = from_array("inv_freq", 10000.0 ** -(np.arange(pairs) / pairs))
    graph = one_op(x, lambda g, v: g.rope(v, inv_freq, head_size=head_size, style=style, scale=1.2))
    expected = run(ReferenceExecutor("float64"), graph, 70)
    for chunk in (70, 9):
        assert_close(run(CpuExecutor(isa=isa), graph, 70, chunk), expected, 4.0, 1e-6)


@pytest.mark.parametrize("isa", ISAS)
def test_slices_and_groups(isa: str) -> None:
    """Slices of slices, read by operators with rows further apart than they are wide; a norm of each head."""
    x = rows_of(11, 60)
    weight = from_array("norm", rows_of(1, 5, seed=1)[0])

    def build(g: GraphBuilder, v: Value) -> Value:
        middle = g.slice(v, 10, 40)
        return g.add(g.rms_norm(g.slice(middle, 5, 20), weight, eps=1e-6), g.slice(middle, 20, 20))

    graph = one_op(x, build)
    expected, found = (run(e, graph, 11) for e in (ReferenceExecutor("float64"), CpuExecutor(isa=isa)))
    assert_close(found, expected, 1 + np.abs(expected), 1e-6)
    handed_out = run(CpuExecutor(isa=isa), one_op(x, lambda g, v: g.slice(v, 3, 20)), 11)
    np.testing.assert_array_equal(handed_out, x[:, 3:23])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kv_cache_dtype", KV_TOLERANCES)
@pytest.mark.parametrize(("heads", "kv_heads", "head_size"), [(1, 1, 1), (3, 1, 8), (4, 2, 20), (2, 2, 64), (4, 1, 80)])
@pytest.mark.parametrize(("window", "softcap"), [(0, 0.0), (1, 0.0), (50, 5.0)])
def test_attention(
    isa: str, kv_cache_dtype: str, heads: int, kv_heads: int, head_size: int, window: int, softcap: float
) -> None:
    """Lengths around blocks of 16 and key chunks of 64; whole, in chunks and one by one, to the bit."""
    count = 150
    query, key = heads * head_size, kv_heads * head_size
    x = 2 * rows_of(count, query + 2 * key)

    def build(g: GraphBuilder, v: Value) -> Value:
        q, k, value = g.slice(v, 0, query), g.slice(v, query, key), g.slice(v, query + key, key)
        shape = {"num_heads": heads, "num_kv_heads": kv_heads, "head_size": head_size}
        return g.attention(q, k, value, **shape, scale=head_size**-0.5, window=window, softcap=softcap)

    graph = one_op(x, build)
    expected = run(ReferenceExecutor("float64"), graph, count)
    executor = CpuExecutor(threads=2, isa=isa, kv_cache_dtype=kv_cache_dtype)
    found = run(executor, graph, count)
    assert_close(found, expected, np.abs(x).max(), KV_TOLERANCES[kv_cache_dtype])
    for chunk in (1, 13, 64, 65):
        np.testing.assert_array_equal(run(executor, graph, count, chunk), found)


def through_the_cache(isa: str, kv_cache_dtype: str, values: np.ndarray, head_size: int) -> np.ndarray:
    """Values as attention reads them back: each row sees itself alone, so its weight is 1."""
    width = values.shape[1]

    def build(g: GraphBuilder, v: Value) -> Value:
        shape = {"num_heads": width // head_size, "num_kv_heads": width // head_size, "head_size": head_size}
        return g.attention(
            g.rms_norm(v, from_array("zero", np.zeros(width)), eps=1.0), v, v, **shape, scale=1.0, window=1
        )

    return run(CpuExecutor(threads=1, isa=isa, kv_cache_dtype=kv_cache_dtype), one_op(values, build), len(values))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("head_size", [8, 40, 64])
def test_what_the_cache_keeps_of_a_number(isa: str, head_size: int) -> None:
    x = np.exp(2 * rows_of(20, 2 * head_size, seed=1)) * np.sign(rows_of(20, 2 * head_size, seed=2))
    x[3, :head_size] = 0
    x[4, :head_size] = 1e-38  # too small for a scale of its own
    np.testing.assert_array_equal(through_the_cache(isa, "float32", x, head_size), x)
    np.testing.assert_array_equal(through_the_cache(isa, "float16", x, head_size), x.astype(np.float16))
    bits = x.view(np.uint32).astype(np.uint64)
    nearest = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)
    np.testing.assert_array_equal(through_the_cache(isa, "bfloat16", x, head_size), nearest)
    for row, found in zip(x, through_the_cache(isa, "q8_0", x, head_size), strict=True):
        for head in range(2):
            for start in range(head * head_size, (head + 1) * head_size, 32):
                part = row[start : min(start + 32, (head + 1) * head_size)]
                scale = np.abs(part).max() / np.float32(127) if np.abs(part).max() >= 1e-30 else np.float32(0)
                codes = np.rint(part / scale) if scale else np.zeros_like(part)
                np.testing.assert_array_equal(found[start : start + len(part)], codes * scale)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kv_cache_dtype", KV_TOLERANCES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_so_in_the_cache(isa: str, kv_cache_dtype: str, bad: float) -> None:
    x = rows_of(3, 64)
    x[1, 40] = bad
    graph = one_op(x, lambda g, v: g.attention(
        g.slice(v, 0, 32), g.slice(v, 0, 32), g.slice(v, 32, 32),
        num_heads=1, num_kv_heads=1, head_size=32, scale=1.0, window=1,
    ))  # fmt: skip
    found = run(CpuExecutor(threads=1, isa=isa, kv_cache_dtype=kv_cache_dtype), graph, 3)
    assert not np.isfinite(found[1]).all()
    assert np.isfinite(found[[0, 2]]).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("heads", "kv_heads", "head_size", "window"), [(3, 1, 20, 0), (13, 1, 16, 0), (2, 2, 8, 700)])
def test_attention_over_long_contexts(isa: str, heads: int, kv_heads: int, head_size: int, window: int) -> None:
    """Several parts of 512 keys: divided over threads where rows are few, in one go where they are many."""
    count, query, key = 1100, heads * head_size, kv_heads * head_size
    x = 2 * rows_of(count, query + 2 * key)

    def build(g: GraphBuilder, v: Value) -> Value:
        q, k, value = g.slice(v, 0, query), g.slice(v, query, key), g.slice(v, query + key, key)
        shape = {"num_heads": heads, "num_kv_heads": kv_heads, "head_size": head_size}
        return g.attention(q, k, value, **shape, scale=head_size**-0.5, window=window)

    graph = one_op(x, build)
    expected = run(ReferenceExecutor("float64"), graph, count)
    found = run(CpuExecutor(threads=1, isa=isa, kv_cache_dtype="float32"), graph, count)
    assert_close(found, expected, np.abs(x).max(), 3e-6)
    for threads, chunk in ((1, 1), (2, 1), (3, 64), (2, 500)):
        executor = CpuExecutor(threads=threads, isa=isa, kv_cache_dtype="float32")
        np.testing.assert_array_equal(run(executor, graph, count, chunk), found)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("slope", [-5.0, -0.3, 0.1, 0.3, 5.0])
def test_attention_with_scores_far_apart(isa: str, slope: float) -> None:
    """Scores that climb or fall with the position, less and more than weights may grow before they are rescaled."""
    count, size = 700, 16
    x = rows_of(count, 3 * size)
    x[:, 0] = 1  # of queries; keys hold the slope
    x[:, size] = slope * np.arange(count)

    def build(g: GraphBuilder, v: Value) -> Value:
        q, k, value = (g.slice(v, i * size, size) for i in range(3))
        return g.attention(q, k, value, num_heads=1, num_kv_heads=1, head_size=size, scale=1.0)

    graph = one_op(x, build)
    expected = run(ReferenceExecutor("float64"), graph, count)
    executor = CpuExecutor(threads=2, isa=isa, kv_cache_dtype="float32")
    found = run(executor, graph, count)
    # A score of 3,500 is rounded at 2^-12, and its weight with it.
    assert_close(found, expected, np.abs(x[:, 2 * size :]).max(), 1e-3 if abs(slope) > 1 else 3e-5)
    for chunk in (1, 65):
        np.testing.assert_array_equal(run(executor, graph, count, chunk), found)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", [QuantType.F32, QuantType.Q8_0, QuantType.Q6_K], ids=lambda t: t.name)
@pytest.mark.parametrize("damage", [np.nan, np.inf, -np.inf])
def test_damage_is_not_rounded_away(isa: str, type: QuantType, damage: float) -> None:
    """A NaN or Inf activation makes its own row's outputs not finite, and touches no other row."""
    x = rows_of(6, 256)
    w = matrix(type, 20, 256)
    graph = one_op(x, lambda g, v: g.linear(v, w))
    sound = run(CpuExecutor(isa=isa), graph, 6)
    x[4, 100] = damage
    found = run(CpuExecutor(isa=isa), one_op(x, lambda g, v: g.linear(v, w)), 6)
    assert not np.isfinite(found[4]).any()
    np.testing.assert_array_equal(np.delete(found, 4, axis=0), np.delete(sound, 4, axis=0))


@pytest.mark.parametrize("isa", ISAS)
def test_stale_cache_slots_are_never_read(isa: str) -> None:
    """A sequence that filled the cache with NaN leaves no trace in the next one that gets its blocks."""
    x = np.concatenate([rows_of(32, 24), np.full((1, 24), np.nan, np.float32)])

    def build(g: GraphBuilder, v: Value) -> Value:
        q, k, value = g.slice(v, 0, 8), g.slice(v, 8, 8), g.slice(v, 16, 8)
        return g.attention(q, k, value, num_heads=1, num_kv_heads=1, head_size=8, scale=1.0)

    program = CpuExecutor(isa=isa).compile(one_op(x, build), num_blocks=2, require_finite=False)
    [clean] = new_sequences(2, [range(20)])
    [before] = program.run(make_batch([(clean, 20)], logit_rows=[0])).taps.values()
    [poison] = new_sequences(2, [[32] * 32])
    program.run(make_batch([(poison, 32)], logit_rows=[0]))
    [again] = new_sequences(2, [range(20)])
    [after] = program.run(make_batch([(again, 20)], logit_rows=[0])).taps.values()
    np.testing.assert_array_equal(before, after)
    assert np.isfinite(after).all()
