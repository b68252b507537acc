"""Passes: fusion changes no number, truncation keeps the model's beginning, taps show what they name."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from support.graphs import RandomWeights, gpt2_like, llama_like, random_ids
from support.steps import full_forward, hidden_batch, make_batch, new_sequences

from pellucid.errors import GraphError
from pellucid.executors.kv_cache import kv_windows
from pellucid.executors.reference import ReferenceExecutor
from pellucid.graph.builder import GraphBuilder
from pellucid.graph.ir import Graph
from pellucid.graph.passes.fuse import fuse
from pellucid.graph.passes.hidden import HIDDEN, hidden
from pellucid.graph.passes.tap import tap
from pellucid.graph.passes.truncate import truncate

GRAPHS = {"llama": llama_like(), "gpt2": gpt2_like()}
IDS = random_ids(21)


def logits(graph: Graph) -> np.ndarray:
    return full_forward(ReferenceExecutor().compile(graph, 4), IDS)


def run_taps(graph: Graph) -> dict[str, np.ndarray]:
    [sequence] = new_sequences(4, [IDS])
    return (
        ReferenceExecutor()
        .compile(graph, 4)
        .run(make_batch([(sequence, len(IDS))], num_groups=len(kv_windows(graph))))
        .taps
    )


def ops(graph: Graph) -> Counter[str]:
    return Counter(node.op for node in graph)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize(("stack", "norm", "residual"), list(itertools.product([False, True], repeat=3)))
def test_fusion_changes_no_number(name: str, stack: bool, norm: bool, residual: bool) -> None:
    graph = GRAPHS[name]
    fused = fuse(graph, stack=stack, norm=norm, residual=residual)
    np.testing.assert_allclose(logits(fused), logits(graph), rtol=0, atol=1e-6)
    assert fused.weights().keys() == graph.weights().keys()


def test_fusion_of_llama_leaves_four_linears_a_layer_and_no_whole_norms() -> None:
    before, after = ops(llama_like(3)), ops(fuse(llama_like(3)))
    assert (before["linear"], before["add"], before["rms_norm"], before["slice"]) == (22, 6, 13, 0)
    assert (after["linear"], after["add"], after["rms_norm"], after["slice"]) == (13, 0, 6, 15)
    qkv = fuse(llama_like(3)).producers()["blk.1.q+k+v"]
    assert list(qkv.weights) == ["weight", "bias", "weight1", "weight2", "norm"]
    assert [tensor.name for tensor in qkv.matrices()] == ["1.q", "1.k", "1.v"]


def test_each_fusion_can_be_switched_off() -> None:
    graph = llama_like(1)
    assert fuse(graph, stack=False, norm=False, residual=False).nodes == graph.nodes
    stacked = ops(fuse(graph, norm=False, residual=False))
    assert stacked - ops(graph) == Counter(slice=5)
    assert ops(graph) - stacked == Counter(linear=3)
    with_residuals = ops(fuse(graph, stack=False, norm=False))
    assert ops(graph) - with_residuals == Counter(add=2)
    assert not with_residuals - ops(graph)
    # Without stacking, three linears read the attention's norm: only the head's has a single reader.
    assert ops(graph)["rms_norm"] - ops(fuse(graph, stack=False, residual=False))["rms_norm"] == 1


def test_layer_norm_is_fused_with_its_bias() -> None:
    node = fuse(gpt2_like()).producers()["blk.0.qkv"]
    assert node.attrs == {"norm": "layer", "eps": 1e-5, "norm_offset": 0.0}
    assert [node.weights["norm"].name, node.weights["norm_bias"].name] == ["0.ln1", "0.ln1.bias"]


def test_fusing_twice_is_fusing_once() -> None:
    once = fuse(llama_like())
    assert fuse(once).dump() == once.dump()


def test_what_has_other_readers_is_left_alone() -> None:
    w, g = RandomWeights(), GraphBuilder()
    x = g.embed(w("embed", 61, 8))
    normed = g.rms_norm(x, w("norm", 8), eps=1e-5)
    y = g.linear(normed, w("a", 8, 8), name="y")
    twice = g.add(y, y)  # read twice by one add: y cannot be swallowed
    heads = g.linear(g.rms_norm(twice, w("heads", 4), eps=1e-5), w("b", 8, 8))  # a norm of groups, not of the row
    residual_is_normed = g.linear(heads, w("c", 8, 8), residual=g.rms_norm(heads, w("d", 8), eps=1e-5))
    both = g.add(residual_is_normed, normed)
    graph = g.finish(g.linear(g.select(both), w("head", 61, 8)))
    fused = fuse(graph)
    assert ops(fused) == ops(graph)
    np.testing.assert_array_equal(logits(fused), logits(graph))


def test_residual_made_after_the_linear_is_in_time() -> None:
    w, g = RandomWeights(), GraphBuilder()
    x = g.embed(w("embed", 61, 8))
    y = g.linear(x, w("a", 8, 8))
    late = g.act(x, act="gelu")
    graph = g.finish(g.linear(g.select(g.add(y, late)), w("head", 61, 8)))
    fused = fuse(graph)
    assert [node.op for node in fused] == ["embed", "act", "linear", "select", "linear"]
    np.testing.assert_allclose(logits(fused), logits(graph), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", GRAPHS)
def test_tapped_values_survive_fusion(name: str) -> None:
    graph = GRAPHS[name]
    everything = tap(graph, ["*"])
    wanted = run_taps(everything)
    found = run_taps(fuse(everything))
    assert found.keys() == wanted.keys()
    assert len(wanted) >= len(graph.nodes) - 1
    for key, value in wanted.items():
        np.testing.assert_allclose(found[key], value, rtol=0, atol=1e-6, err_msg=key)


def test_taps_show_the_named_values_and_leave_the_logits() -> None:
    graph = tap(llama_like(), ["blk.*.q", "final_norm"])
    assert list(graph.outputs) == ["logits", "blk.0.q", "blk.1.q", "blk.2.q", "final_norm"]
    taps = run_taps(graph)
    assert taps["blk.2.q"].shape == (len(IDS), 48)
    np.testing.assert_array_equal(logits(graph), logits(llama_like()))
    weight = graph.weights()["embed"].dequantize()
    head = taps["final_norm"] @ weight.T
    np.testing.assert_allclose(15 * np.tanh(head / 15), logits(graph), atol=1e-5)


def test_tap_of_unknown_names_lists_near_ones() -> None:
    with pytest.raises(GraphError, match=r"no value is called blk\.1\.atention \(near: blk\.1\.attention"):
        tap(llama_like(), ["blk.1.atention"])
    with pytest.raises(GraphError, match=r"no value is called blk\.9\.\*"):
        tap(llama_like(), ["blk.9.*"])
    with pytest.raises(GraphError, match=r"no value is called blk\.1\.attn_norm .*tap before fuse"):
        tap(fuse(llama_like()), ["blk.1.attn_norm"])


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("fused", [False, True])
def test_truncated_model_puts_its_head_on_the_last_layer_kept(layers: int, fused: bool) -> None:
    long = llama_like(3)
    cut = truncate(fuse(long) if fused else long, layers)
    assert cut.num_layers == layers
    short = tap(long, [f"blk.{layers - 1}.ffn_out"])
    hidden = run_taps(short)[f"blk.{layers - 1}.ffn_out"]
    weights = {name: tensor.dequantize() for name, tensor in long.weights().items()}
    normed = hidden / np.sqrt(np.mean(hidden**2, axis=1, keepdims=True) + 1e-5) * weights["final_norm"]
    expected = 15 * np.tanh(normed @ weights["embed"].T / 15)
    np.testing.assert_allclose(logits(cut), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("layers", [0, 4, -1])
def test_truncate_to_layers_that_are_not_there(layers: int) -> None:
    with pytest.raises(GraphError, match=rf"has 3 layers, cannot keep the first {layers}"):
        truncate(llama_like(3), layers)


def test_truncate_refuses_to_lose_a_tap() -> None:
    graph = tap(llama_like(3), ["blk.*.q"])
    with pytest.raises(GraphError, match=r"output blk\.1\.q lies in a layer after the first 1"):
        truncate(graph, 1)


def test_truncate_needs_one_value_between_layers() -> None:
    w, g = RandomWeights(), GraphBuilder()
    x = g.embed(w("embed", 61, 8))
    with g.layer(0):
        a, b = g.act(x, act="silu"), g.act(x, act="gelu")
    with g.layer(1):
        x = g.add(a, b)
    with pytest.raises(GraphError, match="expected exactly one value"):
        truncate(g.finish(g.select(x)), 1)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("fused", [False, True])
def test_hidden_states_are_what_the_head_reads(name: str, fused: bool) -> None:
    [norm] = [node for node in GRAPHS[name] if node.op.endswith("_norm") and node.output.rows == "R"]
    expected = run_taps(tap(GRAPHS[name], [norm.name]))[norm.name]
    graph = hidden(GRAPHS[name])
    graph = fuse(graph) if fused else graph
    assert graph.weights().keys() == GRAPHS[name].weights().keys()
    [sequence] = new_sequences(4, [IDS])
    result = (
        ReferenceExecutor()
        .compile(graph, 4)
        .run(hidden_batch([(sequence, len(IDS))], [0, 7, 20], num_groups=len(kv_windows(graph))))
    )
    np.testing.assert_array_equal(result.taps[HIDDEN], expected[[0, 7, 20]])
    np.testing.assert_allclose(result.logits, logits(GRAPHS[name])[-1:], rtol=0, atol=1e-6)


def test_hidden_states_of_a_model_without_a_final_norm() -> None:
    w, g = RandomWeights(), GraphBuilder()
    embedding = w("embed", 61, 8)
    graph = hidden(g.finish(g.linear(g.select(g.embed(embedding)), embedding)))
    [sequence] = new_sequences(4, [IDS])
    taps = ReferenceExecutor().compile(graph, 4).run(hidden_batch([(sequence, len(IDS))], [3])).taps
    np.testing.assert_array_equal(taps[HIDDEN], embedding.dequantize()[IDS[3:4]])


def test_hidden_after_fuse_is_refused() -> None:
    with pytest.raises(GraphError, match="hidden before fuse"):
        hidden(fuse(llama_like()))
    with pytest.raises(GraphError, match="has 2 `select` nodes, expected one"):
        hidden(hidden(llama_like()))
