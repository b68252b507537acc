"""Engine: requests in, tokens out. One `step` takes every running request some tokens further.

A step is schedule → build_batch → Program.run → sample, and then a request that caught up gets its token, its text and
its stop checks. Whatever fails for one request ends that request; only a failed Program.run ends those of its batch.

What may not enter here: arrays (step.py), the choice of tokens (sampler.py), who runs when (scheduler.py), text rules
(answer.py), loading and the shape of results (llm.py).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import count
from time import perf_counter

import numpy as np
import numpy.typing as npt

from pellucid.cache.manager import CacheManager
from pellucid.cache.prefix import BlockHashes
from pellucid.config import EngineConfig
from pellucid.engine.answer import AnswerText
from pellucid.engine.drafter import Drafter
from pellucid.engine.outputs import Logprob, PositionLogprobs
from pellucid.engine.random import derive_seed, fresh_seed
from pellucid.engine.readout import Readout, Rows
from pellucid.engine.request import FinishReason, Request, Times
from pellucid.engine.sampler import RankedToken, Row, RowSampler, Sampled, ranked_logprobs, sample_rows
from pellucid.engine.scheduler import Scheduler, StepPlan
from pellucid.engine.step import build_batch
from pellucid.errors import ContextLengthExceeded, ExecutorError, InvalidParameter, PellucidError
from pellucid.executors.base import Program
from pellucid.fields import integer, show
from pellucid.graph.passes.hidden import HIDDEN
from pellucid.sampling import SamplingParams
from pellucid.structured.compiler import GrammarCompiler, NewMatcher
from pellucid.structured_outputs import StructuredOutputs
from pellucid.text.detokenizer import Detokenizer
from pellucid.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

MAX_PRIORITY = 2**31 - 1

COMPILE_WAIT = 0.01
"""Seconds that a step waits for a grammar when there is nothing else to do."""

LOGIT_FLOATS = 1 << 24
"""Most logits (rows · V) that prompts with log-probabilities may ask for in one step: 64 MiB."""


Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Turn:
    """A request that has caught up: the rows [1 + drafts, V] about its next token and about those after its drafts."""

    request: Request
    logits: Logits
    drafts: list[int]


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
        self._grammars = GrammarCompiler(tokenizer, vocab_size)
        self._numbers = count()
        self._mask_threads: ThreadPoolExecutor | None = None
        self._unfinished: dict[Request, None] = {}
        self._start_books()
        capacity = self.cache.capacity(self.scheduler.prefill_chunk)
        self.max_num_tokens = max_model_len if capacity is None else min(max_model_len, capacity)

    def _start_books(self) -> None:
        """An empty cache and every unfinished request waiting: at the start, and when a step was broken off midway."""
        self.cache = CacheManager(self.program.info.kv_groups, enable_prefix_caching=self.config.enable_prefix_caching)
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
        prompt = self.validate(prompt_token_ids, params)
        priority = integer("priority", priority, -MAX_PRIORITY, MAX_PRIORITY)
        for name, text in (("tenant", tenant), ("cache_salt", cache_salt)):
            if not isinstance(text, str):
                raise InvalidParameter(name, f"expected a string, got {show(text)}")
        grammar = self._grammar(params)
        if grammar is not None and grammar.done():
            grammar.result()
        number = next(self._numbers)
        if params.seed is not None:
            seed = params.seed
        else:
            seed = fresh_seed() if self.config.seed is None else derive_seed(self.config.seed, number)
        requests = [self._make_request(f"req-{number}", index, prompt, params, seed) for index in range(params.n)]
        for request in requests:
            request.priority, request.tenant = priority, tenant
            request.block_hashes = BlockHashes(salt=cache_salt)
            request.leader = None if request is requests[0] else requests[0]
            request.grammar = grammar
            self._unfinished[request] = None
            self.scheduler.add(request)
        return requests

    def add_readout(self, prompt_token_ids: Sequence[int], readout: Readout) -> Request:
        """Queue a prompt of which `readout` takes what it wants; it ends with "stop" when that has everything.

        The prompt may be as long as the context, since no token follows. Raises what `add_request` raises for it.
        """
        prompt = self.validate(prompt_token_ids)
        request = self._make_request(f"req-{next(self._numbers)}", 0, prompt, SamplingParams(max_tokens=1), seed=0)
        request.readout = readout
        self._unfinished[request] = None
        self.scheduler.add(request)
        return request

    def compile(self, params: SamplingParams) -> None:
        """Wait until the grammar of `params`, if it has one, is compiled and kept for `add_request`.

        Any thread may call this. Raises InvalidRequest and ResourceError.
        """
        grammar = self._grammar(params)
        if grammar is not None:
            grammar.result()

    def _grammar(self, params: SamplingParams) -> Future[NewMatcher] | None:
        form = params.structured_outputs
        return self._grammars.submit(form) if isinstance(form, StructuredOutputs) else None

    def validate(self, prompt_token_ids: Sequence[int], params: SamplingParams | None = None) -> list[int]:
        """The prompt as plain ints. Raises what `add_request` would raise for it; without `params`, `add_readout`."""
        prompt = list(prompt_token_ids)
        if not prompt:
            raise InvalidParameter("prompt", "it has no tokens, and this model puts none before it; give at least one")
        asked = len(prompt) if params is None else len(prompt) + (params.max_tokens or 1)
        if asked > self.max_num_tokens:
            if params is None:
                raise ContextLengthExceeded(
                    f"the text has {asked} tokens, but the context holds {self.max_num_tokens} (max_model_len, or what "
                    "kv_cache_memory has room for); shorten or divide it"
                )
            answer = f"max_tokens = {params.max_tokens}" if params.max_tokens else "at least one token of the answer"
            limit = f"the context holds {self.max_model_len} (max_model_len); shorten one of them"
            if asked <= self.max_model_len:
                limit = f"the KV cache holds {self.max_num_tokens}; shorten one of them, or raise kv_cache_memory"
            raise ContextLengthExceeded(
                f"the prompt has {len(prompt)} tokens; with {answer} that makes {asked}, but {limit}"
            )
        if params is not None:
            for name in ("logit_bias", "stop_token_ids", "allowed_token_ids", "visible_token_ids"):
                for token in getattr(params, name) or ():
                    integer(name, token, 0, self.vocab_size - 1)
        return [integer("prompt_token_ids", token, 0, self.vocab_size - 1) for token in prompt]

    def abort(self, requests: Iterable[Request]) -> None:
        """End those of `requests` that are not finished; their blocks are free when this returns."""
        for request in requests:
            if request.finish_reason is None:
                self._finish(request, "abort")

    def step(self) -> list[Request]:
        """Run one step. The requests that got a token or ended; empty when there is nothing to do.

        Where every request waits for its grammar, this waits a moment for one of them.
        """
        try:
            return self._step()
        except BaseException:  # Ctrl-C, anywhere: the books may be half written
            self._start_books()
            raise

    def _step(self) -> list[Request]:
        failed = self._take_constraints()
        plan = self.scheduler.schedule()
        if not plan.scheduled:
            if compiling := [r.grammar for r in self.scheduler.unready if r.grammar is not None]:
                wait(compiling, COMPILE_WAIT, FIRST_COMPLETED)
            assert compiling or not self._unfinished, "no unfinished request can go on"
            return failed
        now = perf_counter()
        for entry in plan.scheduled:
            entry.request.times.scheduled = entry.request.times.scheduled or now
        try:
            own_rows = self._run(plan)
        except Exception as error:  # the step is shared: its requests end, waiting ones and the engine do not
            logger.exception("a step of %d tokens failed", plan.num_tokens)
            for entry in plan.scheduled:
                self._fail(entry.request, error)
            return [*failed, *(entry.request for entry in plan.scheduled)]
        changed = self._advance(plan, own_rows)
        if not self.has_unfinished:
            self.cache.check(idle=True)
        return [*failed, *changed]

    def _take_constraints(self) -> list[Request]:
        """Hand samplers the constraints that are compiled by now. The requests that failed over it."""
        failed: list[Request] = []
        for request in self.scheduler.unready:
            if request.grammar is not None and request.grammar.done():
                with self._own_failure(request, failed):
                    request.sampler.constraint = request.grammar.result()()
                    request.grammar = None
        return failed

    def _run(self, plan: StepPlan) -> list[Rows]:
        """The step's results, cut into the rows of each scheduled request: logits [., V], or what its readout reads."""
        batch, own_rows = build_batch(plan)
        self.program.copy_blocks(plan.copies)
        masks = self._prepare_masks(entry.request for entry, rows in zip(plan.scheduled, own_rows, strict=True) if rows)
        try:
            result = self.program.run(batch)
        finally:
            wait(masks)
        logits = result.logits
        if logits.shape != (len(batch.logit_rows), self.vocab_size):
            raise ExecutorError(
                f"logits have shape {logits.shape}, expected {(len(batch.logit_rows), self.vocab_size)}"
            )
        readouts = [entry.request.readout for entry in plan.scheduled]
        sources = [result.taps[HIDDEN] if r is not None and r.reads == "hidden" else logits for r in readouts]
        return [source[rows.start : rows.stop] for source, rows in zip(sources, own_rows, strict=True)]

    def _prepare_masks(self, requests: Iterable[Request]) -> list[Future[None]]:
        """Start computing, beside the forward pass, which tokens constraints allow next."""
        constrained = [r for r in requests if r.sampler.constraint is not None]
        if not constrained:
            return []
        if self._mask_threads is None:
            self._mask_threads = ThreadPoolExecutor(1, thread_name_prefix="pellucid-masks")

        def prepare() -> None:
            for request in constrained:
                with suppress(Exception):  # the sampler meets the same error and ends the request with it
                    request.sampler.prepare()

        return [self._mask_threads.submit(prepare)]

    def _advance(self, plan: StepPlan, own_rows: list[Rows]) -> list[Request]:
        """Use the rows that a step made for each request. Those that got a token or ended.

        Tokens are chosen in rounds: the first one is about the first row of every request that has caught up, the next
        about the row after it where the draft token between the two was right. num_computed_tokens changes last: a
        request interrupted before that computes the same tokens once more.
        """
        changed: list[Request] = []
        turns: list[_Turn] = []
        for entry, rows in zip(plan.scheduled, own_rows, strict=True):
            request, num_computed = entry.request, entry.start + entry.count
            with self._own_failure(request, changed):
                if request.readout is not None:
                    request.readout.take(rows)
                    self.scheduler.computed(request, num_computed)
                    if not request.readout.wanted:
                        self._finish(request, "stop")
                        changed.append(request)
                    continue
                self._use_prompt_logits(request, rows)
                if num_computed < request.num_tokens:
                    self.scheduler.computed(request, num_computed)
                else:
                    first = request.num_tokens - 1 - entry.start - entry.count
                    turns.append(_Turn(request, rows[first:], request.draft_token_ids[: -1 - first]))
                    changed.append(request)
        for turn in turns:
            turn.request.draft_token_ids = []
        round = 0
        while turns:
            still_right = []
            sampled = sample_rows(
                [_row(turn.request, turn.logits[round]) for turn in turns], threads=self.program.info.threads
            )
            for turn, choice in zip(turns, sampled, strict=True):
                request = turn.request
                with self._own_failure(request, changed):
                    if isinstance(choice, Exception):
                        raise choice
                    self._append(request, choice)
                    if request.finish_reason is None:
                        if turn.drafts[round : round + 1] == [choice.token]:
                            still_right.append(turn)
                        elif self._drafter is not None:
                            self._propose(request, self._drafter)
            turns, round = still_right, round + 1
        return changed

    @contextmanager
    def _own_failure(self, request: Request, changed: list[Request]) -> Iterator[None]:
        """One request cannot hurt another: an exception ends it and nothing else."""
        try:
            yield
        except Exception as error:
            logger.exception("request %s failed", request.key)
            self._fail(request, error)
            if request not in changed:
                changed.append(request)

    def _use_prompt_logits(self, request: Request, logits: Logits) -> None:
        if request.wants_prompt_logits:
            for row in logits[: request.num_prompt_tokens - len(request.prompt_logprobs)]:
                token = request.token_ids[len(request.prompt_logprobs)]
                ranked = ranked_logprobs(row, token, request.params.prompt_logprobs or 0)
                request.prompt_logprobs.append(self._position_logprobs(ranked))

    def _append(self, request: Request, sampled: Sampled) -> None:
        """Give a request its next token. Everything before it has been computed."""
        if sampled.logprobs is not None:
            request.logprobs.append(self._position_logprobs(sampled.logprobs))
        request.sampler.accept(sampled.token)
        request.token_ids.append(sampled.token)
        self.scheduler.computed(request, request.num_tokens - 1)
        request.times.first_token = request.times.first_token or perf_counter()
        self._check_end(request, sampled.token)

    def _propose(self, request: Request, drafter: Drafter) -> None:
        """Ask for draft tokens, no more than the answer has room for before its last one."""
        proposed = drafter.propose(request)[: request.max_num_tokens - request.num_tokens - 1]
        request.draft_token_ids = [integer("draft token", token, 0, self.vocab_size - 1) for token in proposed]

    def _check_end(self, request: Request, token: int) -> None:
        """Add the token's text and end the request if the token, its text or the length say so."""
        params = request.params
        may_stop = request.num_output_tokens >= params.min_tokens
        is_end = token in self.tokenizer.eos_token_ids and not params.ignore_eos
        if (is_end or token in params.stop_token_ids) and may_stop:
            if params.include_stop_str_in_output and self._has_text(token):
                request.text.add(token, may_stop=False)
            request.text.finish()
            request.stop_reason = None if is_end else token
            self._finish(request, "stop")
        elif self._has_text(token) and (stop := request.text.add(token, may_stop=may_stop)) is not None:
            request.stop_reason = stop
            self._finish(request, "stop")
        elif request.sampler.constraint is not None and request.sampler.constraint.is_finished:
            request.text.finish()
            self._finish(request, "stop")
        elif request.num_tokens >= request.max_num_tokens:
            request.text.finish()
            self._finish(request, "length")

    def _finish(self, request: Request, reason: FinishReason) -> None:
        self.scheduler.remove(request)
        del self._unfinished[request]
        request.finish_reason = reason
        request.times.finished = perf_counter()

    def _fail(self, request: Request, error: Exception) -> None:
        own = isinstance(error, PellucidError)  # foreign messages may quote anything; they are in the log
        request.error = str(error) if own else f"internal error ({type(error).__name__}); the log has the details"
        if request.finish_reason is None:
            self._finish(request, "error")

    def _make_request(self, id: str, index: int, prompt: list[int], params: SamplingParams, seed: int) -> Request:
        if index > 0:
            params = replace(params, prompt_logprobs=None)  # the same for every answer: the first one's are reported
        end_token_ids = set(params.stop_token_ids) | (set() if params.ignore_eos else self.tokenizer.eos_token_ids)
        return Request(
            id=id,
            index=index,
            token_ids=prompt.copy(),
            num_prompt_tokens=len(prompt),
            params=params,
            max_num_tokens=self.max_num_tokens if params.max_tokens is None else len(prompt) + params.max_tokens,
            sampler=RowSampler(
                params,
                seed=seed,
                index=index,
                end_token_ids=frozenset(t for t in end_token_ids if t < self.vocab_size),
                prompt_token_ids=prompt,
                tokenizer=self.tokenizer,
            ),
            text=AnswerText(
                Detokenizer(
                    self.tokenizer,
                    skip_special_tokens=params.skip_special_tokens,
                    visible=params.visible_token_ids,
                    continuation=True,
                ),
                params.stop,
                params.stop_regex,
                include_stop=params.include_stop_str_in_output,
            ),
            times=Times(arrived=perf_counter()),
        )

    def _position_logprobs(self, ranked: Iterable[RankedToken]) -> PositionLogprobs:
        return {
            r.token_id: Logprob(
                r.logprob, r.rank, self.tokenizer.token_str(r.token_id) if self._has_text(r.token_id) else ""
            )
            for r in ranked
        }

    def _has_text(self, token: int) -> bool:
        """False for ids that only pad the logits, beyond the vocabulary or in holes of it."""
        try:
            self.tokenizer.token_bytes(token)
        except InvalidParameter:
            return False
        return True


def _row(request: Request, logits: Logits) -> Row:
    return Row(
        request.sampler,
        logits,
        num_output_tokens=request.num_output_tokens,
        position=request.num_tokens,
        num_logprobs=request.params.logprobs,
    )
