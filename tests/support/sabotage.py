"""Ways to break an engine on purpose, each of which the proofs must find."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from support.fake_model import FakeProgram

from pellucid.cache.block_pool import BlockPool
from pellucid.cache.manager import CacheManager
from pellucid.engine import rounds
from pellucid.engine.sampler import Row, Sampled, sample_rows
from pellucid.engine.scheduler import Scheduler


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


def misread(program: FakeProgram, batch: Any, row: int) -> list[int]:
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
    "one wrong token": (FakeProgram, "_tokens_up_to", once(read, misread, call=60)),
    "copies are not made": (CacheManager, "take_copies", no_copies),
    "shared blocks are written to": (BlockPool, "references", lambda pool, block: 1),
    "a preempted request is lost": (Scheduler, "_preempt", once(preempt, lost_when_preempted, call=2)),
    "windows are a token too short": (CacheManager, "_first_block", lambda c, n, w: first_block(c, n + 1, w)),
    "nobody is ever admitted": (Scheduler, "_next_waiting", lambda *_: None),
    "a late block is published": (CacheManager, "computed", published_early),
}
"""What is replaced by what: class, method, and what is there instead."""


@contextmanager
def one_wrong_token(at: int) -> Iterator[None]:
    """The `at`-th token that is chosen in company is another one than the sampler's."""
    num_chosen = 0

    def sabotaged(rows: Sequence[Row], *, threads: int = 1) -> list[Sampled | Exception]:
        nonlocal num_chosen
        chosen = sample_rows(rows, threads=threads)
        place = at - num_chosen
        if len(rows) > 1:
            num_chosen += len(rows)
            if 0 <= place < len(rows) and isinstance(right := chosen[place], Sampled):
                chosen[place] = replace(right, token=right.token ^ 1)
        return chosen

    with patch.object(rounds, "sample_rows", sabotaged):
        yield
