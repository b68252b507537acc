"""Book-keeping of blocks, state by state."""

import pytest

from pellucid.cache.block_pool import BlockPool
from pellucid.cache.manager import CacheManager


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


def test_a_sequence_takes_a_block_when_its_last_one_is_full() -> None:
    cache = CacheManager(4, block_size=4)
    assert cache.allocate("a", 1)
    assert cache.block_table("a") == [0]
    assert cache.allocate("a", 4)
    assert cache.block_table("a") == [0]
    assert cache.allocate("a", 5)
    assert cache.block_table("a") == [0, 1]
    assert cache.allocate("a", 2)  # never shrinks
    assert cache.block_table("a") == [0, 1]
    assert cache.usage == 0.5
    cache.check()


def test_freeing_returns_blocks_so_that_the_first_goes_out_first() -> None:
    cache = CacheManager(5, block_size=4)
    assert cache.allocate("a", 8)
    assert cache.allocate("b", 4)
    cache.free("a")
    assert cache.allocate("c", 9)
    assert cache.block_table("c") == [0, 1, 3]
    cache.free("nobody")
    cache.check()
    cache.free("b")
    cache.free("c")
    cache.check(idle=True)


def test_without_room_nothing_changes() -> None:
    cache = CacheManager(2, block_size=4)
    assert cache.allocate("a", 5)
    assert not cache.allocate("a", 9)
    assert not cache.allocate("b", 1)
    assert cache.block_table("a") == [0, 1]
    with pytest.raises(KeyError):
        cache.block_table("b")
    cache.check()
    with pytest.raises(AssertionError, match="still held"):
        cache.check(idle=True)


def test_check_finds_a_table_that_holds_a_free_block_and_a_block_without_a_table() -> None:
    cache = CacheManager(2)
    assert cache.allocate("a", 1)
    cache.pool.release([0])
    with pytest.raises(AssertionError, match="block 0"):
        cache.check()
    cache = CacheManager(2)
    cache.pool.allocate(1)
    with pytest.raises(AssertionError, match="1 blocks are in use, 0 of them"):
        cache.check()
