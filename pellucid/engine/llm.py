"""LLM: the Python interface. Load a model, hand it prompts, read answers."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any, Self

from pellucid.config import EngineConfig
from pellucid.engine.engine import Engine
from pellucid.engine.loader import LoadedModel, load_model
from pellucid.engine.outputs import RequestOutput, StreamChunk
from pellucid.engine.request import Request
from pellucid.engine.results import AnswerStream, build_result
from pellucid.errors import InvalidParameter, InvalidRequest
from pellucid.fields import show
from pellucid.sampling import SamplingParams

Prompt = str | Sequence[int]
"""Text, or token ids that are used as they are."""
Message = Mapping[str, Any]
"""One message of a conversation: {"role": "user", "content": "…"}."""
_EncodedPrompt = tuple[str | None, list[int]]
"""The text as the model sees it (None for token ids) and its ids."""


class LLM:
    """A model in memory. `LLM(model, **settings)` takes the fields of `EngineConfig`.

    Threads may share one LLM: their requests are computed together. Closing it (or leaving its `with` block) frees
    weights, KV cache and threads; requests still running end with finish_reason "abort".
    """

    def __init__(self, model: str, **settings: Any) -> None:
        """Raises ModelError when the model cannot be found, read or built; ResourceError; InvalidParameter."""
        self.config = EngineConfig(model=str(model), **settings)
        self._model: LoadedModel = load_model(self.config)
        self.tokenizer = self._model.tokenizer
        self._engine = Engine(
            self._model.program,
            self.tokenizer,
            self.config,
            vocab_size=self._model.config.vocab_size,
            max_model_len=self._model.max_model_len,
        )
        self._lock = threading.Lock()
        self._closed = False

    @property
    def max_model_len(self) -> int:
        """Most tokens of prompt and answer together."""
        return self._model.max_model_len

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """Answer all prompts in one batch; results come in the order of the prompts.

        `params` is one for all, or one for each prompt. Text is tokenised with the model's begin token, and control
        tokens written in it are plain text; for another treatment, pass `tokenize(…)`'s ids. A request that fails on
        its own has finish_reason "error" and the others are answered.

        Raises InvalidRequest (and starts nothing) when one of the requests cannot be served.
        """
        return self._run([self._prompt(p) for p in _prompt_list(prompts)], params)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        add_generation_prompt: bool = True,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answer one conversation, or several in one batch, through the model's chat template.

        `chat_template_kwargs` are variables for the template. Raises TemplateError, and what `generate` raises.
        """
        several = isinstance(messages, Sequence) and len(messages) > 0 and isinstance(messages[0], list | tuple)
        conversations = messages if several else [messages]
        rendered = [self._render(c, add_generation_prompt, chat_template_kwargs) for c in conversations]
        return self._run(rendered, params)

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[StreamChunk]:
        """Answer one prompt piece by piece. The first piece asked for queues it; leaving the loop early ends it.

        Raises InvalidRequest at once when it cannot be served.
        """
        return self._stream(self._prompt(prompt), params)

    def stream_chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        add_generation_prompt: bool = True,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> Iterator[StreamChunk]:
        """Answer one conversation piece by piece."""
        return self._stream(self._render(messages, add_generation_prompt, chat_template_kwargs), params)

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of `text`: with the model's begin token, and with control tokens read as such, if wanted."""
        return self.tokenizer.encode(text, add_special=add_special, parse_special=parse_special)

    def detokenize(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        return self.tokenizer.decode(list(token_ids), skip_special=skip_special_tokens)

    def close(self) -> None:
        """Free everything. Further calls raise InvalidRequest; closing twice is fine."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._engine.abort(list(self._engine.scheduler))
                self._model.program.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prompt(self, prompt: Prompt) -> _EncodedPrompt:
        if isinstance(prompt, str):
            return prompt, self.tokenize(prompt)
        if isinstance(prompt, bytes | Mapping) or not isinstance(prompt, Iterable):
            raise InvalidParameter("prompt", f"expected text or a list of token ids, got {show(prompt)}")
        return None, list(prompt)

    def _render(
        self, messages: Any, add_generation_prompt: bool, chat_template_kwargs: Mapping[str, Any] | None
    ) -> _EncodedPrompt:
        template = self._model.chat_template
        if template is None:
            raise InvalidRequest(
                "this model has no chat template; use generate(), or load it with LLM(…, chat_template=…)"
            )
        variables = dict(chat_template_kwargs or {})
        for name in variables:
            if not isinstance(name, str) or name in ("messages", "add_generation_prompt", "tokenizer", "self"):
                raise InvalidParameter("chat_template_kwargs", f"{show(name)} cannot be a variable of the template")
        return template.encode(self.tokenizer, messages, add_generation_prompt=add_generation_prompt, **variables)

    def _add(
        self, prompts: list[_EncodedPrompt], params: SamplingParams | Sequence[SamplingParams] | None
    ) -> list[tuple[str | None, list[Request]]]:
        """Queue every prompt, or none of them."""
        each = self._params_of(prompts, params)
        with self._lock:
            self._require_open()
            added: list[tuple[str | None, list[Request]]] = []
            try:
                for (text, ids), p in zip(prompts, each, strict=True):
                    added.append((text, self._engine.add_request(ids, p)))
            except BaseException:
                self._engine.abort(r for _, requests in added for r in requests)
                raise
        return added

    @staticmethod
    def _params_of(
        prompts: list[_EncodedPrompt], params: SamplingParams | Sequence[SamplingParams] | None
    ) -> Sequence[SamplingParams]:
        """One for each prompt."""
        if params is None or isinstance(params, SamplingParams):
            params = [params or SamplingParams()] * len(prompts)
        for p in params:
            if not isinstance(p, SamplingParams):
                raise InvalidParameter("params", f"expected SamplingParams, got {show(p)}")
        if len(params) != len(prompts):
            raise InvalidParameter(
                "params", f"got {len(params)} for {len(prompts)} prompts; give one for all or one for each"
            )
        return params

    def _run(
        self, prompts: list[_EncodedPrompt], params: SamplingParams | Sequence[SamplingParams] | None
    ) -> list[RequestOutput]:
        added = self._add(prompts, params)
        everything = [request for _, requests in added for request in requests]
        try:
            while any(request.finish_reason is None for request in everything):
                self._step()
        finally:
            self._abort(everything)
        return [build_result(self._model, text, requests) for text, requests in added]

    def _stream(self, prompt: _EncodedPrompt, params: SamplingParams | None) -> Iterator[StreamChunk]:
        # Checked here, so that a request that cannot be served fails at the call; queued by the first next(), so that a
        # stream nobody reads leaves nothing behind: a generator that never began runs no `finally`.
        [checked] = self._params_of([prompt], params)
        with self._lock:
            self._require_open()
            self._engine.validate(prompt[1], checked)
        return self._chunks(prompt, checked)

    def _chunks(self, prompt: _EncodedPrompt, params: SamplingParams) -> Iterator[StreamChunk]:
        [(text, requests)] = self._add([prompt], params)
        streams = [AnswerStream(request) for request in requests]
        try:
            while unfinished := [s for s in streams if not s.ended]:
                self._step()
                for stream in unfinished:
                    chunk = stream.next_chunk()
                    if chunk is None:
                        continue
                    last = all(s.ended for s in streams)
                    yield replace(chunk, result=build_result(self._model, text, requests)) if last else chunk
        finally:
            self._abort(requests)

    def _step(self) -> None:
        with self._lock:
            self._engine.step()

    def _abort(self, requests: list[Request]) -> None:
        with self._lock:
            self._engine.abort(requests)

    def _require_open(self) -> None:
        if self._closed:
            raise InvalidRequest("this LLM is closed")


def _prompt_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """A single text or a single list of token ids counts as one prompt."""
    if isinstance(prompts, str | bytes | Mapping) or not isinstance(prompts, Iterable):
        return [prompts]  # what is not text is refused where it is encoded
    items = list(prompts)
    if items and isinstance(items[0], Integral):
        return [items]  # type: ignore[list-item]
    return items  # type: ignore[return-value]
