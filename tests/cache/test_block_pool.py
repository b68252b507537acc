"""Book-keeping of blocks, state by state."""

import pytest

from pellucid.cache.block_pool import BlockPool
from pellucid.cache.manager import CacheManager
from pellucid.cache.prefix import BlockHashes
from pellucid.executors.base import BlockCopy, KVGroup


def test_blocks_are_handed_out_in_order_and_the_last_freed_goes_first() -> None:
    pool = BlockPool(5)
    assert pool.allocate(3) == [0, 1, 2]
    assert pool.num_free == 2
    pool.release([1])
    pool.release([0])
    assert pool.allocate(4) == [0, 1, 3, 4]
    assert pool.num_free == 0
    pool.check()


def test_allocation_is_all_or_nothing() -> None:
    pool = BlockPool(3)
    assert pool.allocate(2) == [0, 1]
    assert pool.allocate(2) is None
    assert pool.num_free == 1
    assert pool.allocate(1) == [2]
    assert pool.allocate(0) == []
    assert pool.allocate(1) is None
    pool.check()


def test_a_shared_block_is_free_when_its_last_reference_goes() -> None:
    pool = BlockPool(2)
    blocks = pool.allocate(2)
    assert blocks == [0, 1]
    pool.share([0])
    assert [pool.references(b) for b in (0, 1)] == [2, 1]
    pool.release([0, 1])
    assert [pool.references(b) for b in (0, 1)] == [1, 0]
    assert pool.num_free == 1
    pool.release([0])
    assert pool.num_free == 2
    pool.check()


@pytest.mark.parametrize("misuse", ["release twice", "share a free block"])
def test_misuse_is_caught(misuse: str) -> None:
    pool = BlockPool(2)
    pool.allocate(1)
    with pytest.raises(AssertionError, match="free"):
        pool.release([0, 0]) if misuse == "release twice" else pool.share([1])


def test_check_finds_a_lost_and_a_doubled_block() -> None:
    lost = BlockPool(3)
    lost._free.pop()
    with pytest.raises(AssertionError, match="1 blocks are neither"):
        lost.check()
    both = BlockPool(3)
    both._num_references[1] = 1
    with pytest.raises(AssertionError, match=r"\[1\] are both"):
        both.check()
    doubled = BlockPool(3)
    doubled._free.append(2)
    with pytest.raises(AssertionError, match="twice"):
        doubled.check()


def test_unused_blocks_with_a_digest_are_found_until_nothing_else_is_free() -> None:
    pool = BlockPool(3)
    assert pool.allocate(2) == [0, 1]
    pool.publish(0, b"x")
    pool.publish(1, b"y")
    pool.release([1, 0])  # in reverse: the tail is forgotten first
    assert (pool.num_free, pool.num_cached, pool.num_used, pool.num_available) == (1, 2, 0, 3)
    assert pool.allocate(2) == [2, 1]
    assert (pool.find(b"x"), pool.find(b"y")) == (0, None)
    pool.share([0])
    assert pool.references(0) == 1
    pool.check()


def cache(num_blocks: int, *windows: int) -> CacheManager:
    return CacheManager([KVGroup(w, num_blocks) for w in windows or (0,)], block_size=4)


def hashes(tokens: list[int], salt: str = "") -> list[bytes]:
    return list(BlockHashes(salt=salt, block_size=4).first(len(tokens) // 4, tokens))


def start(c: CacheManager, key: str, tokens: list[int]) -> int:
    """Admit and compute a sequence; how many of its tokens were cached."""
    digests = hashes(tokens)
    found = c.match(digests, (len(tokens) - 1) // 4)
    assert c.admit(key, digests, found, len(tokens), len(tokens))
    c.computed(key, digests, len(tokens))
    c.check()
    return found


def test_a_prefix_is_shared_and_its_last_token_never() -> None:
    c = cache(8)
    tokens = list(range(8))
    assert start(c, "a", tokens) == 0
    assert start(c, "b", tokens) == 4, "the last token is computed again, so its block cannot be shared"
    assert start(c, "c", [*tokens, 9]) == 8
    assert [c.block_tables(k) for k in "abc"] == [[[0, 1]], [[0, 2]], [[0, 1, 3]]]
    assert [c.pools[0].references(b) for b in range(4)] == [3, 2, 1, 1]
    assert c.match(hashes(tokens, salt="other"), 2) == 0
    for key in "abc":
        c.free(key)
    c.check(idle=True)
    assert start(c, "d", [*tokens, 7]) == 8
    assert c.stats().num_hit_tokens == 4 + 8 + 8


def test_a_fork_copies_a_shared_block_before_it_writes() -> None:
    c = cache(4)
    assert start(c, "a", list(range(6))) == 0
    assert c.fork("a", "b", 5)
    assert c.block_tables("b") == [[0, 1]]
    c.check()
    assert c.reserve("b", 5, 6)
    assert (c.take_copies(), c.take_copies()) == ([BlockCopy(0, 1, 2)], [])
    assert c.block_tables("b") == [[0, 2]]
    assert c.reserve("a", 6, 7)
    assert c.take_copies() == []
    c.free("a")
    c.free("b")
    c.check(idle=True)


def test_blocks_behind_a_window_are_given_back() -> None:
    c = cache(6, 0, 5)
    tokens = list(range(18))
    assert c.admit("a", hashes(tokens), 0, 8, 18)
    c.computed("a", hashes(tokens), 8)  # the next token sees 4 to 8
    assert c.block_tables("a") == [[0, 1, 2, 3, 4], [-1, 1]]
    assert c.reserve("a", 8, 18)
    c.computed("a", hashes(tokens), 18)  # sees 14 to 18
    assert c.block_tables("a")[1][:3] == [-1, -1, -1]
    c.check()
    c.free("a")
    assert c.match(hashes(tokens), 4) == 16
    c.check(idle=True)


def test_without_room_nothing_changes() -> None:
    c = cache(2)
    assert c.admit("a", [], 0, 5, 5)
    assert not c.reserve("a", 5, 9)
    assert not c.admit("b", [], 0, 1, 1)
    assert c.block_tables("a") == [[0, 1]]
    assert "b" not in c
    c.check()
    with pytest.raises(AssertionError, match="still held"):
        c.check(idle=True)


def test_check_finds_a_wrong_reference_and_a_leaked_block() -> None:
    c = cache(3)
    assert c.admit("a", [], 0, 1, 1)
    c.pools[0].share([0])
    with pytest.raises(AssertionError, match="block 0: 1 tables hold it, 2 references"):
        c.check()
    c = cache(3)
    c.pools[0].allocate(1)
    with pytest.raises(AssertionError, match="1 blocks are in use, 0 of them"):
        c.check()


def test_a_lost_block_is_noticed_when_nothing_is_held() -> None:
    c = CacheManager([KVGroup(0, 4), KVGroup(8, 4)], block_size=4)
    c.check_empty()
    assert c.admit("a", [], 0, 3, 3)
    with pytest.raises(AssertionError, match="held by"):
        c.check_empty()
    c.free("a")
    c.check_empty()
    c.pools[1].allocate(1)
    with pytest.raises(AssertionError, match=r"\[0, 1\] blocks"):
        c.check_empty()
