"""The simulation finds nothing wrong, repeats itself by its seed, and does find what is broken on purpose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
from support.fake_model import FakeProgram
from support.scenario import STEP_FAULTS
from support.simulation import SimulationFailed, simulate, simulate_all

from pellucid.cache.block_pool import BlockPool
from pellucid.cache.manager import CacheManager
from pellucid.engine.scheduler import Scheduler

NUM_SEEDS = 100
"""`make proof` takes 10,000."""


def test_whatever_happens_the_books_are_right_and_answers_are_cold_ones() -> None:
    counts = simulate_all(range(NUM_SEEDS))
    for fault in STEP_FAULTS:
        assert counts[fault] > 2, f"{fault} never struck"
    for event in ("stop", "length", "abort", "error", "refused at the door"):
        assert counts[event] > 20, f"hardly any {event}"
    for event in ("preemptions", "resumed from the cache", "copies", "drafts", "cached"):
        assert counts[event] > 100, f"hardly any {event}"


def test_a_seed_repeats_itself() -> None:
    assert simulate(3).trace == simulate(3).trace
    assert simulate(3).trace != simulate(4).trace


def once(method: Callable[..., Any], wrong: Callable[..., Any], *, call: int) -> Callable[..., Any]:
    """`method`, but its so-manyth call in each simulation is `wrong`."""
    calls: Counter[Any] = Counter()

    def sabotaged(self: Any, *args: Any) -> Any:
        calls[self] += 1
        return (wrong if calls[self] == call else method)(self, *args)

    return sabotaged


def leak(pool: BlockPool, blocks: Any) -> None:
    """All of them but one are given back."""
    release(pool, list(blocks)[1:])


def wrong_token(program: FakeProgram, batch: Any, row: int) -> list[int]:
    """The model sees another last token than the one that is there."""
    tokens = read(program, batch, row)
    return [*tokens[:-1], tokens[-1] ^ 1]


def no_copies(cache: CacheManager) -> list[Any]:
    take_copies(cache)
    return []


def lost_when_preempted(scheduler: Scheduler, request: Any, step: Any) -> None:
    preempt(scheduler, request, step)
    scheduler.queues.waiting.remove(request)


def published_early(cache: CacheManager, key: Any, digests: Any, num_tokens: int) -> None:
    """A block is said to be full when its last token is still missing."""
    full = num_tokens + 1 if (num_tokens + 1) % 16 == 0 and len(digests) > num_tokens // 16 else num_tokens
    computed(cache, key, digests, full)


release, read, take_copies = BlockPool.release, FakeProgram._tokens_up_to, CacheManager.take_copies
preempt, computed, first_block = Scheduler._preempt, CacheManager.computed, CacheManager._first_block

SABOTAGE: dict[str, tuple[type, str, Callable[..., Any]]] = {
    "one leaked block": (BlockPool, "release", once(release, leak, call=12)),
    "one wrong token": (FakeProgram, "_tokens_up_to", once(read, wrong_token, call=60)),
    "copies are not made": (CacheManager, "take_copies", no_copies),
    "shared blocks are written to": (BlockPool, "references", lambda pool, block: 1),
    "a preempted request is lost": (Scheduler, "_preempt", once(preempt, lost_when_preempted, call=2)),
    "windows are a token too short": (CacheManager, "_first_block", lambda c, n, w: first_block(c, n + 1, w)),
    "nobody is ever admitted": (Scheduler, "_next_waiting", lambda *_: None),
    "a late block is published": (CacheManager, "computed", published_early),
}


@pytest.mark.parametrize("what", SABOTAGE)
def test_what_is_broken_on_purpose_is_found(what: str) -> None:
    owner, name, wrong = SABOTAGE[what]
    with patch.object(owner, name, wrong), pytest.raises(SimulationFailed, match=r"(?s)seed \d+: .*--seed \d+"):
        simulate_all(range(40))
