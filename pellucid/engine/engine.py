"""Engine: requests in, tokens out. One `step` takes every running request some tokens further.

A step is schedule → build_batch → Program.run → sample, and then a request that caught up gets its token, its text and
its stop checks. Whatever fails for one request ends that request; only a failed Program.run ends those of its batch.

What may not enter here: arrays (step.py), the choice of tokens (sampler.py), who runs when (scheduler.py), text rules
(answer.py), loading and the shape of results (llm.py).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import count
from time import perf_counter

import numpy as np
import numpy.typing as npt

from pellucid.cache.manager import CacheManager
from pellucid.config import EngineConfig
from pellucid.engine.answer import AnswerText
from pellucid.engine.outputs import Logprob, PositionLogprobs
from pellucid.engine.random import derive_seed, fresh_seed
from pellucid.engine.request import FinishReason, Request, Times
from pellucid.engine.sampler import RowSampler, ranked_logprobs
from pellucid.engine.scheduler import ScheduledRequest, Scheduler, StepPlan
from pellucid.engine.step import build_batch
from pellucid.errors import ContextLengthExceeded, ExecutorError, InvalidParameter, PellucidError, ResourceError
from pellucid.executors.base import Program
from pellucid.fields import integer
from pellucid.sampling import SamplingParams
from pellucid.text.detokenizer import Detokenizer
from pellucid.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

LOGIT_FLOATS = 1 << 24
"""Most logits (rows · V) that prompts with log-probabilities may ask for in one step: 64 MiB."""


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
        self._seed = config.seed
        self._numbers = count()

    @property
    def has_unfinished(self) -> bool:
        return any(True for _ in self.scheduler)

    def add_request(self, prompt_token_ids: Sequence[int], params: SamplingParams) -> list[Request]:
        """Queue one prompt; a Request for each of `params.n`. They fill up as `step` is called.

        Raises InvalidParameter for an empty prompt or a token id that the model does not have, ContextLengthExceeded.
        Nothing is queued then.
        """
        prompt = self.validate(prompt_token_ids, params)
        number = next(self._numbers)
        if params.seed is not None:
            seed = params.seed
        else:
            seed = fresh_seed() if self._seed is None else derive_seed(self._seed, number)
        requests = [self._make_request(f"req-{number}", index, prompt, params, seed) for index in range(params.n)]
        for request in requests:
            self.scheduler.add(request)
        return requests

    def validate(self, prompt_token_ids: Sequence[int], params: SamplingParams) -> list[int]:
        """The prompt as plain ints. Raises what `add_request` would raise for it."""
        prompt = list(prompt_token_ids)
        if not prompt:
            raise InvalidParameter("prompt", "it has no tokens, and this model puts none before it; give at least one")
        asked = len(prompt) + (params.max_tokens or 1)
        if asked > self.max_model_len:
            answer = f"max_tokens = {params.max_tokens}" if params.max_tokens else "at least one token of the answer"
            raise ContextLengthExceeded(
                f"the prompt has {len(prompt)} tokens; with {answer} that makes {asked}, "
                f"but the context holds {self.max_model_len} (max_model_len); shorten one of them"
            )
        for name, ids in (("logit_bias", params.logit_bias or ()), ("stop_token_ids", params.stop_token_ids)):
            for token in ids:
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
            own_logits = self._run(plan)
        except Exception as error:  # the step is shared: its requests end, waiting ones and the engine do not
            logger.exception("a step of %d tokens failed", plan.num_tokens)
            for entry in plan.scheduled:
                self._fail(entry.request, error)
            return [entry.request for entry in plan.scheduled]
        changed = []
        for entry, logits in zip(plan.scheduled, own_logits, strict=True):
            try:
                if self._advance(entry, logits):
                    changed.append(entry.request)
            except Exception as error:  # one request cannot hurt another
                logger.exception("request %s failed", entry.request.key)
                self._fail(entry.request, error)
                changed.append(entry.request)
        if not self.has_unfinished:
            self.cache.check(idle=True)
        return changed

    def _run(self, plan: StepPlan) -> list[npt.NDArray[np.float32]]:
        """The step's logits, cut into the rows [., V] of each scheduled request."""
        batch, own_rows = build_batch(plan)
        logits = self.program.run(batch).logits
        if logits.shape != (len(batch.logit_rows), self.vocab_size):
            raise ExecutorError(
                f"logits have shape {logits.shape}, expected {(len(batch.logit_rows), self.vocab_size)}"
            )
        return [logits[rows.start : rows.stop] for rows in own_rows]

    def _advance(self, entry: ScheduledRequest, logits: npt.NDArray[np.float32]) -> bool:
        """Use the logits [., V] that a step made for a request. True when it got a token.

        num_computed_tokens changes last: a request interrupted before that computes the same tokens once more.
        """
        request, num_computed = entry.request, entry.start + entry.count
        if request.wants_prompt_logits:
            for row in logits[: request.num_prompt_tokens - len(request.prompt_logprobs)]:
                token = request.token_ids[len(request.prompt_logprobs)]
                request.prompt_logprobs.append(self._position_logprobs(row, token, request.params.prompt_logprobs or 0))
        if num_computed < request.num_tokens:
            request.num_computed_tokens = num_computed
            return False
        row = logits[-1]
        token = request.sampler.sample(row, num_output_tokens=request.num_output_tokens, position=request.num_tokens)
        if request.params.logprobs is not None:
            request.logprobs.append(self._position_logprobs(row, token, request.params.logprobs))
        request.sampler.accept(token)
        request.token_ids.append(token)
        request.num_computed_tokens = num_computed
        request.times.first_token = request.times.first_token or perf_counter()
        self._check_end(request, token)
        return True

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
            ),
            text=AnswerText(
                Detokenizer(self.tokenizer, skip_special_tokens=params.skip_special_tokens, continuation=True),
                params.stop,
                include_stop=params.include_stop_str_in_output,
            ),
            times=Times(arrived=perf_counter()),
        )

    def _position_logprobs(self, row: npt.NDArray[np.float32], token: int, top: int) -> PositionLogprobs:
        return {
            r.token_id: Logprob(
                r.logprob, r.rank, self.tokenizer.token_str(r.token_id) if self._has_text(r.token_id) else ""
            )
            for r in ranked_logprobs(row, token, top)
        }

    def _has_text(self, token: int) -> bool:
        """False for ids that only pad the logits, beyond the vocabulary or in holes of it."""
        try:
            self.tokenizer.token_bytes(token)
        except InvalidParameter:
            return False
        return True
