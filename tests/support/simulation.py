"""A seeded, deterministic simulation of the engine: a virtual clock, a scripted model, arrivals, cancels and faults.

Everything that happens follows from the seed, so that a failure is repeated by its seed alone. After each event all the
books are checked; in the end every request has ended, and each that nothing went wrong for has the very answer that the
model gives cold (cold_answer.py).
"""

from __future__ import annotations

import heapq
import logging
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any
from unittest.mock import patch

import numpy as np
from support.cold_answer import (
    ColdAnswer,
    ScriptedConstraint,
    cold_answer,
    read_cold,
    result_of,
    scripted,
    scripted_hidden,
)
from support.fake_model import VOCAB_SIZE, ByteTokenizer, FakeProgram
from support.scenario import Arrival, Scenario, draw_scenario

from pellucid.cache.manager import CacheManager
from pellucid.config import EngineConfig
from pellucid.engine import engine as engine_module
from pellucid.engine import intake
from pellucid.engine.engine import Engine
from pellucid.engine.plan import StepPlan
from pellucid.engine.readout import Pooler, TokenLogprobs
from pellucid.engine.request import Request
from pellucid.engine.scheduler import Scheduler
from pellucid.errors import ContextLengthExceeded, InvalidParameter
from pellucid.executors.base import BLOCK_SIZE, Batch, BlockCopy, StepResult

MOST_STEPS = 5_000


class SimulationFailed(Exception):
    """`__cause__` says what was wrong; the message says how to see it again, and what happened last."""


class Interrupted(BaseException):
    """Ctrl-C, as far as the engine can tell."""


@dataclass
class Outcome:
    """What happened, one line an event, and how often the interesting things did."""

    trace: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


def simulate(seed: int) -> Outcome:
    """Raises SimulationFailed."""
    world = World(draw_scenario(random.Random(seed)))
    try:
        return world.run()
    except Exception as error:
        last = "\n".join(world.outcome.trace[-12:])
        raise SimulationFailed(
            f"seed {seed}: {error or type(error).__name__}\n{world.scenario.settings}\n… {last}\n"
            f"again: python benchmarks/proof.py simulation --seed {seed}"
        ) from error


def simulate_all(seeds: Iterable[int]) -> Counter[str]:
    """How often the interesting things happened in all of them. Raises SimulationFailed."""
    counts: Counter[str] = Counter()
    for seed in seeds:
        counts += simulate(seed).counts
    return counts


