"""BlockPool: which KV blocks are free, in use, or unused with contents worth keeping. Numbers only, no tensors.

free ──allocate──▶ used (one reference or more) ──release──▶ free
                    ▲  │ publish: its contents have a digest
              share │  ▼
                   cached (no reference, found by its digest) ──allocate, when nothing is free──▶ used, forgotten
"""

from __future__ import annotations

from collections.abc import Iterable


class BlockPool:
    """`num_blocks` blocks, each free, used or cached.

    The free list is a stack: blocks given back last are handed out first, so that a lightly loaded engine keeps
    touching the same few pages of memory. Cached blocks are handed out only when none is free, the one released
    longest ago first.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))  # top of the stack is the end; block 0 goes first
        self._num_references = [0] * num_blocks
        self._digests: list[bytes | None] = [None] * num_blocks
        self._published: dict[bytes, int] = {}  # digest → the block that can be found under it
        self._cached: dict[int, None] = {}  # unused blocks with a digest, the one released longest ago first

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_cached(self) -> int:
        return len(self._cached)

    @property
    def num_used(self) -> int:
        return self.num_blocks - len(self._free) - len(self._cached)

    @property
    def num_available(self) -> int:
        """Blocks that `allocate` can hand out."""
        return len(self._free) + len(self._cached)

    def references(self, block: int) -> int:
        return self._num_references[block]

    def allocate(self, count: int) -> list[int] | None:
        """Take `count` blocks, each with one reference and no digest; None, and nothing changed, if there are fewer."""
        if count > self.num_available:
            return None
        blocks = []
        for _ in range(count):
            if self._free:
                block = self._free.pop()
            else:
                block = next(iter(self._cached))
                del self._cached[block]
                self.unpublish(block)
            self._num_references[block] = 1
            blocks.append(block)
        return blocks

    def share(self, blocks: Iterable[int]) -> None:
        """Add a reference to each of `blocks`, which must be used or cached."""
        for block in blocks:
            if self._num_references[block] == 0:
                assert block in self._cached, f"block {block} is free and cannot be shared"
                del self._cached[block]
            self._num_references[block] += 1

    def release(self, blocks: Iterable[int]) -> None:
        """Take one reference from each of `blocks`. Those without any left are cached if they have a digest, else free.

        The first of them is the first to be forgotten, and the last of them the first to be handed out: give back a
        sequence's blocks in reverse, since no block is of use without those before it.
        """
        for block in blocks:
            assert self._num_references[block] > 0, f"block {block} is free already"
            self._num_references[block] -= 1
            if self._num_references[block] == 0:
                if self._digests[block] is None:
                    self._free.append(block)
                else:
                    self._cached[block] = None

    def publish(self, block: int, digest: bytes) -> None:
        """Let `find` answer `block` for `digest`. Nothing happens if another block holds the same already.

        The block must be in use and may not be written to while it has a digest.
        """
        assert self._num_references[block] > 0, f"block {block} is not in use"
        assert self._digests[block] in (None, digest), f"block {block} has another digest"
        if self._published.setdefault(digest, block) == block:
            self._digests[block] = digest

    def unpublish(self, block: int) -> None:
        """Forget the digest of `block`, if it has one: its contents are about to change."""
        digest = self._digests[block]
        if digest is not None:
            del self._published[digest]
            self._digests[block] = None

    def find(self, digest: bytes) -> int | None:
        """The used or cached block with these contents; it is valid until the next `allocate` unless it is shared."""
        return self._published.get(digest)

    def check(self) -> None:
        """Free + used + cached = total, each block in exactly one of them, and digests and blocks name each other.

        AssertionError means a bug of ours.
        """
        free, cached = set(self._free), set(self._cached)
        used = {block for block, count in enumerate(self._num_references) if count}
        assert all(count >= 0 for count in self._num_references), "a block has fewer than no references"
        assert len(free) == len(self._free), f"a block is in the free list twice: {self._free}"
        assert free.isdisjoint(used), f"blocks {sorted(free & used)} are both free and referenced"
        assert cached.isdisjoint(used | free), f"blocks {sorted(cached & (used | free))} are cached and something else"
        lost = self.num_blocks - len(free) - len(used) - len(cached)
        assert lost == 0, f"{lost} blocks are neither free nor referenced nor cached"
        named = {block: digest for block, digest in enumerate(self._digests) if digest is not None}
        assert named == {block: digest for digest, block in self._published.items()}, "digests and blocks disagree"
        assert free.isdisjoint(named), f"free blocks {sorted(free & named.keys())} have a digest"
        assert cached <= named.keys(), f"cached blocks {sorted(cached - named.keys())} cannot be found"
