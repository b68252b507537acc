"""Scheduler: which tokens of which requests are computed in the next step.

The rule: a request has two numbers, num_computed_tokens and num_tokens, and a step gives it min(their difference,
what is left of the budget). A new prompt, the rest of a chunked prompt, the token that was just sampled and the
recomputation after a preemption are all this one subtraction; there is no prefill phase and no decode phase.

Only book-keeping may enter this file: no arrays, no model, no text, no sampling. Cache policy belongs into cache/,
array building into step.py, stop conditions into engine.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from pellucid.cache.manager import CacheManager
from pellucid.engine.request import Request


@dataclass(frozen=True)
class ScheduledRequest:
    """Compute tokens [start, start + count) of `request`, whose block table covers them."""

    request: Request
    start: int
    count: int
    block_ids: tuple[int, ...]


@dataclass(frozen=True)
class StepPlan:
    """One step's work. `preempted` lists requests that lost their blocks for it."""

    scheduled: tuple[ScheduledRequest, ...]
    preempted: tuple[Request, ...] = ()

    @property
    def num_tokens(self) -> int:
        return sum(s.count for s in self.scheduled)


class Scheduler:
    """First come, first served, within `max_num_seqs` sequences and `max_num_batched_tokens` tokens a step.

    Requests that lack one token go first (an answer in progress waits for nobody's prompt), then longer gaps of running
    requests, then waiting requests as long as the cache has blocks for all their present tokens. A running request that
    needs a block when none is free takes those of the newest running request, which goes back to the head of the queue
    and recomputes later. The oldest one can never be preempted, so everything finishes.

    `prefill_chunk` limits the tokens of one request in a step; `max_logit_rows` the tokens of all requests that want
    log-probabilities of their prompt (each is a row of V floats).
    """

    def __init__(
        self,
        cache: CacheManager,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        prefill_chunk: int | None = None,
        max_logit_rows: int | None = None,
    ) -> None:
        self.cache = cache
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.prefill_chunk = prefill_chunk or max_num_batched_tokens
        self.max_logit_rows = max_logit_rows or max_num_batched_tokens
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []  # in the order they were admitted; the newest is last

    def __iter__(self) -> Iterator[Request]:
        """Every request that is not finished, oldest first."""
        yield from self.running
        yield from self.waiting

    def add(self, request: Request) -> None:
        self.waiting.append(request)

    def remove(self, request: Request) -> None:
        """Forget a request, running or waiting, and free its blocks."""
        (self.running if request in self.running else self.waiting).remove(request)
        self.cache.free(request.key)

    def schedule(self) -> StepPlan:
        """Decide the next step. Allocates blocks and moves requests between the queues; tokens are left as they are.

        The plan is empty only when no request is unfinished. Once the step has run, num_computed_tokens of each
        scheduled request must become start + count before the next call.
        """
        scheduled: list[ScheduledRequest] = []
        preempted: list[Request] = []
        budget = self.max_num_batched_tokens
        logit_rows = self.max_logit_rows

        def take(request: Request) -> None:
            nonlocal budget, logit_rows
            count = min(request.num_missing_tokens, budget, self.prefill_chunk)
            if request.wants_prompt_logits:
                count = min(count, logit_rows)
                logit_rows -= count
            if count > 0:
                budget -= count
                blocks = tuple(self.cache.block_table(request.key))
                scheduled.append(ScheduledRequest(request, request.num_computed_tokens, count, blocks))

        for request in [r for r in self.running if r.num_missing_tokens == 1]:
            if budget > 0 and request in self.running and self._make_room(request, preempted):
                take(request)
        for request in [r for r in self.running if r.num_missing_tokens > 1]:
            take(request)
        while self.waiting and budget > 0 and len(self.running) < self.max_num_seqs:
            request = self.waiting[0]
            if not self.cache.allocate(request.key, request.num_tokens):
                break
            self.running.append(self.waiting.popleft())
            take(request)
        return StepPlan(tuple(scheduled), tuple(preempted))

    def _make_room(self, request: Request, preempted: list[Request]) -> bool:
        """Let the blocks of `request` cover its tokens, preempting newer requests. False if it was preempted itself."""
        while not self.cache.allocate(request.key, request.num_tokens):
            newest = self.running.pop()
            self.cache.free(newest.key)
            newest.num_computed_tokens = 0
            newest.num_preemptions += 1
            self.waiting.appendleft(newest)
            preempted.append(newest)
            if newest is request:
                return False
        return True
