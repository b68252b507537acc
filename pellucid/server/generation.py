"""Generation: the prompts of one HTTP request, admitted, answered by one model and counted. Every route that writes
text goes through it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, nullcontext
from time import perf_counter
from typing import TYPE_CHECKING

from pellucid.engine.outputs import RequestOutput, StreamChunk
from pellucid.engine.results import request_failure
from pellucid.errors import InvalidParameter, PellucidError
from pellucid.sampling import SamplingParams
from pellucid.server.boundary import Call
from pellucid.server.errors import HttpError
from pellucid.server.messages import Finished, GenerateRequest, Started
from pellucid.server.state import ServerState

if TYPE_CHECKING:
    from pellucid.server.model_client import ModelClient

CHARS_PER_TOKEN = 3  # a low guess, for the queue's count until the engine has counted
GUESSED_ANSWER = 256  # of requests that set no max_tokens
QUEUED_CHUNKS = 64

Answer = Started | StreamChunk | Finished
_Answers = asyncio.Queue[tuple[int, Answer | Exception]]


class Generation:
    """Use one of `results` and `stream`, once."""

    def __init__(
        self, state: ServerState, call: Call, client: ModelClient, requests: Sequence[GenerateRequest]
    ) -> None:
        self._state = state
        self._call = call
        self._client = client
        self._requests = requests
        self.finished: dict[int, RequestOutput] = {}
        self._trace = None if call.trace is None else call.trace.answers(client.name, requests)

    async def results(self) -> list[RequestOutput]:
        """One for each prompt. Raises PellucidError."""
        async with aclosing(self.stream()) as stream:
            async for _ in stream:
                pass
        return [self.finished[i] for i in range(len(self._requests))]

    async def stream(self) -> AsyncGenerator[tuple[int, Started | StreamChunk], None]:
        """(prompt, what came of it). The results are in `finished` at the end. Raises PellucidError."""
        state, between_tokens = self._state, self._state.metrics.inter_token(self._client.name)
        not_started = len(self._requests)
        last: dict[tuple[int, int], float] = {}
        num_tokens = sum(map(self._num_tokens, self._requests))
        self._call.arrival.close()
        with self._trace or nullcontext(), state.admission.queue(num_tokens) as waiting:
            async with aclosing(self._answers()) as answers:
                async for i, answer in answers:
                    if isinstance(answer, StreamChunk):
                        now = perf_counter()
                        before = last.get(key := (i, answer.index))
                        if before is not None and answer.token_ids:
                            for _ in answer.token_ids:
                                between_tokens.observe((now - before) / len(answer.token_ids))
                        last[key] = now
                        if answer.finish_reason in ("error", "abort"):
                            raise failure(answer.finish_reason, answer.error, answer.error_param)
                        yield i, answer
                    elif isinstance(answer, Started):
                        not_started -= 1
                        if not_started == 0:
                            state.admission.started(waiting)
                        yield i, answer
                    else:
                        self._take(i, answer.result)

    def _take(self, i: int, result: RequestOutput) -> None:
        self._state.metrics.answered(self._client.name, result)
        for output in result.outputs:
            if output.finish_reason in ("error", "abort"):
                raise failure(output.finish_reason, output.error, output.error_param)
        self.finished[i] = result
        if self._trace is not None:
            self._trace.answered(i, result)
        if self._state.settings.log_prompts:
            self._call.notes[f"prompt_{i}"] = result.receipt.prompt or result.prompt_token_ids
            self._call.notes[f"answers_{i}"] = [output.text for output in result.outputs]
        if len(self.finished) == len(self._requests):
            usages = [r.usage for r in self.finished.values()]
            self._call.notes |= {
                "model": self._client.name,
                "prompt_tokens": sum(u.prompt_tokens for u in usages),
                "cached_tokens": sum(u.cached_tokens for u in usages),
                "completion_tokens": sum(u.completion_tokens for u in usages),
                "queue_seconds": round(max(r.metrics.queue_time for r in self.finished.values()), 4),
            }

    async def _answers(self) -> AsyncGenerator[tuple[int, Answer], None]:
        """Those of all prompts, as they come."""
        if len(self._requests) == 1:
            async with aclosing(self._client.generate(self._requests[0])) as answers:
                async for answer in answers:
                    yield 0, answer
            return
        queue: _Answers = asyncio.Queue(QUEUED_CHUNKS)
        tasks = [asyncio.create_task(self._pump(i, request, queue)) for i, request in enumerate(self._requests)]
        try:
            num_running = len(tasks)
            while num_running:
                i, found = await queue.get()
                if isinstance(found, Exception):
                    raise found
                num_running -= isinstance(found, Finished)
                yield i, found
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pump(self, i: int, request: GenerateRequest, queue: _Answers) -> None:
        try:
            async with aclosing(self._client.generate(request)) as answers:
                async for answer in answers:
                    await queue.put((i, answer))
        except Exception as error:
            await queue.put((i, error))

    def _num_tokens(self, request: GenerateRequest) -> int:
        """A guess that is never above what the context can hold: one that cannot be served keeps nobody else out."""
        if isinstance(request.prompt, list):
            prompt = len(request.prompt)
        elif request.prompt is not None:
            prompt = len(request.prompt) // CHARS_PER_TOKEN
        else:
            prompt = self._call.body_nbytes // CHARS_PER_TOKEN
        params: SamplingParams = request.params
        context = context_of(self._client)
        return min(prompt, context) + params.n * min(params.max_tokens or GUESSED_ANSWER, context)


def context_of(client: ModelClient) -> int:
    """The most tokens of a prompt with its answer; as good as no limit before the model has been loaded."""
    try:
        return client.info.max_model_len
    except PellucidError:
        return sys.maxsize


def failure(reason: str, error: str | None, param: str | None) -> Exception:
    """Why an answer that has begun was not ended by the model or a limit."""
    if reason == "abort":
        return HttpError(503, "aborted", "the server ended this answer", retry_after=1)
    return request_failure(error, param)


def priority_for(call: Call, wanted: int | None) -> int:
    """The priority of a request; never before what its key allows. Raises InvalidParameter."""
    least = 0 if call.key is None else call.key.priority
    if wanted is None:
        return least
    if call.key is not None and wanted < least:
        raise InvalidParameter("priority", f"this API key may ask for {least} or more, got {wanted}")
    return wanted
