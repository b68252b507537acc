"""CacheManager: which KV blocks hold which sequence. The book-keeping beside the KV cache that a Program owns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

from pellucid.cache.block_pool import BlockPool
from pellucid.executors.base import BLOCK_SIZE


class CacheManager:
    """One block table per sequence: token p of sequence `key` lives in block `block_table(key)[p // block_size]`.

    A sequence owns ceil(n / block_size) blocks for the n tokens asked for so far. Only its last block can be partly
    filled. Blocks of different sequences never overlap today; reuse of a common prefix belongs into `allocate`.
    """

    def __init__(self, num_blocks: int, block_size: int = BLOCK_SIZE) -> None:
        self.block_size = block_size
        self.pool = BlockPool(num_blocks)
        self._tables: dict[Hashable, list[int]] = {}

    @property
    def num_tokens_capacity(self) -> int:
        """Tokens that fit when a single sequence has the whole cache."""
        return self.pool.num_blocks * self.block_size

    @property
    def usage(self) -> float:
        """Part of the blocks that is in use, 0 to 1."""
        return 1 - self.pool.num_free / self.pool.num_blocks

    def allocate(self, key: Hashable, num_tokens: int) -> bool:
        """Let the table of `key` cover `num_tokens` tokens; it never shrinks. False, and nothing changed, if full."""
        table = self._tables.get(key, [])
        blocks = self.pool.allocate(max(0, -(-num_tokens // self.block_size) - len(table)))
        if blocks is None:
            return False
        self._tables[key] = table + blocks
        return True

    def block_table(self, key: Hashable) -> Sequence[int]:
        """The blocks of `key` in the order of its tokens; valid until the next `allocate` or `free` of `key`."""
        return self._tables[key]

    def free(self, key: Hashable) -> None:
        """Give back every block of `key`; a key without blocks is fine. Its first block is handed out again first."""
        self.pool.release(reversed(self._tables.pop(key, [])))

    def check(self, *, idle: bool = False) -> None:
        """The pool's invariants, and that every reference is held by a table. `idle`: nothing may be in use."""
        self.pool.check()
        held = Counter(block for table in self._tables.values() for block in table)
        for block, count in held.items():
            assert count == self.pool.references(block), f"block {block}: {count} tables hold it"
        used = self.pool.num_blocks - self.pool.num_free
        assert len(held) == used, f"{used} blocks are in use, {len(held)} of them in tables"
        assert not (idle and self._tables), f"blocks are still held by {list(self._tables)}"
