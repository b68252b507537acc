"""CacheManager: which KV blocks hold which sequence. The book-keeping beside the KV cache that a Program owns.

Each KV group (executors/base.py) has a BlockPool and, for each sequence, a block table: token p lives in block
table[p // block_size]. Of a sequence whose first n tokens are computed, and with m tokens asked for:

    table entries                   a group without a window              a group with window w
    [0, first)                      none: first = 0                       -1: behind the window of token n
    [first, n // block_size)        full, published under their digests   the same
    [n // block_size, m / size)     partly filled, empty, or holding draft tokens that were wrong: never published

where first = max(0, n - w + 1) // block_size. Blocks are shared, between sequences that begin alike (`admit`) and
between the answers to one prompt (`fork`); whoever is about to write to a shared block gets a copy of it first
(`reserve`), so that no write is ever seen by another sequence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from pellucid.cache.block_pool import BlockPool
from pellucid.executors.base import BLOCK_SIZE, BlockCopy, KVGroup

DROPPED = -1
"""Table entry of a block that lies behind the window and was given back."""


@dataclass
class _Sequence:
    tables: list[list[int]]  # one for each group
    num_dropped: list[int]  # leading entries of each table that are DROPPED
    num_published: int  # full blocks that were published, or given back


@dataclass(frozen=True)
class GroupStats:
    """Blocks of one group; `window` is 0 where layers see all tokens."""

    window: int
    num_free: int
    num_used: int
    num_cached: int


@dataclass(frozen=True)
class CacheStats:
    """Blocks by group and in all; tokens of admitted sequences that were looked up and found (since the start)."""

    groups: tuple[GroupStats, ...]
    num_blocks_free: int
    num_blocks_used: int
    num_blocks_cached: int
    usage: float  # of the fullest group: used / total
    num_queried_tokens: int
    num_hit_tokens: int


class CacheManager:
    """Block tables of the sequences in the cache, each under the key that its owner chose."""

    def __init__(
        self, groups: Sequence[KVGroup], *, block_size: int = BLOCK_SIZE, enable_prefix_caching: bool = True
    ) -> None:
        assert groups, "a model without attention has no use for a cache"
        self.block_size = block_size
        self.windows = [group.window for group in groups]
        self.num_blocks = [group.num_blocks for group in groups]
        self.prefix_caching = enable_prefix_caching
        self._num_queried = self._num_hit = 0
        self.clear()

    def clear(self) -> None:
        """Forget every sequence and everything that is cached. What `stats` counts goes on."""
        self.pools = [BlockPool(num_blocks) for num_blocks in self.num_blocks]
        self._sequences: dict[Hashable, _Sequence] = {}
        self._copies: list[BlockCopy] = []

    # What fits

    def blocks_needed(self, num_tokens: int, chunk: int) -> list[int]:
        """Blocks of each group for one sequence of `num_tokens` of which a step computes at most `chunk`."""
        whole = self._blocks(num_tokens)
        return [whole if not window else min(whole, self._blocks(window + chunk) + 1) for window in self.windows]

    def capacity(self, chunk: int) -> int | None:
        """Most tokens of a sequence that has the cache for itself; None where windows keep all of them short enough."""
        limits = [
            pool.num_blocks * self.block_size
            for window, pool in zip(self.windows, self.pools, strict=True)
            if not window or pool.num_blocks <= self._blocks(window + chunk)
        ]
        return min(limits, default=None)

    def could_have(self, needed: Sequence[int], keys: Iterable[Hashable]) -> bool:
        """Whether so many blocks of each group are available or held by `keys` (shared ones count for each)."""
        held = [self._sequences[key] for key in keys]
        return all(
            n <= pool.num_available + sum(len(s.tables[g]) - s.num_dropped[g] for s in held)
            for g, (n, pool) in enumerate(zip(needed, self.pools, strict=True))
        )

    # A sequence's life

    def match(self, digests: Sequence[bytes], num_blocks: int) -> int:
        """How many tokens of a sequence with these block digests are cached, at most `num_blocks` full blocks.

        They are all its first ones, except that a group with a window needs no more than the window before their end.
        """
        length = num_blocks if self.prefix_caching else 0
        longest = -1
        while length != longest:  # a group with a window may end the match early, and then another one must look again
            longest = length
            for pool, window in zip(self.pools, self.windows, strict=True):
                end, i = length, length - 1
                while i >= self._first_block(end * self.block_size, window):
                    if pool.find(digests[i]) is None:
                        end = i
                    i -= 1
                length = end
        return length * self.block_size

    def can_admit(self, digests: Sequence[bytes], start: int, end: int, num_tokens: int) -> bool:
        """Whether `admit` with the same arguments would find enough blocks."""
        num_shared = start // self.block_size
        for pool, window, blocks in zip(self.pools, self.windows, self._shared(digests, start), strict=True):
            unused = sum(pool.references(block) == 0 for block in blocks)
            if self._blocks(end if window else num_tokens) - num_shared > pool.num_available - unused:
                return False
        return True

    def admit(self, key: Hashable, digests: Sequence[bytes], start: int, end: int, num_tokens: int) -> bool:
        """Begin sequence `key`: share the blocks of its first `start` tokens, which `match` found just now, and have
        room for the rest of `num_tokens`, of which the first step computes [start, end).

        False, and nothing changed, if blocks are missing.
        """
        assert key not in self._sequences, f"{key} has blocks already"
        if not self.can_admit(digests, start, end, num_tokens):
            return False
        shared = self._shared(digests, start)
        for pool, blocks in zip(self.pools, shared, strict=True):
            pool.share(blocks)
        dropped = [self._first_block(start, window) for window in self.windows]
        tables = [[DROPPED] * first + blocks for first, blocks in zip(dropped, shared, strict=True)]
        self._sequences[key] = _Sequence(tables, dropped, start // self.block_size)
        if self.prefix_caching:
            self._num_queried += num_tokens
            self._num_hit += start
        room = self.reserve(key, start, end, num_tokens)
        assert room, "blocks were counted wrong"
        return True

    def fork(self, parent: Hashable, child: Hashable, num_tokens: int) -> bool:
        """Begin sequence `child` with the first `num_tokens` tokens of `parent`, which must be computed: it shares
        every block that it needs of them, also one that is filled in part.

        False, and nothing changed, if `parent` has given some of them back (behind its window).
        """
        assert child not in self._sequences, f"{child} has blocks already"
        source = self._sequences[parent]
        dropped = [self._first_block(num_tokens, window) for window in self.windows]
        if any(has > needs for has, needs in zip(source.num_dropped, dropped, strict=True)):
            return False
        tables = []
        for pool, table, first in zip(self.pools, source.tables, dropped, strict=True):
            blocks = table[first : self._blocks(num_tokens)]
            pool.share(blocks)
            tables.append([DROPPED] * first + blocks)
        self._sequences[child] = _Sequence(tables, dropped, num_tokens // self.block_size)
        return True

    def reserve(self, key: Hashable, start: int, end: int, ahead: int = 0) -> bool:
        """Make the tables of `key` ready for a step that computes its tokens [start, end).

        They then cover the tokens below `end` (those below `ahead`, too, in groups without a window), and of the blocks
        that will be written to, none is shared or published. Where that takes a copy, `take_copies` has it. False, and
        nothing changed, if blocks are missing.
        """
        tables = self._sequences[key].tables
        first, last = start // self.block_size, self._blocks(end)
        whole = max(last, self._blocks(ahead))
        missing: list[tuple[int, list[int]]] = []
        for pool, window, table in zip(self.pools, self.windows, tables, strict=True):
            num_new = max(0, (last if window else whole) - len(table))
            shared = [i for i in range(first, min(len(table), last)) if pool.references(table[i]) > 1]
            if num_new + len(shared) > pool.num_available:
                return False
            missing.append((num_new, shared))
        for group, (num_new, shared) in enumerate(missing):
            pool, table = self.pools[group], tables[group]
            if num_new or shared:
                blocks = pool.allocate(num_new + len(shared)) or []
                for i in shared:
                    copy = BlockCopy(group, table[i], blocks.pop())
                    self._copies.append(copy)
                    pool.release([copy.source])
                    table[i] = copy.destination
                table += blocks
            for block in table[first:last]:
                pool.unpublish(block)
        return True

    def computed(self, key: Hashable, digests: Sequence[bytes], num_tokens: int) -> None:
        """The first `num_tokens` tokens of `key` are computed: publish its full blocks, give back those behind windows.

        `digests` are those of these blocks (more are fine). A window is that of the next token, at `num_tokens`.
        """
        sequence = self._sequences[key]
        num_full = num_tokens // self.block_size
        for group, (pool, window, table) in enumerate(zip(self.pools, self.windows, sequence.tables, strict=True)):
            if self.prefix_caching:
                for i in range(sequence.num_published, num_full):
                    pool.publish(table[i], digests[i])
            for i in range(sequence.num_dropped[group], self._first_block(num_tokens, window)):
                pool.release([table[i]])
                table[i] = DROPPED
                sequence.num_dropped[group] += 1
        sequence.num_published = max(num_full, sequence.num_published)

    def free(self, key: Hashable) -> None:
        """Give back every block of `key`; a key without blocks is fine. Its last block is forgotten first."""
        sequence = self._sequences.pop(key, None)
        if sequence is not None:
            for pool, table, dropped in zip(self.pools, sequence.tables, sequence.num_dropped, strict=True):
                pool.release(reversed(table[dropped:]))

    # What a step needs

    def __contains__(self, key: Hashable) -> bool:
        return key in self._sequences

    def block_tables(self, key: Hashable) -> Sequence[Sequence[int]]:
        """For each group the blocks of `key` in the order of its tokens; they change with the calls above."""
        return self._sequences[key].tables

    def take_copies(self) -> list[BlockCopy]:
        """The copies that must be made, in this order, before anything else is written; they are handed out once."""
        copies, self._copies = self._copies, []
        return copies

    # How it is doing

    @property
    def usage(self) -> float:
        """Part of the blocks that sequences use, in the fullest group, 0 to 1."""
        return max(pool.num_used / pool.num_blocks for pool in self.pools)

    def stats(self) -> CacheStats:
        groups = tuple(
            GroupStats(window, pool.num_free, pool.num_used, pool.num_cached)
            for window, pool in zip(self.windows, self.pools, strict=True)
        )
        return CacheStats(
            groups=groups,
            num_blocks_free=sum(pool.num_free for pool in self.pools),
            num_blocks_used=sum(pool.num_used for pool in self.pools),
            num_blocks_cached=sum(pool.num_cached for pool in self.pools),
            usage=self.usage,
            num_queried_tokens=self._num_queried,
            num_hit_tokens=self._num_hit,
        )

    def check_empty(self) -> None:
        """No sequence is held and no block lost, in constant time. AssertionError means a bug of ours."""
        assert not self._sequences, f"blocks are still held by {list(self._sequences)}"
        lost = [pool.num_used for pool in self.pools]
        assert not any(lost), f"{lost} blocks of the groups are in use, and no sequence holds them"

    def check(self, *, idle: bool = False) -> None:
        """The pools' invariants, and that tables hold every reference. `idle`: nothing may be in use.

        AssertionError means a bug of ours.
        """
        for g, pool in enumerate(self.pools):
            pool.check()
            held: Counter[int] = Counter()
            for key, sequence in self._sequences.items():
                table, dropped = sequence.tables[g], sequence.num_dropped[g]
                assert table[:dropped] == [DROPPED] * dropped, f"{key} holds blocks behind its window: {table}"
                assert DROPPED not in table[dropped:], f"{key} has a hole in its table: {table}"
                assert len(set(table[dropped:])) == len(table) - dropped, f"{key} holds a block twice: {table}"
                assert sequence.num_published <= len(table), f"{key} published blocks that it does not hold"
                assert self.windows[g] or dropped == 0, f"{key} has given back blocks, and there is no window"
                held.update(table[dropped:])
            for block, count in held.items():
                assert count == pool.references(block), (
                    f"block {block}: {count} tables hold it, {pool.references(block)} references"
                )
            assert len(held) == pool.num_used, f"{pool.num_used} blocks are in use, {len(held)} of them in tables"
        if idle:
            self.check_empty()

    def _shared(self, digests: Sequence[bytes], num_tokens: int) -> list[list[int]]:
        """For each group the published blocks that a sequence needs of its first `num_tokens` tokens, all of them."""
        num_shared = num_tokens // self.block_size
        shared = []
        for pool, window in zip(self.pools, self.windows, strict=True):
            wanted = digests[self._first_block(num_tokens, window) : num_shared]
            blocks = [block for digest in wanted if (block := pool.find(digest)) is not None]
            assert len(blocks) == len(wanted), "match() found more than there is"
            shared.append(blocks)
        return shared

    def _blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def _first_block(self, num_tokens: int, window: int) -> int:
        """The first block that token `num_tokens`, the next one, needs."""
        return max(0, num_tokens - window + 1) // self.block_size if window else 0
