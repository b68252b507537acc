"""Engine: requests in, tokens out. One `step` takes every running request some tokens further.

A step is schedule → build_batch → Program.run → sample, and then a request that caught up gets its token, its text and
its stop checks. Whatever fails for one request ends that request; only a failed Program.run ends those of its batch.

What may not enter here: what can be asked for (intake.py), arrays (step.py), the choice of tokens (rounds.py,
sampler.py), who runs when (scheduler.py), text rules (token_text.py, answer.py), loading and results (llm.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from time import perf_counter

import numpy as np
import numpy.typing as npt

from pellucid.cache.manager import CacheManager
from pellucid.config import EngineConfig
from pellucid.engine.contest import Contests
from pellucid.engine.drafter import Drafter
from pellucid.engine.intake import Intake
from pellucid.engine.masks import MaskThread
from pellucid.engine.plan import StepPlan
from pellucid.engine.readout import Readout, Rows
from pellucid.engine.request import FinishReason, Request
from pellucid.engine.rounds import Turn, choose_tokens
from pellucid.engine.sampler import Sampled, ranked_logprobs
from pellucid.engine.scheduler import Scheduler
from pellucid.engine.stats import Counts, EngineStats
from pellucid.engine.step import build_batch
from pellucid.engine.token_text import add_text, position_logprobs
from pellucid.errors import ExecutorError, InvalidParameter, PellucidError
from pellucid.executors.base import Program
from pellucid.fields import integer
from pellucid.graph.passes.hidden import HIDDEN
from pellucid.sampling import SamplingParams
from pellucid.structured.compiler import NewMatcher
from pellucid.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

COMPILE_WAIT = 0.01
"""Seconds that a step waits for a grammar when there is nothing else to do."""

LOGIT_FLOATS = 1 << 24
"""Most logits (rows · V) that prompts with log-probabilities may ask for in one step: 64 MiB."""


Logits = npt.NDArray[np.float32]


class Engine:
    """Runs many requests on one Program. Not thread-safe: one call at a time (`LLM` holds a lock)."""

    def __init__(
        self,
        program: Program,
        tokenizer: Tokenizer,
        config: EngineConfig,
        *,
        vocab_size: int,
        max_model_len: int,
        drafter: Drafter | None = None,
    ) -> None:
        """`vocab_size` is the logits' width. A sequence ends with `max_model_len` tokens, or where the cache does."""
        self.program = program
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.max_model_len = max_model_len
        self.config = config
        self._drafter = drafter
        self._masks = MaskThread()
        self._counts = Counts()
        self._unfinished: dict[Request, None] = {}
        self._contests = Contests()
        self._advancing: Request | None = None
        self.on_begin: Callable[[Request], None] | None = None
        """Called before the first step of each request."""
        self.cache = CacheManager(program.info.kv_groups, enable_prefix_caching=config.enable_prefix_caching)
        self._start_books()
        capacity = self.cache.capacity(self.scheduler.prefill_chunk)
        self.max_num_tokens = max_model_len if capacity is None else min(max_model_len, capacity)
        self._intake = Intake(
            tokenizer,
            vocab_size=vocab_size,
            max_model_len=max_model_len,
            max_num_tokens=self.max_num_tokens,
            seed=config.seed,
        )

    def _start_books(self) -> None:
        """An empty cache and every unfinished request waiting: at the start, and when a step was broken off midway."""
        self.cache.clear()
        self.scheduler = Scheduler(
            self.cache,
            max_num_seqs=self.config.max_num_seqs,
            max_num_batched_tokens=self.config.max_num_batched_tokens,
            prefill_chunk=self.config.prefill_chunk,
            max_logit_rows=max(1, LOGIT_FLOATS // self.vocab_size),
        )
        for request in self._unfinished:
            request.num_computed_tokens = 0
            request.draft_token_ids = []
            self.scheduler.add(request)

    @property
    def has_unfinished(self) -> bool:
        return bool(self._unfinished)

    def add_request(
        self,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        *,
        priority: int = 0,
        tenant: str = "",
        cache_salt: str = "",
    ) -> list[Request]:
        """Queue one prompt; a Request for each of `params.n`. They fill up as `step` is called.

        `priority`: smaller numbers are served earlier. `tenant`: whose request it is; tenants get equal shares.
        `cache_salt`: cached blocks are shared only between requests of the same salt.

        Raises InvalidParameter for an empty prompt or a token id that the model does not have, ContextLengthExceeded,
        and what `compile` raises if it has been called. Nothing is queued then. A grammar that is not compiled yet
        holds up its own requests only; if it turns out to be wrong, they end with that error.
        """
        requests = self._intake.requests(
            prompt_token_ids, params, priority=priority, tenant=tenant, cache_salt=cache_salt
        )
        contest = requests[0].contest
        if contest is not None:
            self._contests.add(contest)
        for request in requests if contest is None else contest.members:
            self._queue(request)
        self._counts.prompt_tokens += requests[0].num_prompt_tokens
        return requests

    def add_readout(self, prompt_token_ids: Sequence[int], readout: Readout) -> Request:
        """Queue a prompt of which `readout` takes what it wants; it ends with "stop" when that has everything.

        The prompt may be as long as the context, since no token follows. Raises what `add_request` raises for it.
        """
        request = self._intake.reading(prompt_token_ids, readout)
        self._queue(request)
        self._counts.prompt_tokens += request.num_prompt_tokens
        return request

    def grammar(self, params: SamplingParams) -> Future[NewMatcher] | None:
        """Begin what `compile` waits for. The future is shared: it must not be cancelled."""
        return self._intake.grammar(params)

    def compile(self, params: SamplingParams) -> None:
        """Wait until the grammar of `params`, if it has one, is compiled and kept for `add_request`.

        Any thread may call this. Raises InvalidRequest and ResourceError.
        """
        self._intake.compile(params)

    def validate(self, prompt_token_ids: Sequence[int], params: SamplingParams | None = None) -> list[int]:
        """The prompt as plain ints. Raises what `add_request` would raise for it; without `params`, `add_readout`."""
        return self._intake.validate(prompt_token_ids, params)

    def _queue(self, request: Request) -> None:
        self._unfinished[request] = None
        self.scheduler.add(request)

    def abort(self, requests: Iterable[Request]) -> None:
        """End those of `requests` that are not finished; their blocks are free when this returns."""
        for request in requests:
            contest = request.contest
            for ending in [request] if contest is None else self._contests.leave(request, contest):
                if ending.finish_reason is None:
                    self._finish(ending, "abort")
        self.scheduler.collect()

    def stats(self) -> EngineStats:
        return self._counts.stats(self.scheduler, self.cache.stats())

    def step(self) -> list[Request]:
        """Run one step. The requests that got a token or ended; empty when there is nothing to do.

        Where every request waits for its grammar, this waits a moment for one of them.
        """
        try:
            changed, upcoming = self._contests.settle(self._step())
            for request in upcoming:
                self._queue(request)
            self.scheduler.collect()
            if not self.has_unfinished:
                self.cache.check_empty()
            return changed
        except BaseException:  # Ctrl-C, anywhere: the books may be half written
            self._recover()
            raise

    def _recover(self) -> None:
        """Start the books anew. A request that was just being given a token may have half of it, and ends."""
        torn = self._advancing
        if torn is not None and torn.finish_reason is None:
            torn.error, torn.finish_reason = "it was interrupted while it got a token", "error"
            torn.times.finished = perf_counter()
        self._advancing = None
        self._contests.fail("it was interrupted between two tokens")
        self._unfinished = {r: None for r in self._unfinished if r.finish_reason is None}
        self._start_books()

    def _step(self) -> list[Request]:
        failed = self._take_constraints()
        plan = self.scheduler.schedule()
        self._counts.preemptions += len(plan.preempted)
        if not plan.scheduled:
            if compiling := [r.grammar for r in self.scheduler.queues.unready if r.grammar is not None]:
                wait(compiling, COMPILE_WAIT, FIRST_COMPLETED)
            assert compiling or not self._unfinished, "no unfinished request can go on"
            return failed
        now = perf_counter()
        for entry in plan.scheduled:
            if not entry.request.times.scheduled:
                entry.request.times.scheduled = now
                if self.on_begin is not None:
                    self.on_begin(entry.request)
        try:
            own_rows = self._run(plan)
        except Exception as error:  # the step is shared: its requests end, waiting ones and the engine do not
            logger.exception("a step of %d tokens failed", plan.num_tokens)
            for entry in plan.scheduled:
                self._fail(entry.request, error)
            return [*failed, *(entry.request for entry in plan.scheduled)]
        changed = self._advance(plan, own_rows)
        self._counts.steps += 1
        return [*failed, *changed]

    def _take_constraints(self) -> list[Request]:
        """Hand samplers the constraints that are compiled by now. The requests that failed over it."""
        failed: list[Request] = []
        for request in self.scheduler.queues.unready:
            if request.grammar is not None and request.grammar.done():
                with self._own_failure(request, failed):
                    request.sampler.constraint = request.grammar.result()()
                    request.grammar = None
        return failed

    def _run(self, plan: StepPlan) -> list[Rows]:
        """The step's results, cut into the rows of each scheduled request: logits [., V], or what its readout reads."""
        batch, own_rows = build_batch(plan)
        self.program.copy_blocks(plan.copies)
        with self._masks.preparing(e.request for e, rows in zip(plan.scheduled, own_rows, strict=True) if rows):
            result = self.program.run(batch)
        logits = result.logits
        if logits.shape != (len(batch.logit_rows), self.vocab_size):
            raise ExecutorError(
                f"logits have shape {logits.shape}, expected {(len(batch.logit_rows), self.vocab_size)}"
            )
        readouts = [entry.request.readout for entry in plan.scheduled]
        sources = [result.taps[HIDDEN] if r is not None and r.reads == "hidden" else logits for r in readouts]
        return [source[rows.start : rows.stop] for source, rows in zip(sources, own_rows, strict=True)]

    def _advance(self, plan: StepPlan, own_rows: list[Rows]) -> list[Request]:
        """Use the rows that a step made for each request. Those that got a token or ended."""
        changed: list[Request] = []
        turns: list[Turn] = []
        for entry, rows in zip(plan.scheduled, own_rows, strict=True):
            request, num_computed = entry.request, entry.start + entry.count
            with self._own_failure(request, changed):
                if request.readout is not None:
                    request.readout.take(rows)
                    self.scheduler.computed(request, num_computed)
                    if not request.readout.wanted:
                        self._counts.generation_tokens += request.contest is not None  # a beam's next token
                        self._finish(request, "stop")
                        changed.append(request)
                    continue
                self._use_prompt_logits(request, rows)
                if num_computed < request.num_tokens:
                    self.scheduler.computed(request, num_computed)
                else:
                    num_drafts = num_computed - request.num_tokens
                    turns.append(Turn(request, rows[-1 - num_drafts :], request.draft_token_ids[:num_drafts]))
                    changed.append(request)
        for request, choice in choose_tokens(turns, threads=self.program.info.threads):
            with self._own_failure(request, changed):
                if isinstance(choice, Exception):
                    raise choice
                self._append(request, choice)
        for turn in turns:
            self._counts.drafted_tokens += len(turn.drafts)
            self._counts.accepted_tokens += turn.num_right
            turn.request.draft_token_ids = []
            if self._drafter is not None and turn.request.finish_reason is None:
                with self._own_failure(turn.request, changed):
                    self._propose(turn.request, self._drafter)
        return changed

    @contextmanager
    def _own_failure(self, request: Request, changed: list[Request]) -> Iterator[None]:
        """One request cannot hurt another: an exception ends it and nothing else."""
        self._advancing = request
        try:
            yield
        except Exception as error:
            logger.error("request %s failed: %s", request.key, error, exc_info=not isinstance(error, PellucidError))
            self._fail(request, error)
            if request not in changed:
                changed.append(request)
        self._advancing = None

    def _use_prompt_logits(self, request: Request, logits: Logits) -> None:
        if request.wants_prompt_logits:
            for row in logits[: request.num_prompt_tokens - len(request.prompt_logprobs)]:
                token = request.token_ids[len(request.prompt_logprobs)]
                ranked = ranked_logprobs(row, token, request.params.prompt_logprobs or 0)
                request.prompt_logprobs.append(position_logprobs(ranked, self.tokenizer))

    def _append(self, request: Request, sampled: Sampled) -> None:
        """Give a request its next token. Everything before it has been computed."""
        if sampled.logprobs is not None:
            request.logprobs.append(position_logprobs(sampled.logprobs, self.tokenizer))
        request.sampler.accept(sampled.token)
        request.token_ids.append(sampled.token)
        self.scheduler.computed(request, request.num_tokens - 1)
        request.times.first_token = request.times.first_token or perf_counter()
        self._counts.generation_tokens += 1
        reason = add_text(request, sampled.token, self.tokenizer)
        if reason is not None:
            self._finish(request, reason)

    def _propose(self, request: Request, drafter: Drafter) -> None:
        """Ask for draft tokens, no more than the answer has room for before its last one."""
        proposed = drafter.propose(request)[: request.max_num_tokens - request.num_tokens - 1]
        request.draft_token_ids = [integer("draft token", token, 0, self.vocab_size - 1) for token in proposed]

    def _finish(self, request: Request, reason: FinishReason) -> None:
        request.times.finished = perf_counter()
        request.finish_reason = reason
        del self._unfinished[request]
        self.scheduler.remove(request)

    def _fail(self, request: Request, error: Exception) -> None:
        request.error_param = error.param if isinstance(error, InvalidParameter) else None
        own = isinstance(error, PellucidError)  # foreign messages may quote anything; they are in the log
        request.error = str(error) if own else f"internal error ({type(error).__name__}); the log has the details"
        if request.finish_reason is None:
            self._finish(request, "error")
