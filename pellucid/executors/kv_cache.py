"""What a graph needs of a KV cache: which layers have one, and how large a block is."""

from __future__ import annotations

from dataclasses import dataclass

from pellucid.executors.base import BLOCK_SIZE
from pellucid.graph.ir import Graph


@dataclass(frozen=True)
class KVLayer:
    """One layer's part of a KV cache: K heads of D columns, for keys and for values."""

    index: int
    num_kv_heads: int
    head_size: int


def kv_layers(graph: Graph) -> list[KVLayer]:
    """The layers of `graph` that have attention, in order."""
    return [
        KVLayer(node.layer, int(node.attrs["num_kv_heads"]), int(node.attrs["head_size"]))
        for node in graph
        if node.op == "attention" and node.layer is not None
    ]


def kv_block_nbytes(graph: Graph, item_nbytes: int) -> int:
    """Bytes of one block (BLOCK_SIZE tokens) over all layers, keys and values, at `item_nbytes` a number."""
    columns = sum(layer.num_kv_heads * layer.head_size for layer in kv_layers(graph))
    return 2 * BLOCK_SIZE * columns * item_nbytes
