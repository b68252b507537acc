"""Intake: makes Requests of what is asked for, and refuses at the door what could never be served."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import count
from time import perf_counter

from pellucid.cache.prefix import BlockHashes
from pellucid.engine.answer import AnswerText
from pellucid.engine.beams import BeamSearch, BestTokens
from pellucid.engine.contest import BestOf
from pellucid.engine.random import derive_seed, fresh_seed
from pellucid.engine.readout import Readout
from pellucid.engine.request import Request, Times
from pellucid.engine.sampler import RowSampler
from pellucid.errors import ContextLengthExceeded, InvalidParameter
from pellucid.fields import integer, show
from pellucid.sampling import SamplingParams
from pellucid.structured.compiler import GrammarCompiler, NewMatcher
from pellucid.structured_outputs import StructuredOutputs
from pellucid.text.detokenizer import Detokenizer
from pellucid.text.tokenizer import Tokenizer

MAX_PRIORITY = 2**31 - 1


class Intake:
    """For one engine: its vocabulary, its limits, its seed, its numbers for requests and its grammars."""

    def __init__(
        self, tokenizer: Tokenizer, *, vocab_size: int, max_model_len: int, max_num_tokens: int, seed: int | None
    ) -> None:
        """`max_num_tokens`: what one sequence can have of the context and of the cache."""
        self.max_num_tokens = max_num_tokens
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._max_model_len = max_model_len
        self._seed = seed
        self._numbers = count()
        self._grammars = GrammarCompiler(tokenizer, vocab_size)

    def requests(
        self, prompt_token_ids: Sequence[int], params: SamplingParams, *, priority: int, tenant: str, cache_salt: str
    ) -> list[Request]:
        """A Request for each of `params.n`; where they have a contest, its members are what is to be scheduled.

        Raises what `Engine.add_request` says.
        """
        prompt = self.validate(prompt_token_ids, params)
        priority = integer("priority", priority, -MAX_PRIORITY, MAX_PRIORITY)
        for name, text in (("tenant", tenant), ("cache_salt", cache_salt)):
            if not isinstance(text, str):
                raise InvalidParameter(name, f"expected a string, got {show(text)}")
        grammar = self.grammar(params)
        if grammar is not None and grammar.done():
            grammar.result()
        number = next(self._numbers)
        if params.seed is not None:
            seed = params.seed
        else:
            seed = fresh_seed() if self._seed is None else derive_seed(self._seed, number)
        own = _Own(f"req-{number}", priority, tenant, cache_salt, grammar)
        if params.beam_width:
            return self._beam_search(own, prompt, params, seed)
        if params.best_of is None or params.best_of == params.n:
            return self._answers(own, prompt, params, seed, params.n)
        scored = replace(params, logprobs=params.logprobs or 0, n=1, best_of=None)
        answers = [self._request(own.id, index, prompt, params, seed) for index in range(params.n)]
        BestOf(answers, self._answers(own, prompt, scored, seed, params.best_of))
        return answers

    def _answers(self, own: _Own, prompt: list[int], params: SamplingParams, seed: int, count: int) -> list[Request]:
        """`count` requests for independent answers, to be scheduled."""
        requests = [self._request(own.id, index, prompt, params, seed) for index in range(count)]
        for request in requests:
            own.mark(request)
            request.leader = None if request is requests[0] else requests[0]
        return requests

    def _beam_search(self, own: _Own, prompt: list[int], params: SamplingParams, seed: int) -> list[Request]:
        def make_member(index: int, token_ids: list[int], readout: BestTokens) -> Request:
            request = self._request(own.id, index, token_ids, SamplingParams(max_tokens=1), seed)
            request.readout = readout
            own.mark(request)
            return request

        answers = [self._request(own.id, index, prompt, params, seed) for index in range(params.n)]
        BeamSearch(answers, self._end_token_ids(params), self._tokenizer, make_member)
        return answers

    def reading(self, prompt_token_ids: Sequence[int], readout: Readout) -> Request:
        """A Request that generates nothing. Raises what `Engine.add_readout` says."""
        prompt = self.validate(prompt_token_ids)
        request = self._request(f"req-{next(self._numbers)}", 0, prompt, SamplingParams(max_tokens=1), seed=0)
        request.readout = readout
        return request

    def compile(self, params: SamplingParams) -> None:
        """Wait until the grammar of `params`, if it has one, is compiled and kept for `add_request`.

        Any thread may call this. Raises InvalidRequest and ResourceError.
        """
        grammar = self.grammar(params)
        if grammar is not None:
            grammar.result()

    def grammar(self, params: SamplingParams) -> Future[NewMatcher] | None:
        """Begin to compile the grammar of `params`, if it has one. Any thread may call this. Raises ResourceError."""
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
            limit = f"the context holds {self._max_model_len} (max_model_len); shorten one of them"
            if asked <= self._max_model_len:
                limit = f"the KV cache holds {self.max_num_tokens}; shorten one of them, or raise kv_cache_memory"
            raise ContextLengthExceeded(
                f"the prompt has {len(prompt)} tokens; with {answer} that makes {asked}, but {limit}"
            )
        if params is not None:
            for name in ("logit_bias", "stop_token_ids", "allowed_token_ids", "visible_token_ids"):
                for token in getattr(params, name) or ():
                    integer(name, token, 0, self._vocab_size - 1)
        return [integer("prompt_token_ids", token, 0, self._vocab_size - 1) for token in prompt]

    def _request(self, id: str, index: int, prompt: list[int], params: SamplingParams, seed: int) -> Request:
        if index > 0:
            params = replace(params, prompt_logprobs=None)  # the same for every answer: the first one's are reported
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
                end_token_ids=self._end_token_ids(params),
                prompt_token_ids=prompt,
                tokenizer=self._tokenizer,
            ),
            text=AnswerText(
                Detokenizer(
                    self._tokenizer,
                    skip_special_tokens=params.skip_special_tokens,
                    visible=params.visible_token_ids,
                    continuation=True,
                ),
                params.stop,
                params.stop_regex,
                include_stop=params.include_stop_str_in_output,
                echo=self._tokenizer.decode(prompt, skip_special=params.skip_special_tokens) if params.echo else "",
            ),
            times=Times(arrived=perf_counter()),
        )

    def _end_token_ids(self, params: SamplingParams) -> frozenset[int]:
        ids = {*params.stop_token_ids, *(() if params.ignore_eos else self._tokenizer.eos_token_ids)}
        return frozenset(token for token in ids if token < self._vocab_size)


@dataclass(frozen=True)
class _Own:
    """What all sequences of one request have in common."""

    id: str
    priority: int
    tenant: str
    cache_salt: str
    grammar: Future[NewMatcher] | None

    def mark(self, request: Request) -> None:
        request.priority, request.tenant = self.priority, self.tenant
        request.block_hashes = BlockHashes(salt=self.cache_salt)
        request.grammar = self.grammar