class World:
    """One run of one scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.outcome = Outcome()
        self.now = 0.0
        self.num_steps = 0
        self.faults = dict(scenario.faults)
        self.fault: str | None = None  # the one that strikes as soon as it can
        self.plan = StepPlan(())
        self.program = _Program(self)
        self.rng = random.Random(scenario.seed)  # for what is decided while it runs
        self.sight = 0 if 0 in scenario.windows else max(scenario.windows)
        self.promised: dict[bytes, bytes] = {}  # by digest: the tokens of a block that has it
        self.arrivals: dict[Request, Arrival] = {}
        self.may_fail: set[Request] = set()
        self.cancelled: set[Request] = set()
        self.cold_answers: dict[Request, ColdAnswer] = {}
        self._order = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []

    def run(self) -> Outcome:
        world = self

        class RecordingScheduler(Scheduler):
            def schedule(self) -> StepPlan:
                world.interrupt("before scheduling")
                world.plan = super().schedule()
                world.interrupt("after scheduling")
                return world.plan

        class RefusingCache(CacheManager):
            def admit(self, *args: Any, **kwargs: Any) -> bool:
                return not world.refuses() and super().admit(*args, **kwargs)

            def reserve(self, *args: Any, **kwargs: Any) -> bool:
                return not world.refuses() and super().reserve(*args, **kwargs)

        silent = logging.Logger("simulation", logging.CRITICAL + 1)
        seams = {"CacheManager": RefusingCache, "Scheduler": RecordingScheduler, "logger": silent}
        with ExitStack() as stack:
            for name, value in seams.items():
                stack.enter_context(patch.object(engine_module, name, value))
            for module in (engine_module, intake):
                stack.enter_context(patch.object(module, "perf_counter", lambda: self.now))
            self.engine = self._make_engine()
            for arrival in self.scenario.arrivals:
                self.at(arrival.at, lambda arrival=arrival: self.arrive(arrival))
            while self._events or self.engine.has_unfinished:
                while self._events and self._events[0][0] <= self.now:
                    heapq.heappop(self._events)[2]()
                    self.check()
                if self._can_go_on():
                    self.step()
                    self.check()
                elif self._events:
                    self.now = self._events[0][0]
            for request in self.arrivals:
                self.compare(request)
        return self.outcome

    def at(self, time: float, happens: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._events, (time, self._order, happens))

    def note(self, what: str) -> None:
        self.outcome.trace.append(f"{self.now:.3f} {what}")

    # Events

    def arrive(self, arrival: Arrival) -> None:
        engine, params = self.engine, arrival.params
        asked = len(arrival.prompt) + (0 if arrival.readout else params.max_tokens or 1)
        try:
            if arrival.readout is not None:
                requests = [engine.add_readout(arrival.prompt, _readout(arrival))]
            else:
                requests = engine.add_request(
                    arrival.prompt,
                    params,
                    priority=arrival.priority,
                    tenant=arrival.tenant,
                    cache_salt=arrival.salt,
                )
        except ContextLengthExceeded:
            assert asked > engine.max_num_tokens, "it would have fitted"
            self.outcome.counts["refused at the door"] += 1
            return
        assert asked <= engine.max_num_tokens, "it cannot fit"
        self.note(f"{requests[0].id} arrives: {len(arrival.prompt)} tokens, n = {params.n}, {arrival.kind}")
        for request in requests:
            self.arrivals[request] = arrival
        if arrival.grammar is not None:
            self._give_grammar(requests, arrival)
        victim = requests[arrival.breaks_at % len(requests)]
        if arrival.breaks == "sampler":
            self._break(victim, victim.sampler, "accept", arrival.breaks_at)
        elif arrival.breaks == "text":
            self._break(victim, victim.text, "add", arrival.breaks_at)
        if arrival.cancel_after is not None:
            of = requests if arrival.breaks_at % 2 else requests[:1]
            self.at(self.now + arrival.cancel_after, lambda: self.cancel(of))

    def cancel(self, requests: list[Request]) -> None:
        self.note(f"{requests[0].id} is cancelled")
        self.cancelled.update(r for r in requests if r.finish_reason is None)
        self.engine.abort(requests)

    def step(self) -> None:
        self.num_steps += 1
        assert self.num_steps < MOST_STEPS, "it does not come to an end"
        self.fault = self.fault or self.faults.pop(self.num_steps, None)
        self.plan = StepPlan(())
        try:
            with self._interrupting():
                self.engine.step()
        except Interrupted:
            self.note("interrupted")
        plan, counts = self.plan, self.outcome.counts
        work = ", ".join(f"{e.request.id}/{e.request.index}[{e.start}:+{e.count}]" for e in plan.scheduled)
        self.note(f"step {self.num_steps}: {work}")
        for entry in plan.scheduled:
            self._promise(entry.request)
            counts["resumed from the cache"] += bool(entry.request.num_preemptions and entry.start and entry.count > 1)
        counts["steps"] += 1
        counts["copies"] += len(plan.copies)
        counts["preemptions"] += len(plan.preempted)
        self.now += 1.0 + plan.num_tokens / 16  # milliseconds, say

    # Faults

    def strikes(self, fault: str) -> bool:
        """Whether this is what goes wrong now; it does so once."""
        if self.fault != fault:
            return False
        self.fault = None
        self.outcome.counts[fault] += 1
        return True

    def interrupt(self, where: str) -> None:
        if self.strikes(f"interrupt {where}"):
            raise Interrupted

    @contextmanager
    def _interrupting(self) -> Iterator[None]:
        """If that is the fault, Ctrl-C at a line of engine or cache: only who was being given a token may fail."""
        if self.fault != "interrupt at some line":
            yield
            return
        left = self.rng.randint(1, 500)

        def trace(frame: FrameType, event: str, _: object) -> Any:
            nonlocal left
            code = frame.f_code
            if "/pellucid/engine/" not in code.co_filename and "/pellucid/cache/" not in code.co_filename:
                return None
            left -= event == "line" and code is not Engine.step.__code__
            if left == 0:
                left = -1
                self.strikes("interrupt at some line")
                self.note(f"Ctrl-C at {code.co_qualname}, line {frame.f_lineno}")
                self.may_fail.update({self.engine._advancing} - {None})  # type: ignore[arg-type]
                raise Interrupted
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            yield
        finally:
            sys.settrace(before)

    def refuses(self) -> bool:
        """Once in a step, blocks are refused that are there, to a request that is not the only one running."""
        return len(self.engine.scheduler.running) > 1 and self.strikes("refusal")

    def propose(self, request: Request) -> list[int]:
        """The drafter: the tokens that will come, others, or rubbish."""
        mode = self.scenario.drafter
        if mode == "broken" and self.rng.random() < 0.05:
            self.may_fail.add(request)
            if self.rng.random() < 0.5:
                raise RuntimeError("the drafter is broken")
            return [VOCAB_SIZE + 5]
        told = self.cold(request).tokens[request.num_output_tokens :][: self.rng.randint(0, 6)]
        if mode in ("lying", "broken"):
            told = [t if self.rng.random() < 0.6 else (t + 1) % VOCAB_SIZE for t in told]
        self.outcome.counts["drafts"] += len(told)
        return told

    def _break(self, request: Request, owner: Any, name: str, after: int) -> None:
        """Let a method of what belongs to one request raise when it has been called so often."""
        real, left = getattr(owner, name), after

        def broken(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise RuntimeError(f"{name} is broken")
            return real(*args, **kwargs)

        self.may_fail.add(request)
        setattr(owner, name, broken)

    def _give_grammar(self, requests: list[Request], arrival: Arrival) -> None:
        """What was submitted for these requests is compiled after a while, or turns out to be wrong."""
        future = self.grammars.pop()
        if arrival.grammar != "good":
            self.may_fail.update(requests)

        def compiled() -> None:
            broken_at = arrival.breaks_at if arrival.grammar == "broken" else None
            if arrival.grammar == "wrong":
                future.set_exception(InvalidParameter("regex", "it is wrong"))
            else:
                future.set_result(lambda: ScriptedConstraint(arrival.constraint_length, broken_at))

        if arrival.grammar_takes:
            self.at(self.now + arrival.grammar_takes, compiled)
        else:
            compiled()

    # What must hold

    def check(self) -> None:
        """Free + used + cached = total; nothing held for nobody; what can be found is what its digest says."""
        cache, scheduler = self.engine.cache, self.engine.scheduler
        unfinished = [r for r in self.arrivals if r.finish_reason is None]
        cache.check(idle=not unfinished)
        assert set(cache._sequences) == {r.key for r in scheduler.running}, "blocks are held by others than the running"
        assert sorted(r.key for r in scheduler) == sorted(r.key for r in unfinished), "a request is lost, or two"
        assert len(scheduler.running) <= self.scenario.settings["max_num_seqs"]
        for slots, pool in zip(self.program._cache, cache.pools, strict=True):
            assert pool.num_free + pool.num_used + pool.num_cached == pool.num_blocks
            for digest, block in pool._published.items():
                found = slots[block * BLOCK_SIZE : (block + 1) * BLOCK_SIZE].tobytes()
                assert found == self.promised[digest], f"block {block} does not hold what its digest says"

    def compare(self, request: Request) -> None:
        """Every request has ended, for a reason, with its cold answer or a beginning of it."""
        arrival, reason, counts = self.arrivals[request], request.finish_reason, self.outcome.counts
        assert reason is not None, f"{request.key} has not ended"
        assert (reason == "abort") == (request in self.cancelled), f"{request.key}: {reason}"
        assert reason != "error" or request in self.may_fail, f"{request.key} failed over others: {request.error}"
        counts[reason] += 1
        counts["tokens"] += request.num_output_tokens
        counts["cached"] += request.num_cached_tokens
        times = request.times
        if times.first_token:
            assert times.arrived <= times.scheduled <= times.first_token <= times.finished
        if request.readout is not None:
            if reason == "stop":
                assert result_of(request.readout) == read_cold(arrival.prompt, _readout(arrival), self.sight)  # type: ignore[arg-type]
            return
        cold = self.cold(request)
        whole = reason in ("stop", "length")
        count = request.num_output_tokens
        assert request.token_ids == arrival.prompt + cold.tokens[:count], f"{request.key}: other tokens than cold"
        assert _same(request.logprobs, cold.logprobs[: len(request.logprobs)]), f"{request.key}: other logprobs"
        prompt_logprobs = request.prompt_logprobs[1:]
        assert _same(prompt_logprobs, cold.prompt_logprobs[: len(prompt_logprobs)]), f"{request.key}: prompt logprobs"
        if whole:
            found = (reason, count, len(request.logprobs), len(prompt_logprobs))
            expected = (cold.finish_reason, len(cold.tokens), len(cold.logprobs), len(cold.prompt_logprobs))
            assert found == expected, f"{request.key} ended with {found}, cold with {expected}"

    def cold(self, request: Request) -> ColdAnswer:
        if request not in self.cold_answers:
            arrival = self.arrivals[request]
            self.cold_answers[request] = cold_answer(
                arrival.prompt,
                arrival.params,
                request.index,
                max_num_tokens=self.engine.max_num_tokens,
                sight=self.sight,
                constraint_length=arrival.constraint_length if arrival.grammar else 0,
            )
        return self.cold_answers[request]

    def _promise(self, request: Request) -> None:
        tokens = np.array(request.token_ids)
        for i, digest in enumerate(request.block_hashes.first(0, request.token_ids)):
            if digest not in self.promised:
                self.promised[digest] = tokens[i * BLOCK_SIZE : (i + 1) * BLOCK_SIZE].tobytes()

    def _can_go_on(self) -> bool:
        """Not when everybody waits for a grammar: the engine would wait, too."""
        return any(r.grammar is None or r.grammar.done() for r in self.engine.scheduler)

    def _make_engine(self) -> Engine:
        world = self

        class Drafter:
            def propose(self, request: Request) -> list[int]:
                return world.propose(request)

        class Grammars:
            def submit(self, spec: object) -> Future[Any]:
                world.grammars.append(Future())
                return world.grammars[-1]

        @contextmanager
        def preparing(requests: Iterable[Request]) -> Iterator[None]:
            """Masks are computed in this thread, some of them: the sampler computes the others itself."""
            for request in requests:
                if request.sampler.constraint is not None and world.rng.random() < 0.5:
                    with suppress(RuntimeError):
                        request.sampler.prepare()
            yield

        settings = dict(self.scenario.settings)
        engine = Engine(
            self.program,
            ByteTokenizer(),  # type: ignore[arg-type]
            EngineConfig(model="scripted", **settings),
            vocab_size=VOCAB_SIZE,
            max_model_len=self.scenario.max_model_len,
            drafter=Drafter() if self.scenario.drafter else None,
        )
        self.grammars: list[Future[Any]] = []
        engine._intake._grammars = Grammars()  # type: ignore[assignment]
        engine._masks.preparing = preparing  # type: ignore[method-assign]
        return engine


class _Program(FakeProgram):
    """The scripted model, with the faults of the step."""

    def __init__(self, world: World) -> None:
        scenario = world.scenario
        super().__init__(scripted, hidden=scripted_hidden, num_blocks=scenario.num_blocks, windows=scenario.windows)
        self._world = world

    def copy_blocks(self, copies: list[BlockCopy]) -> None:  # type: ignore[override]
        if copies and self._world.strikes("failing copy"):
            self._all_fail()
            raise MemoryError
        super().copy_blocks(copies)

    def run(self, batch: Batch) -> StepResult:
        world = self._world
        world.interrupt("before the model")
        if world.strikes("failing step"):
            self.fail_next = True
            self._all_fail()
        result = super().run(batch)
        self.batches.clear()
        self.copies.clear()
        world.interrupt("after the model")
        if len(result.logits) and world.strikes("nan"):
            row = world.rng.randrange(len(result.logits))
            result.logits[row, world.rng.randrange(VOCAB_SIZE)] = np.nan
            place = int(batch.logit_rows[row])
            sequence = int(np.searchsorted(batch.query_start, place, side="right")) - 1
            world.may_fail.add(world.plan.scheduled[sequence].request)
        if world.strikes("wrong width"):
            self._all_fail()
            return StepResult(result.logits[:, 1:], result.taps)
        return result

    def _all_fail(self) -> None:
        self._world.may_fail.update(e.request for e in self._world.plan.scheduled)


def _readout(arrival: Arrival) -> Pooler | TokenLogprobs:
    length = len(arrival.prompt)
    if arrival.readout == "logprobs":
        first = length // 2
        return TokenLogprobs(first, [[1, 2, 3]] * (length - first))
    return Pooler(arrival.readout, length)  # type: ignore[arg-type]


def _same(found: list[Any], expected: list[Any]) -> bool:
    """Whether positions {token: Logprob} have the very bits and ranks of lists of RankedToken."""
    plain = [{r.token_id: (r.logprob, r.rank) for r in position} for position in expected]
    return [{token: (entry.logprob, entry.rank) for token, entry in p.items()} for p in found] == plain
