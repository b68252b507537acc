"""What a graph needs of a KV cache: which layers have one, and which of them share block tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pellucid.errors import ExecutorError
from pellucid.executors.base import BlockCopy, KVGroup
from pellucid.graph.ir import Graph


@dataclass(frozen=True)
class KVLayer:
    """One layer's part of a KV cache: K heads of D columns, for keys and for values, of the last `window` tokens."""

    index: int
    num_kv_heads: int
    head_size: int
    window: int  # 0: all tokens


def kv_layers(graph: Graph) -> list[KVLayer]:
    """The layers of `graph` that have attention, in order."""
    return [
        KVLayer(node.layer, *(int(node.attrs[name]) for name in ("num_kv_heads", "head_size", "window")))
        for node in graph
        if node.op == "attention" and node.layer is not None
    ]


def kv_windows(graph: Graph) -> list[int]:
    """The window of each KV group: layers with the same one are a group. Ascending, so 0 (no window) comes first."""
    return sorted({layer.window for layer in kv_layers(graph)}) or [0]


def kv_groups(graph: Graph, num_blocks: int | Sequence[int]) -> tuple[KVGroup, ...]:
    """The KV groups with their numbers of blocks; a single number is that of every group."""
    windows = kv_windows(graph)
    each = [num_blocks] * len(windows) if isinstance(num_blocks, int) else num_blocks
    if len(each) != len(windows):
        raise ExecutorError(f"got numbers of blocks for {len(each)} KV groups, but the graph has {len(windows)}")
    return tuple(KVGroup(window, n) for window, n in zip(windows, each, strict=True))


def check_copies(copies: Sequence[BlockCopy], groups: Sequence[KVGroup]) -> None:
    """Raise ExecutorError unless every copy is between two blocks that exist."""
    for group, *blocks in copies:
        if not 0 <= group < len(groups) or not all(0 <= b < groups[group].num_blocks for b in blocks):
            raise ExecutorError(f"a copy of KV block {blocks[0]} to {blocks[1]} of group {group}: there are {groups}")
