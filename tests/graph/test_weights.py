"""Weights: lookups, shape checks, what was used, and the transforms families need."""

from __future__ import annotations

import numpy as np
import pytest

from pellucid.errors import GraphError
from pellucid.formats.qtensor import QTensor
from pellucid.formats.quant import QuantType
from pellucid.graph.weights import Weights, from_array


def weights(**arrays: np.ndarray) -> Weights:
    return Weights({name: from_array(name, array) for name, array in arrays.items()})


def test_get_checks_shape_and_counts_uses() -> None:
    w = weights(a=np.zeros((2, 3)), b=np.zeros(4), c=np.zeros(1))
    assert w.get("a", (2, None)).name == "a"
    assert w.optional("missing") is None
    assert w.optional("b", (4,)) is not None
    assert w.has("c")
    assert w.unused() == ["c"]
    w.ignore("c")
    assert w.unused() == []


@pytest.mark.parametrize("shape", [(3, 2), (2,), (2, 3, 1), (None,), ()])
def test_wrong_shape_is_refused_with_both_shapes(shape: tuple[int | None, ...]) -> None:
    w = weights(a=np.zeros((2, 3)))
    with pytest.raises(GraphError, match=r"tensor a is \[2, 3\], expected \["):
        w.get("a", shape)
    assert w.unused() == ["a"]


def test_missing_tensor_names_near_ones() -> None:
    w = Weights({"blk.0.attn_q.weight": from_array("blk.0.attn_q.weight", [1.0])})
    with pytest.raises(GraphError, match=r"blk\.0\.atn_q\.weight is missing .*near: blk\.0\.attn_q\.weight"):
        w.get("blk.0.atn_q.weight")


@pytest.mark.parametrize("type", [QuantType.F32, QuantType.F16, QuantType.BF16])
def test_transposed_moves_bits_and_rounds_nothing(type: QuantType) -> None:
    data = np.arange(6 * type.block_nbytes, dtype=np.uint8)
    w = Weights({"a": QTensor("a", type, (2, 3), data)})
    turned = w.transposed("a", (3, 2))
    assert turned.type is type
    assert turned.name != "a"
    np.testing.assert_array_equal(turned.dequantize(), w.get("a").dequantize().T)


def test_transposed_refuses_blocks_vectors_and_other_shapes() -> None:
    shape = (32, 32)
    blocks = QTensor("q", QuantType.Q8_0, shape, np.zeros(QuantType.Q8_0.nbytes(shape), np.uint8))
    w = Weights({"q": blocks, "v": from_array("v", np.zeros(3)), "m": from_array("m", np.zeros((2, 3)))})
    with pytest.raises(GraphError, match="q is Q8_0; only F32, F16 and BF16"):
        w.transposed("q")
    with pytest.raises(GraphError, match=r"v is \[3\], expected a matrix"):
        w.transposed("v")
    with pytest.raises(GraphError, match=r"expected \[2, 3\]"):
        w.transposed("m", (2, 3))


def test_from_array_copies() -> None:
    source = np.array([1.5, -2.0])
    tensor = from_array("f", source)
    source[:] = 0
    np.testing.assert_array_equal(tensor.dequantize(), np.array([1.5, -2.0], np.float32))
    assert not tensor.data.flags.writeable
