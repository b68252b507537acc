"""What a line of a batch asks for: its prompts as jobs, and the body of its answer when all of them are done."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from pellucid.api.body import Body
from pellucid.api.openai_embeddings import EMBEDDINGS_PATH, EmbeddingsRequest, embeddings_body, parse_embeddings
from pellucid.api.openai_requests import OpenAIRequest, parse_request, with_seed
from pellucid.api.openai_responses import receipts, response_body
from pellucid.api.openai_schemas import CHAT, COMPLETIONS
from pellucid.api.other_schemas import EMBEDDINGS
from pellucid.chat.turn import ChatOptions, Turn
from pellucid.engine.chat_answers import ChatReader, chat_params
from pellucid.engine.llm import LLM, EncodedPrompt
from pellucid.engine.offline import Answered, Job
from pellucid.engine.outputs import RequestOutput
from pellucid.engine.pooling import finished
from pellucid.engine.readout import Pooler
from pellucid.engine.results import build_result, request_failure
from pellucid.errors import ExecutorError, ModelNotFound, UnsupportedParameter
from pellucid.fields import show
from pellucid.sampling import SamplingParams

_SERVER_ONLY = ("echo", "receipt")


class Work(ABC):
    """One line. Everything may raise a PellucidError, which is then the line's answer."""

    @abstractmethod
    def jobs(self, seed_of: Callable[[int], int]) -> list[Job[Any]]:
        """One for each prompt, by its place among them. `seed_of`: what those without a seed get."""

    @abstractmethod
    def result(self, done: Answered[Any]) -> Any:
        """What is kept of a finished job until its line is complete. Raises PellucidError."""

    @abstractmethod
    def body(self, results: Sequence[Any], *, key: str, created: int, with_receipts: bool) -> dict[str, Any]:
        """The answer."""


def work_of(llm: LLM, url: str, body: Mapping[str, Any], served: tuple[str, ...]) -> Work:
    """Raises InvalidParameter, UnsupportedParameter, ModelNotFound and TemplateError."""
    if url == EMBEDDINGS_PATH:
        return _Embeddings(llm, parse_embeddings(Body(body, EMBEDDINGS["properties"].keys())), served)
    if url not in (CHAT, COMPLETIONS):
        known = ", ".join((CHAT, COMPLETIONS, EMBEDDINGS_PATH))
        raise UnsupportedParameter("url", f"{show(url)} is not supported; use one of {known}")
    request = parse_request(url, body)
    request.require_model(served)
    if request.stream:
        raise UnsupportedParameter("stream", "a batch gives whole answers; remove it")
    for name in _SERVER_ONLY:
        if body.get(name):
            raise UnsupportedParameter(name, "is not supported in a batch; remove it")
    return _Answers(llm, request, served)


class _Answers(Work):
    def __init__(self, llm: LLM, request: OpenAIRequest, served: tuple[str, ...]) -> None:
        self._llm, self._request, self._served = llm, request, served
        self._turn: Turn | None = None

    def jobs(self, seed_of: Callable[[int], int]) -> list[Job[Any]]:
        llm, request, params = self._llm, self._request, self._request.params
        if request.endpoint == CHAT:
            turn = self._turn = llm._turns.turn(request.prompts[0], ChatOptions(**request.chat))
            params = chat_params(params, turn)
            encoders: list[Callable[[], EncodedPrompt]] = [lambda: (turn.prompt, turn.token_ids)]
        else:
            encoders = [partial(llm._prompt, prompt) for prompt in request.prompts]
        return [
            Job(k, encode, with_seed(params, seed_of(k)), request.priority or 0, request.cache_salt)
            for k, encode in enumerate(encoders)
        ]

    def result(self, done: Answered[Any]) -> RequestOutput:
        result = ChatReader(self._turn).result(build_result(self._llm._model, done.prompt, done.requests))
        for answer in result.outputs:
            if answer.finish_reason == "error":
                raise request_failure(answer.error, answer.error_param)
        return result

    def body(self, results: Sequence[RequestOutput], *, key: str, created: int, with_receipts: bool) -> dict[str, Any]:
        body = response_body(self._request.endpoint, results, key=key, model=self._served[0], created=created)
        if with_receipts:
            body["pellucid"] = receipts(results)
        return body


class _Embeddings(Work):
    def __init__(self, llm: LLM, request: EmbeddingsRequest, served: tuple[str, ...]) -> None:
        if request.model is not None and request.model not in served:
            raise ModelNotFound(f"model: {request.model[:200]!r} is not served here; ask for {served[0]!r}")
        self._llm, self._request, self._served = llm, request, served
        self._num_tokens = 0

    def jobs(self, seed_of: Callable[[int], int]) -> list[Job[Any]]:
        readout = partial(Pooler, self._request.pooling)
        return [
            Job(k, partial(self._llm._prompt, prompt), SamplingParams(), readout=readout)
            for k, prompt in enumerate(self._request.prompts)
        ]

    def result(self, done: Answered[Any]) -> bytes:
        [request] = done.requests
        if request.finish_reason != "stop" or not isinstance(request.readout, Pooler):
            raise ExecutorError(request.error or "the request failed")
        self._num_tokens += request.num_tokens
        vector = finished(request.readout.vector, self._request.normalize, self._request.dimensions)
        return vector.astype("<f4").tobytes()

    def body(self, results: Sequence[bytes], *, key: str, created: int, with_receipts: bool) -> dict[str, Any]:
        form, model = self._request.form, self._served[0]
        body = embeddings_body(results, form=form, model=model, num_tokens=self._num_tokens)
        return {**body, "pellucid": []} if with_receipts else body  # nothing that `pellucid verify` could replay
