"""The builder's shape checks, names and messages."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from support.graphs import gpt2_like, llama_like

from pellucid.errors import GraphError
from pellucid.formats.qtensor import QTensor
from pellucid.formats.quant import QuantType
from pellucid.graph.builder import GraphBuilder, Norm
from pellucid.graph.ir import Value
from pellucid.graph.weights import from_array


def tensor(name: str, *shape: int) -> QTensor:
    return from_array(name, np.zeros(shape))


def quantised(name: str, *shape: int) -> QTensor:
    return QTensor(name, QuantType.Q8_0, shape, np.zeros(QuantType.Q8_0.nbytes(shape), np.uint8))


def started() -> tuple[GraphBuilder, Value]:
    g = GraphBuilder()
    return g, g.embed(tensor("embed", 10, 32))


def test_shape_message_names_layer_node_and_tensor_with_both_shapes() -> None:
    g, x = started()
    with g.layer(0):
        pass
    with g.layer(3), pytest.raises(GraphError) as error:
        g.linear(x, tensor("blk.3.attn_q.weight", 576, 512), name="q")
    message = str(error.value)
    for part in ("layer 3", "node blk.3.q", "blk.3.attn_q.weight is [576, 512]", "expected [*, 32]", "32 columns"):
        assert part in message


def test_names_are_prefixed_and_made_unique() -> None:
    g, x = started()
    with g.layer(0):
        assert g.add(x, x).name == "blk.0.add"
        assert g.add(x, x).name == "blk.0.add_2"
        assert g.add(x, x).name == "blk.0.add_3"
        assert g.add(x, x, name="sum").name == "blk.0.sum"
        with pytest.raises(GraphError, match=r"blk\.0\.sum .*unique"):
            g.add(x, x, name="sum")
    assert g.add(x, x).name == "add"


def test_failed_node_is_not_appended() -> None:
    g, x = started()
    with pytest.raises(GraphError):
        g.linear(x, tensor("w", 4, 31), name="q")
    y = g.linear(g.select(x), tensor("w", 4, 32), name="q")
    assert [node.name for node in g.finish(y)] == ["embed", "select", "q"]


def test_settings_given_as_numpy_numbers_are_stored_as_python_ones() -> None:
    g, x = started()
    g.softcap(x, cap=np.float64(3.0), name="cap")
    y = g.select(x)
    [node] = [node for node in g.finish(y) if node.name == "cap"]
    assert type(node.attrs["cap"]) is float


Case = Callable[[GraphBuilder, Value], object]


def attention(g: GraphBuilder, x: Value, **changes: float) -> Value:
    settings = {"num_heads": 4, "num_kv_heads": 4, "head_size": 8, "scale": 1.0, **changes}
    return g.attention(x, x, x, **settings)  # type: ignore[arg-type]


REFUSED: dict[str, tuple[Case, str]] = {
    "embedding of one axis": (lambda g, x: g.embed(tensor("e", 10)), r"e is \[10\], expected \[\*, \*\]"),
    "embedding from elsewhere": (lambda g, x: g.embed(tensor("e", 10, 4), source="words"), "source is 'words'"),
    "scale nan": (lambda g, x: g.embed(tensor("e", 10, 4), scale=float("nan")), "scale is nan"),
    "bias of another size": (
        lambda g, x: g.linear(x, tensor("w", 4, 32), tensor("b", 5)),
        r"b is \[5\], expected \[4\]",
    ),
    "quantised bias": (lambda g, x: g.linear(x, tensor("w", 32, 32), quantised("b", 32)), "b is Q8_0"),
    "two weights and one bias": (
        lambda g, x: g.linear(x, [tensor("w", 4, 32), tensor("u", 4, 32)], [tensor("b", 4)]),
        "2 weights and 1 biases",
    ),
    "no weights": (lambda g, x: g.linear(x, []), "0 weights"),
    "norm of another size": (
        lambda g, x: g.linear(x, tensor("w", 4, 32), norm=Norm("rms", tensor("n", 31), 1e-5)),
        r"n is \[31\], expected \[32\]",
    ),
    "norm of another kind": (
        lambda g, x: g.linear(x, tensor("w", 4, 32), norm=Norm("batch", tensor("n", 32), 1e-5)),  # type: ignore[arg-type]
        "norm is 'batch'",
    ),
    "residual of another size": (lambda g, x: g.linear(x, tensor("w", 4, 32), residual=x), "residual"),
    "norm that does not divide": (lambda g, x: g.rms_norm(x, tensor("n", 5), eps=1e-5), "divides the 32 columns"),
    "empty norm": (lambda g, x: g.rms_norm(x, tensor("n", 0), eps=1e-5), "empty"),
    "eps 0": (lambda g, x: g.rms_norm(x, tensor("n", 32), eps=0), "eps is 0"),
    "layer norm of another size": (lambda g, x: g.layer_norm(x, tensor("n", 16), eps=1e-5), r"expected \[32\]"),
    "slice past the end": (lambda g, x: g.slice(x, 30, 3), "columns 30 to 33"),
    "slice of nothing": (lambda g, x: g.slice(x, 3, 0), "columns 3 to 3"),
    "slice before the start": (lambda g, x: g.slice(x, -1, 3), "columns -1"),
    "rope heads do not divide": (lambda g, x: g.rope(x, tensor("f", 4), head_size=12), "heads of 12"),
    "rope rotates too much": (lambda g, x: g.rope(x, tensor("f", 5), head_size=8), r"expected at most \[4\]"),
    "rope of another style": (lambda g, x: g.rope(x, tensor("f", 4), head_size=8, style="both"), "style is 'both'"),
    "rope on selected rows": (lambda g, x: g.rope(g.select(x), tensor("f", 4), head_size=8), "rows R"),
    "heads do not divide": (lambda g, x: attention(g, x, num_kv_heads=3), "num_heads is 4, expected a multiple"),
    "kv heads do not fit": (lambda g, x: attention(g, x, num_kv_heads=2), "k is .* expected 2 heads × 8 = 16"),
    "query heads do not fit": (lambda g, x: attention(g, x, head_size=4), "q is"),
    "no heads": (lambda g, x: attention(g, x, num_kv_heads=0), "num_kv_heads is 0"),
    "negative window": (lambda g, x: attention(g, x, window=-1), "window is -1"),
    "negative softcap": (lambda g, x: attention(g, x, softcap=-1.0), "softcap is -1"),
    "scale infinite": (lambda g, x: attention(g, x, scale=float("inf")), "scale is inf"),
    "act unknown": (lambda g, x: g.act(x, act="swish"), "act is 'swish', expected one of silu"),
    "glu of two widths": (lambda g, x: g.glu(x, g.slice(x, 0, 4), act="silu"), "differ in shape"),
    "add of two row kinds": (lambda g, x: g.add(x, g.select(x)), "differ in shape"),
    "cap 0": (lambda g, x: g.softcap(x, cap=0.0), "cap is 0"),
    "select twice": (lambda g, x: g.select(g.select(x)), "rows R"),
    "value from nowhere": (lambda g, x: g.add(x, Value("other", "T", 32)), "not a value of this graph"),
    "one name for two tensors": (
        lambda g, x: g.add(g.linear(x, tensor("w", 32, 32)), g.linear(x, from_array("w", np.ones((32, 32))))),
        "another tensor of this graph is called w",
    ),
    "logits of all rows": (lambda g, x: g.finish(x), "select"),
    "logits from nowhere": (lambda g, x: g.finish(Value("y", "R", 3)), "not a value of this graph"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    build, message = REFUSED[case]
    g, x = started()
    with g.layer(0), pytest.raises(GraphError, match=message):
        build(g, x)


def test_attention_needs_a_layer_of_its_own() -> None:
    g, x = started()
    with pytest.raises(GraphError, match="inside a layer"):
        attention(g, x)
    with g.layer(0):
        attention(g, x)
        with pytest.raises(GraphError, match="one KV cache"):
            attention(g, x)


def test_layers_may_not_nest_or_have_gaps() -> None:
    g, x = started()
    with g.layer(0), pytest.raises(GraphError, match="inside layer 0"), g.layer(1):
        pass
    with g.layer(2):
        g.add(x, x)
    with pytest.raises(GraphError, match="without gaps"):
        g.finish(g.select(x))


def test_same_tensor_made_twice_is_one_tensor() -> None:
    g, x = started()
    for _ in range(2):
        x = g.rope(x, from_array("inv_freq", np.ones(4)), head_size=8)
    assert list(g.finish(g.select(x)).weights()) == ["embed", "inv_freq"]


@pytest.mark.parametrize("graph", [llama_like(), gpt2_like()], ids=["llama", "gpt2"])
def test_values_are_made_before_they_are_read(graph) -> None:
    seen: set[str] = set()
    for node in graph:
        assert {value.name for value in node.inputs} <= seen
        assert node.name not in seen
        seen.add(node.name)


def test_dump_and_summary() -> None:
    graph = llama_like(2)
    dump = graph.dump()
    assert "# layer 0" in dump
    assert "# layer 1" in dump
    assert "%blk.1.q[T,48] = linear(%blk.1.attn_norm[T,24], weight=1.q:F32[48, 24], bias=1.q.bias:F32[48])" in dump
    assert "window=7" in dump
    assert dump.splitlines()[-1] == "return logits = %logits[R,61]"
    assert dump.count("%blk.0.q[T,48] =") == 1
    parameters = sum(int(np.prod(t.shape)) for t in graph.weights().values())
    assert f"{parameters:,} parameters" in graph.summary()
    assert f"F32 {4 * parameters:,}" in graph.summary()
    assert "2 attention" in graph.summary()
