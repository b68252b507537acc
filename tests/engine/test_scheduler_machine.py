"""Scheduler and cache in any order of events: every rule is followed by a check of all the books."""

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
from support.scheduler_machine import explore

from pellucid.cache.manager import CacheManager
from pellucid.cache.prefix import BlockHashes
from pellucid.engine.scheduler import Scheduler


def test_any_order_of_events() -> None:
    """`make proof` runs 2,000 examples."""
    seen = explore(60)
    for event in ("abort", "length", "preemptions", "copies", "drafts", "cached tokens", "behind a window"):
        assert seen[event] > 10, f"hardly any {event}"


def short_match(cache: CacheManager, digests: Any, num_blocks: int) -> int:
    return max(0, match(cache, digests, num_blocks) - cache.block_size)


def without_salt(hashes: BlockHashes, *, adapter: str = "", salt: str = "", block_size: int = 16) -> None:
    init(hashes, adapter=adapter, block_size=block_size)


match, init = CacheManager.match, BlockHashes.__init__
SABOTAGE: dict[str, tuple[type, str, Callable[..., Any]]] = {
    "not all that is cached is found": (CacheManager, "match", short_match),
    "salts are ignored": (BlockHashes, "__init__", without_salt),
    "blocks behind windows are kept": (CacheManager, "_first_block", lambda *_: 0),
    "the budget is not kept": (Scheduler, "_count", lambda s, r, start, _: min(r.num_tokens - start, s.prefill_chunk)),
    "nobody is ever admitted": (Scheduler, "_next_waiting", lambda *_: None),
}


@pytest.mark.parametrize("what", SABOTAGE)
def test_what_is_broken_on_purpose_is_found(what: str) -> None:
    owner, name, wrong = SABOTAGE[what]
    with patch.object(owner, name, wrong), pytest.raises(AssertionError):
        explore(60, shrink=False)
