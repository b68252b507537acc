"""BlockPool: which KV blocks are free and how many sequences use each of the others. Numbers only, no tensors."""

from __future__ import annotations

from collections.abc import Iterable


class BlockPool:
    """`num_blocks` blocks, each free or referenced by one or more sequences.

    The free list is a stack: blocks given back last are handed out first, so that a lightly loaded engine keeps
    touching the same few pages of memory. Blocks that still hold a reusable prefix will need a place beside it.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))  # top of the stack is the end; block 0 goes first
        self._num_references = [0] * num_blocks

    @property
    def num_free(self) -> int:
        return len(self._free)

    def references(self, block: int) -> int:
        return self._num_references[block]

    def allocate(self, count: int) -> list[int] | None:
        """Take `count` free blocks, each with one reference; None, and nothing changed, when there are fewer."""
        if count > len(self._free):
            return None
        blocks = [self._free.pop() for _ in range(count)]
        for block in blocks:
            self._num_references[block] = 1
        return blocks

    def share(self, blocks: Iterable[int]) -> None:
        """Add a reference to each of `blocks`, which must be in use."""
        for block in blocks:
            assert self._num_references[block] > 0, f"block {block} is free and cannot be shared"
            self._num_references[block] += 1

    def release(self, blocks: Iterable[int]) -> None:
        """Take one reference from each of `blocks`; those without any left are free, the last of them on top."""
        for block in blocks:
            assert self._num_references[block] > 0, f"block {block} is free already"
            self._num_references[block] -= 1
            if self._num_references[block] == 0:
                self._free.append(block)

    def check(self) -> None:
        """Free + used = total, each block in exactly one of the two. AssertionError means a bug of ours."""
        free = set(self._free)
        used = {block for block, count in enumerate(self._num_references) if count}
        assert len(free) == len(self._free), f"a block is in the free list twice: {self._free}"
        assert free.isdisjoint(used), f"blocks {sorted(free & used)} are both free and referenced"
        lost = self.num_blocks - len(free) - len(used)
        assert lost == 0, f"{lost} blocks are neither free nor referenced"
