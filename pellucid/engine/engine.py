"""Engine: requests in, tokens out. One `step` takes every running request some tokens further.

A step is schedule → build_batch → Program.run → sample, and then a request that caught up gets its token, its text and
its stop checks. Whatever fails for one request ends that request; only a failed Program.run ends those of its batch.

What may not enter here: arrays (step.py), the choice of tokens (sampler.py), who runs when (scheduler.py), text rules
(answer.py), loading and the shape of results (llm.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from time import perf_counter

import numpy as np
import numpy.typing as npt

from pellucid.cache.manager import CacheManager
from pellucid.config import EngineConfig
from pellucid.engine.answer import AnswerText
from pellucid.engine.constraint import Constraint
from pellucid.engine.outputs import Logprob, PositionLogprobs
from pellucid.engine.random import derive_seed, fresh_seed
from pellucid.engine.readout import Readout, Rows
from pellucid.engine.request import FinishReason, Request, Times
from pellucid.engine.sampler import RankedToken, Row, RowSampler, ranked_logprobs, sample_rows
from pellucid.engine.scheduler import Scheduler, StepPlan
from pellucid.engine.step import build_batch
from pellucid.errors import (
    ContextLengthExceeded,
    ExecutorError,
    InvalidParameter,
    PellucidError,
    ResourceError,
    UnsupportedParameter,
)
from pellucid.executors.base import Program
from pellucid.fields import integer, show
from pellucid.graph.passes.hidden import HIDDEN
from pellucid.sampling import SamplingParams
from pellucid.structured.compiler import GrammarCompiler
from pellucid.structured_outputs import StructuredOutputs
from pellucid.text.detokenizer import Detokenizer
from pellucid.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

MAX_PRIORITY = 2**31 - 1

LOGIT_FLOATS = 1 << 24
"""Most logits (rows · V) that prompts with log-probabilities may ask for in one step: 64 MiB."""


Logits = npt.NDArray[np.float32]

_Choice = tuple[int, PositionLogprobs | None]
"""A token and, if asked for, the log-probabilities at its position."""


@dataclass(frozen=True)
class _Turn:
    """A request that has caught up: the rows [1 + drafts, V] about its next token and about those after its drafts."""

    request: Request
    logits: Logits
    drafts: list[int]


class Engine:
    """Runs many requests on one Program. Not thread-safe: one call at a time (`LLM` holds a lock)."""

    def __init__(
        self, program: Program, tokenizer: Tokenizer, config: EngineConfig, *, vocab_size: int, max_model_len: int
    ) -> None:
        """`vocab_size` is the logits' width. Raises ResourceError if a sequence of `max_model_len` does not fit."""
        self.program = program
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.max_model_len = max_model_len
        self.cache = CacheManager(program.info.num_blocks)
        if self.cache.num_tokens_capacity < max_model_len:
            raise ResourceError(
                f"the KV cache holds {self.cache.num_tokens_capacity} tokens, fewer than max_model_len = "
                f"{max_model_len}; give it more memory or ask for a shorter context"
            )
        self.scheduler = Scheduler(
            self.cache,
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=config.max_num_batched_tokens,
            prefill_chunk=config.prefill_chunk,
            max_logit_rows=max(1, LOGIT_FLOATS // vocab_size),
        )
        self._grammars = GrammarCompiler(tokenizer, vocab_size)
        self._seed = config.seed
        self._numbers = count()

    @property
    def has_unfinished(self) -> bool:
        return any(True for _ in self.scheduler)

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

        `cache_salt`: cached blocks are shared only between requests of the same salt (today between none at all).
        `priority` and `tenant` have no effect on the scheduler yet, so anything but their defaults is refused.

        Raises UnsupportedParameter for those two, InvalidParameter for an empty prompt or a token id that the model
        does not have, ContextLengthExceeded.
        Nothing is queued then.
        """
        prompt = self.validate(prompt_token_ids, params)
        priority = integer("priority", priority, -MAX_PRIORITY, MAX_PRIORITY)
        for name, text in (("tenant", tenant), ("cache_salt", cache_salt)):
            if not isinstance(text, str):
                raise InvalidParameter(name, f"expected a string, got {show(text)}")
        for name, given in (("priority", priority), ("tenant", tenant)):
            if given:
                raise UnsupportedParameter(name, "requests are served first come, first served as yet; remove it")
        grammar = self.compile(params)
        number = next(self._numbers)
        if params.seed is not None:
            seed = params.seed
        else:
            seed = fresh_seed() if self._seed is None else derive_seed(self._seed, number)
        requests = [self._make_request(f"req-{number}", index, prompt, params, seed) for index in range(params.n)]
        for request in requests:
            request.priority, request.tenant, request.cache_salt = priority, tenant, cache_salt
            request.sampler.constraint = grammar() if grammar is not None else None
            self.scheduler.add(request)
        return requests

    def add_readout(self, prompt_token_ids: Sequence[int], readout: Readout) -> Request:
        """Queue a prompt of which `readout` takes what it wants; it ends with "stop" when that has everything.

        The prompt may be as long as the context, since no token follows. Raises what `add_request` raises for it.
        """
        prompt = self.validate(prompt_token_ids)
        request = self._make_request(f"req-{next(self._numbers)}", 0, prompt, SamplingParams(max_tokens=1), seed=0)
        request.readout = readout
        self.scheduler.add(request)
        return request

    def compile(self, params: SamplingParams) -> Callable[[], Constraint] | None:
        """What makes the constraint of each answer; None without structured output. Kept for `add_request`.

        Any thread may call this, and should before it takes hold of the engine: it waits until the grammar is compiled.
        Raises InvalidRequest and ResourceError.
        """
        form = params.structured_outputs
        return self._grammars.compile(form) if isinstance(form, StructuredOutputs) else None

    def validate(self, prompt_token_ids: Sequence[int], params: SamplingParams | None = None) -> list[int]:
        """The prompt as plain ints. Raises what `add_request` would raise for it; without `params`, `add_readout`."""
        prompt = list(prompt_token_ids)
        if not prompt:
            raise InvalidParameter("prompt", "it has no tokens, and this model puts none before it; give at least one")
        asked = len(prompt) if params is None else len(prompt) + (params.max_tokens or 1)
        if asked > self.max_model_len:
            if params is None:
                raise ContextLengthExceeded(
                    f"the text has {asked} tokens, but the context holds {self.max_model_len} (max_model_len); "
                    "shorten or divide it"
                )
            answer = f"max_tokens = {params.max_tokens}" if params.max_tokens else "at least one token of the answer"
            raise ContextLengthExceeded(
                f"the prompt has {len(prompt)} tokens; with {answer} that makes {asked}, "
                f"but the context holds {self.max_model_len} (max_model_len); shorten one of them"
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
        """Run one step. The requests that got a token or ended; empty when there is nothing to do."""
        plan = self.scheduler.schedule()
        if not plan.scheduled:
            return []
        now = perf_counter()
        for entry in plan.scheduled:
            entry.request.times.scheduled = entry.request.times.scheduled or now
        try:
            own_rows = self._run(plan)
        except Exception as error:  # the step is shared: its requests end, waiting ones and the engine do not
            logger.exception("a step of %d tokens failed", plan.num_tokens)
            for entry in plan.scheduled:
                self._fail(entry.request, error)
            return [entry.request for entry in plan.scheduled]
        changed = self._advance(plan, own_rows)
        if not self.has_unfinished:
            self.cache.check(idle=True)
        return changed

    def _run(self, plan: StepPlan) -> list[Rows]:
        """The step's results, cut into the rows of each scheduled request: logits [., V], or what its readout reads."""
        batch, own_rows = build_batch(plan)
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
                    request.num_computed_tokens = num_computed
                    if not request.readout.wanted:
                        self._finish(request, "stop")
                        changed.append(request)
                    continue
                self._use_prompt_logits(request, rows)
                if num_computed < request.num_tokens:
                    request.num_computed_tokens = num_computed
                else:
                    first = request.num_tokens - 1 - entry.start - entry.count
                    turns.append(_Turn(request, rows[first:], request.draft_token_ids[: -1 - first]))
                    changed.append(request)
        for turn in turns:
            turn.request.draft_token_ids = []
        round = 0
        while turns:
            still_right = []
            chosen = self._choose([(turn.request, turn.logits[round]) for turn in turns])
            for turn, choice in zip(turns, chosen, strict=True):
                with self._own_failure(turn.request, changed):
                    if isinstance(choice, Exception):
                        raise choice
                    self._append(turn.request, *choice)
                    going_on = turn.request.finish_reason is None
                    if going_on and turn.drafts[round : round + 1] == turn.request.token_ids[-1:]:
                        still_right.append(turn)
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
                request.prompt_logprobs.append(self._position_logprobs(row, token, request.params.prompt_logprobs or 0))

    def _choose(self, rows: list[tuple[Request, Logits]]) -> list[_Choice | Exception]:
        """The next token of each request from its row of logits [V], or what went wrong there."""
        sampled = sample_rows(
            [
                Row(request.sampler, logits, request.num_output_tokens, request.num_tokens, request.params.logprobs)
                for request, logits in rows
            ],
            threads=self.program.info.threads,
        )
        chosen: list[_Choice | Exception] = []
        for found in sampled:
            if isinstance(found, Exception):
                chosen.append(found)
            else:
                chosen.append((found.token, None if found.logprobs is None else self._named(found.logprobs)))
        return chosen

    def _append(self, request: Request, token: int, logprobs: PositionLogprobs | None) -> None:
        """Give a request its next token. Everything before it has been computed."""
        if logprobs is not None:
            request.logprobs.append(logprobs)
        request.sampler.accept(token)
        request.token_ids.append(token)
        request.num_computed_tokens = request.num_tokens - 1
        request.times.first_token = request.times.first_token or perf_counter()
        self._check_end(request, token)

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
            max_num_tokens=self.max_model_len if params.max_tokens is None else len(prompt) + params.max_tokens,
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

    def _position_logprobs(self, row: Logits, token: int, top: int) -> PositionLogprobs:
        return self._named(ranked_logprobs(row, token, top))

    def _named(self, ranked: Iterable[RankedToken]) -> PositionLogprobs:
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
