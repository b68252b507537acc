"""A Hypothesis state machine over Scheduler and CacheManager: toy tokens, a toy memory, and a model of both.

`Memory` stands for the KV cache of a program: each slot holds the whole prefix that its key and value were computed
from, so that a stale, lost, misplaced or wrongly shared block is seen at once: by whoever reads it, and by `books`,
which compares every block that can be found with what its digest promises.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pellucid.cache.manager import DROPPED, CacheManager
from pellucid.cache.prefix import BlockHashes
from pellucid.engine.plan import ScheduledRequest, StepPlan
from pellucid.engine.request import Request
from pellucid.engine.scheduler import Scheduler
from pellucid.executors.base import KVGroup
from pellucid.sampling import SamplingParams

BLOCK_SIZE = 4
MAX_LENGTH = 40
Prefix = tuple[Any, ...]
"""(salt, token 0, … token p): what the key and value at position p depend on, and whom they may be shown to."""


class Memory:
    """Slots of each group; what is written stays until it is overwritten, as in a real cache."""

    def __init__(self, groups: Sequence[KVGroup]) -> None:
        self.slots: list[list[Prefix | None]] = [[None] * (group.num_blocks * BLOCK_SIZE) for group in groups]

    def block(self, group: int, block: int) -> list[Prefix | None]:
        return self.slots[group][block * BLOCK_SIZE : (block + 1) * BLOCK_SIZE]

    def copy(self, group: int, source: int, destination: int) -> None:
        first = destination * BLOCK_SIZE
        self.slots[group][first : first + BLOCK_SIZE] = self.block(group, source)


def explore(max_examples: int, *, shrink: bool = True) -> Counter[str]:
    """Run so many examples, always the same ones, of up to 50 events each. How often the interesting things happened.

    Raises what a check raised, with the shortest way to it that Hypothesis found unless it is not to `shrink` it.
    """
    seen: Counter[str] = Counter()

    class Watched(SchedulerMachine):
        counts = seen

    wide = settings(
        max_examples=max_examples,
        stateful_step_count=50,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Watched, settings=wide)
    return seen


class SchedulerMachine(RuleBasedStateMachine):
    """Arrivals, steps, cancels, late constraints and drafts in any order; all end at the end."""

    counts: Counter[str]

    @initialize(
        windows=st.sampled_from([(0,), (0,), (0, 6), (6,), (5, 13)]),
        num_blocks=st.integers(3, 14),
        max_num_seqs=st.integers(1, 5),
        budget=st.integers(1, 24),
        prefill_chunk=st.none() | st.integers(1, 10),
        max_logit_rows=st.none() | st.integers(1, 6),
        prefix_caching=st.sampled_from([True, True, True, False]),
    )
    def start(
        self,
        windows: tuple[int, ...],
        num_blocks: int,
        max_num_seqs: int,
        budget: int,
        prefill_chunk: int | None,
        max_logit_rows: int | None,
        prefix_caching: bool,
    ) -> None:
        groups = [KVGroup(window, num_blocks) for window in windows]
        self.cache = CacheManager(groups, block_size=BLOCK_SIZE, enable_prefix_caching=prefix_caching)
        self.scheduler = Scheduler(
            self.cache,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=budget,
            prefill_chunk=prefill_chunk,
            max_logit_rows=max_logit_rows,
        )
        self.memory = Memory(groups)
        self.promised: dict[bytes, list[Prefix | None]] = {}  # by digest: what a block with it holds
        self.salts: dict[Request, str] = {}
        self.unfinished: list[Request] = []
        self.num_arrived = 0
        capacity = self.cache.capacity(self.scheduler.prefill_chunk)
        self.max_length = MAX_LENGTH if capacity is None else min(MAX_LENGTH, capacity)

    # What may happen

    @rule(
        family=st.integers(1, 2),
        length=st.integers(1, 30),
        odd=st.integers(0, 2),
        answer=st.integers(1, 12),
        n=st.sampled_from([1, 1, 1, 2, 3]),
        salt=st.sampled_from(["", "", "s"]),
        priority=st.sampled_from([0, 0, 0, -1, 1]),
        tenant=st.sampled_from(["a", "b"]),
        prompt_logprobs=st.sampled_from([None, None, None, 0]),
        late=st.sampled_from([False, False, False, True]),
    )
    def arrive(
        self,
        family: int,
        length: int,
        odd: int,
        answer: int,
        n: int,
        salt: str,
        priority: int,
        tenant: str,
        prompt_logprobs: int | None,
        late: bool,
    ) -> None:
        prompt = ([family] * length + [odd] * odd)[: self.max_length - 1]
        grammar: Future[Any] | None = Future() if late else None
        requests: list[Request] = []
        for index in range(n):
            request = Request(
                f"r{self.num_arrived}",
                index,
                prompt.copy(),
                len(prompt),
                SamplingParams(prompt_logprobs=None if index else prompt_logprobs),
                min(len(prompt) + answer, self.max_length),
                sampler=None,  # type: ignore[arg-type]
                text=None,  # type: ignore[arg-type]
                priority=priority,
                tenant=tenant,
                block_hashes=BlockHashes(salt=salt, block_size=BLOCK_SIZE),
                leader=requests[0] if requests else None,
                grammar=grammar,
            )
            requests.append(request)
            self.salts[request] = salt
            self.unfinished.append(request)
            self.scheduler.add(request)
        self.num_arrived += 1

    @precondition(lambda self: self.unfinished)
    @rule(which=st.integers(0, 99))
    def cancel(self, which: int) -> None:
        self._finish(self.unfinished[which % len(self.unfinished)], "abort")

    @precondition(lambda self: self.scheduler.queues.unready)
    @rule(which=st.integers(0, 99))
    def get_the_constraint(self, which: int) -> None:
        """All answers to one prompt get theirs together."""
        unready = self.scheduler.queues.unready
        for request in unready:
            if request.id == unready[which % len(unready)].id:
                request.grammar = None

    @precondition(lambda self: self.scheduler.running)
    @rule(which=st.integers(0, 99), count=st.integers(1, 6), wrong_at=st.none() | st.integers(0, 5))
    def draft(self, which: int, count: int, wrong_at: int | None) -> None:
        """Guesses, right up to `wrong_at`, as the engine asks for them: when a request has caught up but for one."""
        request = self.scheduler.running[which % len(self.scheduler.running)]
        if request.num_missing_tokens != 1 or request.num_output_tokens == 0:
            return
        drafts: list[int] = []
        for i in range(min(count, request.max_num_tokens - request.num_tokens - 1)):
            drafts.append(_next_token(request, len(drafts)) + (i == wrong_at))
        request.draft_token_ids = drafts

    @rule(times=st.integers(1, 4))
    def step(self, times: int) -> None:
        for _ in range(times):
            plan = self.scheduler.schedule()
            self._check_plan(plan)
            self._count(plan)
            self._compute(plan)
            for entry in plan.scheduled:
                self._advance(entry)

    # What a program and an engine do

    def _compute(self, plan: StepPlan) -> None:
        for copy in plan.copies:
            self.memory.copy(*copy)
        written: set[tuple[int, int]] = set()
        for entry in plan.scheduled:
            for position, prefix in self._prefixes(entry):
                for group, pool in enumerate(self.cache.pools):
                    block = entry.block_tables[group][position // BLOCK_SIZE]
                    assert pool.references(block) == 1, f"{entry.request.key} writes into a shared block"
                    slot = block * BLOCK_SIZE + position % BLOCK_SIZE
                    assert (group, slot) not in written, "two tokens are sent to one slot"
                    written.add((group, slot))
                    self.memory.slots[group][slot] = prefix
        for entry in plan.scheduled:
            for position, prefix in self._prefixes(entry):
                for group, window in enumerate(self.cache.windows):
                    first = max(0, position - window + 1) if window else 0
                    for p in range(first, position + 1):
                        block = entry.block_tables[group][p // BLOCK_SIZE]
                        found = None if block == DROPPED else self.memory.block(group, block)[p % BLOCK_SIZE]
                        assert found == prefix[: p + 2], f"{entry.request.key} reads {found} at {p}, not its own"

    def _advance(self, entry: ScheduledRequest) -> None:
        request, end = entry.request, entry.start + entry.count
        if request.wants_prompt_logits:
            rows = range(max(entry.start, request.first_logit_position), min(end, request.num_prompt_tokens - 1))
            assert not rows or rows.start == len(request.prompt_logprobs) - 1, "prompt logits were passed over"
            request.prompt_logprobs += [None] * len(rows)
        if end < request.num_tokens:
            self.scheduler.computed(request, end)
            self._promise(request)
            return
        drafts, request.draft_token_ids = request.draft_token_ids[: end - request.num_tokens], []
        for guess in [*drafts, None]:
            token = _next_token(request)
            request.token_ids.append(token)
            self.scheduler.computed(request, request.num_tokens - 1)
            self._promise(request)
            if request.num_tokens >= request.max_num_tokens:
                assert request.prompt_logprobs[1:] == [] or len(request.prompt_logprobs) == request.num_prompt_tokens
                self._finish(request, "length")
                return
            if token != guess:
                return

    def _finish(self, request: Request, reason: Any) -> None:
        self.counts[reason] += 1
        self.scheduler.remove(request)
        request.finish_reason = reason
        self.unfinished.remove(request)
        del self.salts[request]

    def _prefixes(self, entry: ScheduledRequest) -> Iterator[tuple[int, Prefix]]:
        """Each position that a step computes, with all it depends on."""
        tokens = entry.request.token_ids + entry.request.draft_token_ids
        for position in range(entry.start, entry.start + entry.count):
            yield position, (self.salts[entry.request], *tokens[: position + 1])

    def _promise(self, request: Request) -> None:
        """Note what the digests of a request's full blocks stand for."""
        digests = request.block_hashes.first(request.num_tokens // BLOCK_SIZE, request.token_ids)
        salt, tokens = self.salts[request], request.token_ids
        for i in range(request.num_tokens // BLOCK_SIZE):
            contents = [(salt, *tokens[: p + 1]) for p in range(i * BLOCK_SIZE, (i + 1) * BLOCK_SIZE)]
            assert self.promised.setdefault(digests[i], contents) == contents, "one digest for two prefixes"

    def _count(self, plan: StepPlan) -> None:
        self.counts["steps"] += 1
        self.counts["preemptions"] += len(plan.preempted)
        self.counts["copies"] += len(plan.copies)
        for entry in plan.scheduled:
            request = entry.request
            self.counts["drafts"] += max(0, entry.start + entry.count - request.num_tokens)
            self.counts["cached tokens"] += request.num_cached_tokens if entry.start == request.num_cached_tokens else 0
            self.counts["resumed from the cache"] += bool(request.num_preemptions and entry.start and entry.count > 1)
            self.counts["behind a window"] += any(DROPPED in table for table in entry.block_tables)

    # What must hold

    def _check_plan(self, plan: StepPlan) -> None:
        s = self.scheduler
        assert plan.scheduled or all(not r.is_ready for r in self.unfinished), "nobody gets on"
        assert len({e.request for e in plan.scheduled}) == len(plan.scheduled)
        assert plan.num_tokens <= s.max_num_batched_tokens
        assert sum(e.count for e in plan.scheduled if e.request.wants_prompt_logits) <= s.max_logit_rows
        for entry in plan.scheduled:
            request = entry.request
            assert request in s.running
            assert request.is_ready
            assert entry.start == request.num_computed_tokens
            assert 1 <= entry.count <= s.prefill_chunk
            assert entry.count <= request.num_missing_tokens + len(request.draft_token_ids)

    @invariant()
    def books(self) -> None:
        """Free + used + cached = total, nothing is held for nobody, and what can be found is what it is said to be."""
        self.cache.check(idle=not self.unfinished)
        for group, pool in enumerate(self.cache.pools):
            assert pool.num_free + pool.num_used + pool.num_cached == pool.num_blocks
            for digest, block in pool._published.items():
                assert self.memory.block(group, block) == self.promised[digest], f"block {block} holds something else"
        held = {r.key for r in self.unfinished if r.key in self.cache}
        assert held == {r.key for r in self.scheduler.running}
        assert held == set(self.cache._sequences)
        for request in self.scheduler.running:
            for window, table in zip(self.cache.windows, self.cache.block_tables(request.key), strict=True):
                behind = max(0, request.num_computed_tokens - window + 1) // BLOCK_SIZE if window else 0
                assert table.count(DROPPED) == behind, f"{request.key} keeps blocks behind its window, or lacks some"

    @invariant()
    def queues(self) -> None:
        """Every unfinished request is in one place; nobody was passed over for ever."""
        s = self.scheduler
        assert sorted(r.key for r in s) == sorted(r.key for r in self.unfinished)
        assert s.num_waiting == len(self.unfinished) - len(s.running)
        assert len(s.running) <= s.max_num_seqs
        assert [r.priority for r in s.running] == sorted(r.priority for r in s.running)
        for request in self.unfinished:
            assert 0 <= request.num_computed_tokens < request.num_tokens
            assert request in s.running or request.num_computed_tokens == 0
            assert request.num_overtakings <= s.max_num_seqs

    @invariant()
    def matches(self) -> None:
        """What the cache finds of a waiting request is the longest beginning that all its groups still have."""
        for request in self.scheduler.queues.waiting:
            most = (request.num_tokens - 1) // BLOCK_SIZE
            digests = request.block_hashes.first(most, request.token_ids)
            assert self.cache.match(digests, most) == self._longest_match(digests, most)

    def _longest_match(self, digests: Sequence[bytes], most: int) -> int:
        for length in range(most if self.cache.prefix_caching else 0, 0, -1):
            if all(
                pool.find(digests[i]) is not None
                for pool, window in zip(self.cache.pools, self.cache.windows, strict=True)
                for i in range(max(0, length * BLOCK_SIZE - window + 1) // BLOCK_SIZE if window else 0, length)
            ):
                return length * BLOCK_SIZE
        return 0

    def teardown(self) -> None:
        """Nobody starves: without new arrivals all come to their end."""
        if not hasattr(self, "cache"):
            return
        for request in self.unfinished:
            request.grammar = None
        limit = 10 * sum(request.max_num_tokens for request in self.unfinished) + 10
        for _ in range(limit):
            if not self.unfinished:
                break
            self.step(1)
            self.books()
        assert not self.unfinished, f"{[r.key for r in self.unfinished]} do not end within {limit} steps"
        self.books()


def _next_token(request: Request, ahead: int = 0) -> int:
    """What the toy model says after the request's tokens and `ahead` more; answers to one prompt part after two."""
    place = request.num_output_tokens + ahead
    return 1 + (request.index + place // 3) % 2 if place > 1 else 1
