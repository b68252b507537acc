"""Every operator against its formula in plain float64 loops, and whole graphs run in different ways."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.graphs import VOCAB, gpt2_like, llama_like, random_ids
from support.steps import batched, chunked, decode_one_by_one, full_forward, make_batch, new_sequences

from pellucid.errors import ExecutorError, UnsupportedModel
from pellucid.executors import get_executor
from pellucid.executors import reference as ops
from pellucid.executors.base import BLOCK_SIZE, KVGroup
from pellucid.executors.reference import ReferenceExecutor, round_to_int8
from pellucid.graph.builder import ACTIVATIONS, GraphBuilder
from pellucid.graph.ir import Graph, Node, Value
from pellucid.graph.weights import from_array

GRAPHS = {"llama": llama_like(), "llama interleaved": llama_like(interleaved=True), "gpt2": gpt2_like()}
EXAMPLES = settings(max_examples=40, deadline=None, derandomize=True)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def test_embed_and_select_pick_rows() -> None:
    table = normal(5, 3)
    np.testing.assert_array_equal(
        ops.embed(np.array([4, 0, 4]), table, scale=2.0), [2 * table[4], 2 * table[0], 2 * table[4]]
    )
    np.testing.assert_array_equal(ops.select(table, np.array([3, 1])), [table[3], table[1]])


def test_linear() -> None:
    x, w0, w1, b1, residual = normal(3, 4), normal(2, 4), normal(5, 4), normal(5), normal(3, 7)
    y = ops.linear(x, [w0, w1], [None, b1], residual)
    for t in range(3):
        for n in range(7):
            row, bias = (w0[n], 0) if n < 2 else (w1[n - 2], b1[n - 2])
            assert y[t, n] == pytest.approx(residual[t, n] + sum(x[t, i] * row[i] for i in range(4)) + bias)


@pytest.mark.parametrize(("width", "group"), [(6, 6), (6, 2), (6, 1)])
def test_rms_norm(width: int, group: int) -> None:
    x, weight = normal(3, width), normal(group)
    y = ops.rms_norm(x, weight, eps=0.01, offset=1.0)
    for t in range(3):
        for c in range(width):
            first = c // group * group
            mean = sum(x[t, first + i] ** 2 for i in range(group)) / group
            assert y[t, c] == pytest.approx(x[t, c] / math.sqrt(mean + 0.01) * (1 + weight[c - first]))


@pytest.mark.parametrize("biased", [False, True])
def test_layer_norm(biased: bool) -> None:
    x, weight, bias = normal(3, 6), normal(6), normal(6)
    y = ops.layer_norm(x, weight, bias if biased else None, eps=0.01)
    for t in range(3):
        mean = sum(x[t]) / 6
        variance = sum((v - mean) ** 2 for v in x[t]) / 6
        for c in range(6):
            expected = (x[t, c] - mean) / math.sqrt(variance + 0.01) * weight[c] + (bias[c] if biased else 0)
            assert y[t, c] == pytest.approx(expected)


@given(width=st.integers(1, 20), data=st.data())
@EXAMPLES
def test_slices_of_a_row_make_the_row(width: int, data: st.DataObject) -> None:
    x = normal(2, width)
    cut = data.draw(st.integers(0, width))
    parts = [ops.slice_columns(x, start=start, width=size) for start, size in ((0, cut), (cut, width - cut))]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), x)
    assert all(np.shares_memory(part, x) for part in parts if part.size)


def slow_activation(x: float, act: str) -> float:
    if act == "silu":
        return x / (1 + math.exp(-x)) if x > -700 else 0.0
    if act == "gelu":
        return x * (1 + math.erf(x / math.sqrt(2))) / 2
    return x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_activations(act: str) -> None:
    x = np.array([[-1000.0, -20.0, -3.0, -0.5, 0.0, 1e-3, 0.7, 5.0, 1000.0]])
    expected = [[slow_activation(v, act) for v in x[0]]]
    np.testing.assert_allclose(ops.activation(x, act=act), expected, rtol=1e-12, atol=1e-12)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        single = ops.activation(x.astype(np.float32), act=act)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(ops.glu(x, 3 * x, act=act), ops.activation(x, act=act) * (3 * x))


def test_unknown_activation() -> None:
    with pytest.raises(ExecutorError, match="no activation 'relu'"):
        ops.activation(normal(1, 1), act="relu")


def test_softcap() -> None:
    x = np.array([[-100.0, -1.0, 0.0, 2.0]])
    np.testing.assert_allclose(ops.softcap(x, cap=3.0), [[3 * math.tanh(v / 3) for v in x[0]]])


@pytest.mark.parametrize("style", ["half", "interleaved"])
@pytest.mark.parametrize("pairs", [1, 3, 4])
def test_rope(style: str, pairs: int) -> None:
    x, inv_freq, positions = normal(3, 16), normal(pairs, seed=1), np.array([0, 5, 900])
    y = ops.rope(x, positions, inv_freq, head_size=8, style=style, scale=1.5)
    expected = x.copy()
    for t in range(3):
        for head in range(2):
            for i in range(pairs):
                a, b = (i, i + pairs) if style == "half" else (2 * i, 2 * i + 1)
                a, b = head * 8 + a, head * 8 + b
                angle = positions[t] * inv_freq[i]
                expected[t, a] = 1.5 * (x[t, a] * math.cos(angle) - x[t, b] * math.sin(angle))
                expected[t, b] = 1.5 * (x[t, a] * math.sin(angle) + x[t, b] * math.cos(angle))
    np.testing.assert_allclose(y, expected, atol=1e-12)


@given(
    p=st.integers(0, 10_000),
    q=st.integers(0, 10_000),
    shift=st.integers(0, 10_000),
    style=st.sampled_from(["half", "interleaved"]),
)
@EXAMPLES
def test_rope_keeps_lengths_and_sees_only_distances(p: int, q: int, shift: int, style: str) -> None:
    inv_freq = 10000.0 ** -(np.arange(4) / 4)

    def at(x: np.ndarray, position: int) -> np.ndarray:
        return ops.rope(x, np.array([position]), inv_freq, head_size=8, style=style, scale=1.0)

    a, b = normal(1, 8), normal(1, 8, seed=1)
    assert np.linalg.norm(at(a, p)) == pytest.approx(np.linalg.norm(a))
    assert at(a, p) @ at(b, q).T == pytest.approx(at(a, p + shift) @ at(b, q + shift).T, abs=1e-9)


def slow_attention(q, keys, values, positions, scale, window, softcap):
    (n, num_heads, head_size), num_kv_heads = q.shape, keys.shape[1]
    out = np.zeros((n, num_heads, head_size))
    for t in range(n):
        for h in range(num_heads):
            kv = h // (num_heads // num_kv_heads)
            seen = [j for j in range(positions[t] + 1) if not window or j > positions[t] - window]
            scores = []
            for j in seen:
                score = scale * sum(q[t, h, d] * keys[j, kv, d] for d in range(head_size))
                scores.append(softcap * math.tanh(score / softcap) if softcap else score)
            total = sum(math.exp(s) for s in scores)
            for j, s in zip(seen, scores, strict=True):
                out[t, h] += math.exp(s) / total * values[j, kv]
    return out.reshape(n, -1)


@given(
    length=st.integers(1, 20),
    data=st.data(),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    window=st.integers(0, 22),
    softcap=st.sampled_from([0.0, 0.5, 30.0]),
)
@EXAMPLES
def test_attention(length: int, data: st.DataObject, kv_heads: int, group: int, window: int, softcap: float) -> None:
    n = data.draw(st.integers(1, length))
    q, keys, values = (
        normal(n, kv_heads * group, 4),
        normal(length, kv_heads, 4, seed=1),
        normal(length, kv_heads, 4, seed=2),
    )
    positions = np.arange(length - n, length)
    y = ops.attention(q, keys, values, positions, scale=0.7, window=window, softcap=softcap)
    np.testing.assert_allclose(y, slow_attention(q, keys, values, positions, 0.7, window, softcap), atol=1e-12)


def test_attention_does_not_overflow() -> None:
    q, keys, values = normal(1, 1, 4), 1e4 * normal(3, 1, 4, seed=1), normal(3, 1, 4, seed=2)
    with np.errstate(over="raise", invalid="raise"):
        y = ops.attention(q, keys, values, np.array([2]), scale=1.0, window=0, softcap=0.0)
    assert np.isfinite(y).all()


def test_attention_through_the_cache() -> None:
    """The wiring around `attention`: q, k and v in their roles, slots by block table, a cache for each layer."""
    g = GraphBuilder()
    table = normal(VOCAB, 16)
    x = g.embed(from_array("embed", table))
    for i in range(2):
        with g.layer(i):
            q, k, v = g.slice(x, 0, 8), g.slice(x, 8, 4), g.slice(x, 12, 4)
            x = g.attention(q, k, v, num_heads=4, num_kv_heads=2, head_size=2, scale=0.7, window=18 * i, name="y")
            x = g.linear(x, from_array(f"{i}.spread", normal(16, 8, seed=i)))
    program = ReferenceExecutor("float64").compile(g.finish(g.select(x)), 8)
    ids = [i % 16 for i in random_ids(40)]  # ids have to be below 16, the width of what stands in for logits
    hidden = table.astype(np.float32).astype(np.float64)[ids]
    for i in range(2):
        q, k, v = hidden[:, :8].reshape(40, 4, 2), hidden[:, 8:12].reshape(40, 2, 2), hidden[:, 12:].reshape(40, 2, 2)
        spread = normal(16, 8, seed=i).astype(np.float32)
        hidden = slow_attention(q, k, v, range(40), 0.7, 18 * i, 0.0) @ spread.T
    np.testing.assert_allclose(full_forward(program, ids), hidden, rtol=0, atol=1e-5)
    np.testing.assert_allclose(batched(program, [ids[:30], ids], 7)[1], hidden, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", GRAPHS)
def test_decode_full_chunked_and_batched_agree(name: str) -> None:
    program = ReferenceExecutor("float64").compile(GRAPHS[name], num_blocks=12)
    ids = random_ids(45)
    others = [random_ids(count, seed=count) for count in (1, 17, 33)]
    full = full_forward(program, ids)
    assert full.shape == (45, VOCAB)
    assert np.ptp(full) > 1
    alone = [full_forward(program, other) for other in others]
    for chunk in (2, 16, 33):
        np.testing.assert_allclose(chunked(program, ids, chunk), full, rtol=0, atol=1e-6)
    np.testing.assert_allclose(decode_one_by_one(program, ids), full, rtol=0, atol=1e-6)
    for chunk in (5, 64):
        together = batched(program, [*others, ids], chunk)
        for found, expected in zip(together, [*alone, full], strict=True):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_a_later_token_changes_no_earlier_logits() -> None:
    program = ReferenceExecutor().compile(llama_like(), 4)
    ids = random_ids(20)
    changed = [*ids[:12], (ids[12] + 1) % VOCAB, *ids[13:]]
    before, after = full_forward(program, ids), full_forward(program, changed)
    np.testing.assert_allclose(after[:12], before[:12], atol=1e-6)
    assert np.abs(after[12:] - before[12:]).max(axis=1).min() > 1e-4


def test_float32_is_near_float64() -> None:
    ids = random_ids(40)
    for graph in GRAPHS.values():
        single, double = (full_forward(ReferenceExecutor(d).compile(graph, 3), ids) for d in ("float32", "float64"))
        assert single.dtype == double.dtype == np.float32
        np.testing.assert_allclose(single, double, rtol=0, atol=2e-5)


def test_logit_rows_are_those_asked_for() -> None:
    program = ReferenceExecutor().compile(llama_like(), 4)
    ids = random_ids(9)
    full = full_forward(program, ids)
    [sequence] = new_sequences(4, [ids])
    np.testing.assert_allclose(
        program.run(make_batch([(sequence, 9)], [8, 2], num_groups=2)).logits, full[[8, 2]], atol=1e-6
    )
    assert program.run(make_batch([(sequence, 9)], [], num_groups=2)).logits.shape == (0, VOCAB)


def test_program_info_and_block_bytes() -> None:
    graph = llama_like(3)
    executor = ReferenceExecutor("float64")
    assert executor.kv_block_nbytes(graph) == [2 * 2 * BLOCK_SIZE * 2 * 8 * 8, 2 * BLOCK_SIZE * 2 * 8 * 8]
    info = executor.compile(graph, 5).info
    assert (info.executor, info.kv_cache_dtype) == ("reference", "float64")
    assert info.kv_groups == (KVGroup(0, 5), KVGroup(7, 5))
    assert info.weight_nbytes == 2 * sum(tensor.nbytes for tensor in graph.weights().values())


def test_closed_program_refuses_to_run() -> None:
    program = ReferenceExecutor().compile(llama_like(1), 2)
    program.close()
    with pytest.raises(ExecutorError, match="closed"):
        full_forward(program, [1])


def test_positions_past_the_table_are_refused() -> None:
    program = ReferenceExecutor().compile(gpt2_like(num_positions=20), 2)
    assert full_forward(program, random_ids(20)).shape == (20, VOCAB)
    with pytest.raises(ExecutorError, match="positions holds 20, expected 0 to 19"):
        full_forward(program, random_ids(21))


def test_unknown_operator_is_refused_at_compile_time() -> None:
    value = Value("x", "R", 4)
    graph = Graph((Node("convolve", value),), {"logits": value})
    with pytest.raises(UnsupportedModel, match="no operator convolve"):
        ReferenceExecutor().compile(graph, 1)


def test_get_executor() -> None:
    assert get_executor("reference").name == "reference"
    with pytest.raises(ExecutorError, match="no executor 'gpu', expected one of cpu, reference"):
        get_executor("gpu")
    with pytest.raises(ExecutorError, match="no setting threads, isa, kv_cache_dtype"):
        get_executor("reference", threads=2, isa="avx2", kv_cache_dtype="float16")
    with pytest.raises(ExecutorError, match="no activations 'int16', expected one of auto, int8, bfloat16"):
        get_executor("reference", activations="int16")
    with pytest.raises(ExecutorError, match="no dtype 'float16'"):
        ReferenceExecutor("float16")  # type: ignore[arg-type]


def test_rounding_to_int8() -> None:
    x = np.zeros((1, 96), np.float32)
    x[0, :4] = 254, 3, -5, 1  # a step of 2; halves go to the even number
    x[0, 64:66] = 1e-38, -1e-39  # too small to have one
    np.testing.assert_array_equal(round_to_int8(x)[0, :4], [254, 4, -4, 0])
    assert not round_to_int8(x)[0, 4:].any()
    assert np.isnan(round_to_int8(np.full((1, 32), np.nan, np.float32))).all()
