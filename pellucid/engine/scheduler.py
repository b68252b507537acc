"""Scheduler: which tokens of which requests are computed in the next step.

The rule: a request has two numbers, num_computed_tokens and num_tokens, and a step gives it min(their difference,
what is left of the budget). A new prompt, the rest of a chunked prompt, the token that was just sampled and the
recomputation after a preemption are all this one subtraction; there is no prefill phase and no decode phase. What is
cached counts as computed; draft tokens are added to the difference where budget and blocks are left over.

Only book-keeping may enter this file: no arrays, no model, no text, no sampling. Cache policy belongs into cache/,
fairness into waiting.py, what else requests wait for into queues.py, array building into step.py, stop conditions
into token_text.py.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterator, Sequence

from pellucid.cache.manager import CacheManager
from pellucid.engine.plan import ScheduledRequest, StepInMaking, StepPlan
from pellucid.engine.queues import Queues
from pellucid.engine.request import Request
from pellucid.engine.waiting import TenantShares

LOOK_AHEAD = 4
"""Waiting requests that do not fit and are passed over, at most, in one step."""


class Scheduler:
    """Decides within `max_num_seqs` sequences and `max_num_batched_tokens` tokens a step.

    First, each answer in progress gets one token (it waits for nobody's prompt). What is left of the budget goes to
    prompts, running and waiting ones alike: by priority, then to the tenant that had least (waiting.py), then to
    running ones, then in order of arrival. A waiting request is admitted when the cache has blocks for all its present
    tokens. One that does not fit lets later ones pass, but only `max_num_seqs` of them: then all wait for it.

    A running request that lacks a block takes those of the newest one of the lowest priority, which goes back to the
    head of the queue, where it is a new request with a longer prompt, most of it cached. Nothing is taken from those
    that the step has already. The oldest of the highest priority can never be preempted, so everything finishes. A
    waiting request takes seat and blocks only from running ones of lower priority.

    Answers after the first to one prompt wait until the first one's prompt is computed and then share its blocks.

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
        self.prefill_chunk = min(prefill_chunk or max_num_batched_tokens, max_num_batched_tokens)
        self.max_logit_rows = max_logit_rows or max_num_batched_tokens
        self.shares = TenantShares()
        self.running: list[Request] = []  # by priority, and then in the order they were admitted
        self.queues = Queues(self.shares)
        self._kept: dict[Request, None] = {}  # ended ones whose blocks others are about to share

    def __iter__(self) -> Iterator[Request]:
        """Every request that is not finished."""
        yield from self.running
        yield from self.queues

    @property
    def num_waiting(self) -> int:
        return len(self.queues)

    def add(self, request: Request) -> None:
        self.shares.arrive(request.tenant)
        self.queues.add(request)

    def remove(self, request: Request) -> None:
        """Forget a request, wherever it is, and free its blocks; those that are kept are freed by `collect`."""
        if not self.queues.remove(request):
            self.running.remove(request)
        if request.keeps_blocks and request.finish_reason == "stop":
            self._kept[request] = None
        else:
            self.cache.free(request.key)
        self.shares.leave(request.tenant)
        self.queues.release_followers(request)

    def collect(self) -> None:
        """Free the blocks of ended requests that no waiting one will share any more."""
        if self._kept:
            leaders = {request.leader for request in self.queues}
            for request in list(self._kept):
                if request not in leaders and (request.contest is None or request not in request.contest.members):
                    del self._kept[request]
                    self.cache.free(request.key)

    def computed(self, request: Request, num_tokens: int) -> None:
        """The first `num_tokens` tokens of a running request are in the cache. Others may now use its full blocks."""
        request.num_computed_tokens = num_tokens
        self.cache.computed(request.key, self._digests(request, num_tokens), num_tokens)
        if request.has_prompt:
            self.queues.release_followers(request)

    def schedule(self) -> StepPlan:
        """Decide the next step. Allocates blocks and moves requests between the queues; tokens are left as they are.

        The plan is empty only when every unfinished request waits for a constraint. Once the step has run, `computed`
        must be called for each scheduled request before the next call.
        """
        step = StepInMaking(self.max_num_batched_tokens, self.max_logit_rows)
        self.queues.move_ready()
        self._make_way(step)
        self._schedule_answers(step)
        self._schedule_prompts(step)
        return StepPlan(tuple(step.scheduled.values()), tuple(step.preempted), tuple(self.cache.take_copies()))

    def _schedule_answers(self, step: StepInMaking) -> None:
        """Requests that lack one token."""
        answers = [r for r in self.running if r.num_missing_tokens == 1]
        for num_after, request in zip(range(len(answers) - 1, -1, -1), answers, strict=True):
            start = request.num_computed_tokens
            if step.budget == 0 or request in step.preempted or not (count := self._count(request, start, step)):
                continue
            spare = min(step.budget - num_after, self.prefill_chunk) - count
            drafts = min(len(request.draft_token_ids), max(0, spare))
            if drafts and self.cache.reserve(request.key, start, start + count + drafts):
                self._take(request, start, count + drafts, step)
            elif self._reserve(request, start, start + count, step):
                self._take(request, start, count, step)

    def _schedule_prompts(self, step: StepInMaking) -> None:
        """Requests that lack more, running and waiting ones."""
        running = deque(sorted((r for r in self.running if r.num_missing_tokens > 1), key=self._rank))
        passed: list[Request] = []
        while step.budget > 0:
            waiting = self._next_waiting(passed, step)
            if running and (waiting is None or self._rank(running[0]) <= self._rank(waiting)):
                request = running.popleft()
                start = request.num_computed_tokens
                count = 0 if request in step.preempted else self._count(request, start, step)
                if count and self._reserve(request, start, start + count, step):
                    self._take(request, start, count, step)
            elif waiting is None:
                return
            elif self._admit(waiting, step):
                for request in passed:
                    request.num_overtakings += 1
            else:
                passed.append(waiting)

    def _next_waiting(self, passed: list[Request], step: StepInMaking) -> Request | None:
        """The waiting request to try after those that did not fit; None when nobody may be admitted any more."""
        if len(self.running) >= self.max_num_seqs or step.out_of_blocks or len(passed) > LOOK_AHEAD:
            return None
        if any(request.num_overtakings >= self.max_num_seqs for request in passed):
            return None
        return self.queues.waiting.best(passed)

    def _make_way(self, step: StepInMaking) -> None:
        """Preempt running requests for the first of the waiting ones, if its priority is higher and that is enough."""
        request = self.queues.waiting.best() if self.running else None
        if request is None or request.priority >= self.running[-1].priority:
            return
        start = self._cached(request)
        end = min(request.num_tokens, start + self.prefill_chunk)
        digests = self._digests(request, start)
        lower = [r for r in self.running if r.priority > request.priority]
        needed = self.cache.blocks_needed(request.num_tokens, self.prefill_chunk)
        if self.cache.could_have(needed, [r.key for r in lower]):
            while lower and not (
                len(self.running) < self.max_num_seqs and self.cache.can_admit(digests, start, end, request.num_tokens)
            ):
                self._preempt(lower.pop(), step)

    def _admit(self, request: Request, step: StepInMaking) -> bool:
        """Let a waiting request run and take its first tokens, if the cache has blocks for all of them."""
        if not self._fork(request, step):
            start = self._cached(request)
            count = self._count(request, start, step)
            digests = self._digests(request, start)
            if not count or not self.cache.admit(request.key, digests, start, start + count, request.num_tokens):
                return bool(count) and self._give_up_kept() and self._admit(request, step)
            self._begin(request, start, count, step)
        return True

    def _fork(self, request: Request, step: StepInMaking) -> bool:
        """Admit an answer with the blocks of its leader's prompt; only the prompt's last token is computed again."""
        leader, start = request.leader, request.num_prompt_tokens - 1
        if leader is None or request.num_preemptions or leader.key not in self.cache or not leader.has_prompt:
            return False
        if not self.cache.fork(leader.key, request.key, start):
            return False
        if not self.cache.reserve(request.key, start, start + 1):
            self.cache.free(request.key)
            return False
        self._begin(request, start, 1, step)
        return True

    def _begin(self, request: Request, start: int, count: int, step: StepInMaking) -> None:
        self.queues.waiting.remove(request)
        insort(self.running, request, key=lambda r: r.priority)
        request.num_computed_tokens = start
        request.leader = None
        if not request.num_preemptions:
            request.num_cached_tokens = start
        self._take(request, start, count, step)

    def _take(self, request: Request, start: int, count: int, step: StepInMaking) -> None:
        tables = self.cache.block_tables(request.key)
        step.scheduled[request] = ScheduledRequest(request, start, count, tables)
        step.budget -= count
        if request.wants_prompt_logits:
            step.logit_rows -= count
        self.shares.charge(request.tenant, count)

    def _reserve(self, request: Request, start: int, end: int, step: StepInMaking) -> bool:
        """Blocks for tokens [start, end), if need be those of a lesser request. False: it keeps what it has and waits.

        When blocks are that scarce, nobody is admitted in this step: a newcomer would take what others wait for.
        """
        while not self.cache.reserve(request.key, start, end):
            if self._give_up_kept():
                continue
            worst = next(r for r in reversed(self.running) if r not in step.scheduled)
            step.out_of_blocks = True
            if worst is request:
                return False
            self._preempt(worst, step)
        return True

    def _give_up_kept(self) -> bool:
        """Free what is kept, because blocks are scarce; False if nothing is."""
        had_some = bool(self._kept)
        for request in self._kept:
            self.cache.free(request.key)
        self._kept.clear()
        return had_some

    def _preempt(self, request: Request, step: StepInMaking) -> None:
        self.running.remove(request)
        self.cache.free(request.key)
        request.num_computed_tokens = 0
        request.num_preemptions += 1
        request.num_overtakings = 0
        request.draft_token_ids = []
        self.queues.waiting.prepend(request)
        step.preempted.append(request)
        self.queues.release_followers(request)

    def _rank(self, request: Request) -> tuple[int, float]:
        return request.priority, self.shares[request.tenant]

    def _count(self, request: Request, start: int, step: StepInMaking) -> int:
        """Tokens from `start` on that the step has room for."""
        count = min(request.num_tokens - start, step.budget, self.prefill_chunk)
        return min(count, step.logit_rows) if request.wants_prompt_logits else count

    def _cached(self, request: Request) -> int:
        """How many of a waiting request's tokens are cached and need no logits. The last one always needs them."""
        limit = min(request.num_tokens - 1, request.first_logit_position)
        return self.cache.match(self._digests(request, limit), limit // self.cache.block_size)

    def _digests(self, request: Request, num_tokens: int) -> Sequence[bytes]:
        """Of its full blocks within its first `num_tokens` tokens, or of more."""
        if not self.cache.prefix_caching:
            return ()
        return request.block_hashes.first(num_tokens // self.cache.block_size, request.token_ids)
