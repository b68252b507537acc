"""AsyncLLM: the engine for programs built on asyncio. Many streams at once, each of which can be left at any moment.

One thread steps the engine (engine_thread.py). After a step it marks, for every request that moved, how far its reader
may read, and wakes each event loop once, however many streams moved. A reader makes its chunk itself, from what is
there when it gets to it: a slow one holds up nobody, and what it missed comes as one chunk. Prompts are rendered and
tokenised in worker threads, so a long one does not stop the loop.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any, Self

from pellucid.engine.engine import Engine
from pellucid.engine.engine_thread import EngineThread
from pellucid.engine.llm import LLM, EncodedPrompt, Message, Prompt
from pellucid.engine.loader import LoadedModel
from pellucid.engine.outputs import RequestOutput, StreamChunk
from pellucid.engine.request import Request
from pellucid.engine.results import AnswerStream, build_result
from pellucid.errors import InvalidParameter, InvalidRequest, PellucidError
from pellucid.fields import show
from pellucid.sampling import SamplingParams

MAX_REQUEST_ID_CHARS = 256
PROMPT_THREADS = 2

_Encode = Callable[[], EncodedPrompt]
_Add = Callable[[Sequence[int]], list[Request]]
"""Queues token ids in the engine, in the engine's thread."""


class AsyncLLM:
    """A model in memory, for asyncio. `AsyncLLM(model, **settings)` takes the fields of `EngineConfig`, as `LLM` does.

    Loading takes as long as it takes: do it before the loop starts, or with `asyncio.to_thread(AsyncLLM, model)`.
    Several event loops may share one AsyncLLM. Closing it (or leaving its `async with` block) ends what is running
    with finish_reason "abort" and frees everything.
    """

    def __init__(self, model: str, **settings: Any) -> None:
        """Raises ModelError when the model cannot be found, read or built; ResourceError; InvalidParameter."""
        self._llm = LLM(model, **settings)
        self.config = self._llm.config
        self.tokenizer = self._llm.tokenizer
        self._streams = _Streams(self._llm._engine)
        self._thread = EngineThread(self._llm._engine, self._streams)
        self._prompt_threads = ThreadPoolExecutor(PROMPT_THREADS, thread_name_prefix="pellucid-prompt")
        # Also runs when this object is collected, and before the interpreter ends: a daemon thread must not see that.
        self._close = weakref.finalize(self, _close, self._thread, self._llm, self._prompt_threads)

    @property
    def max_model_len(self) -> int:
        """Most tokens of prompt and answer together."""
        return self._llm.max_model_len

    def generate(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        request_id: str | None = None,
        priority: int = 0,
        tenant: str = "",
        cache_salt: str = "",
    ) -> AsyncAnswer:
        """Answer one prompt: `async for chunk in llm.generate(…)`, or `result = await llm.generate(…)` for the whole.

        The prompt is treated as by `LLM.generate`. `request_id` is a name for `abort`, and the result's; only one
        unfinished request may have it. `priority`, `tenant` and `cache_salt` are those of `Engine.add_request`. Leaving
        the loop, or cancelling the task that reads, ends the request.

        Raises InvalidRequest, when it is read, if the request cannot be served.
        """
        add = self._adder(params, priority=priority, tenant=tenant, cache_salt=cache_salt)

        def encode() -> EncodedPrompt:  # in a thread for prompts, so that the engine never waits for a grammar
            self._llm._engine.compile(params or SamplingParams())
            return self._llm._prompt(prompt)

        return AsyncAnswer(self, encode, add, _checked_id(request_id))

    def chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        request_id: str | None = None,
        priority: int = 0,
        tenant: str = "",
        cache_salt: str = "",
        add_generation_prompt: bool = True,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> AsyncAnswer:
        """Answer one conversation through the model's chat template; see `generate` and `LLM.chat`."""

        def encode() -> EncodedPrompt:
            self._llm._engine.compile(params or SamplingParams())
            return self._llm._render(messages, add_generation_prompt, chat_template_kwargs)

        add = self._adder(params, priority=priority, tenant=tenant, cache_salt=cache_salt)
        return AsyncAnswer(self, encode, add, _checked_id(request_id))

    async def abort(self, request_id: str) -> bool:
        """End the request of this name with "abort"; its blocks are free when this returns. False if there is none."""
        streams = self._streams
        return await asyncio.wrap_future(self._thread.submit(lambda: streams.abort(request_id)))

    async def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """See `LLM.tokenize`."""
        return await asyncio.get_running_loop().run_in_executor(
            self._prompt_threads,
            lambda: self._llm.tokenize(text, add_special=add_special, parse_special=parse_special),
        )

    def detokenize(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        return self._llm.detokenize(token_ids, skip_special_tokens=skip_special_tokens)

    async def close(self) -> None:
        """Free everything. Further calls raise InvalidRequest; closing twice is fine."""
        await asyncio.to_thread(self._close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _adder(self, params: SamplingParams | None, **admission: Any) -> _Add:
        if params is not None and not isinstance(params, SamplingParams):
            raise InvalidParameter("params", f"expected SamplingParams, got {show(params)}")
        return partial(self._llm._engine.add_request, params=params or SamplingParams(), **admission)

    async def _start(self, encode: _Encode, add: _Add, request_id: str | None, *, whole: bool) -> _Stream:
        loop = asyncio.get_running_loop()
        try:
            text, token_ids = await loop.run_in_executor(self._prompt_threads, encode)
        except RuntimeError:
            if self._close.alive:
                raise
            raise InvalidRequest("this AsyncLLM is closed") from None
        streams, stream = self._streams, _Stream(loop, self._llm._model, text, request_id, whole=whole)
        added = self._thread.submit(lambda: streams.add(stream, add, token_ids))
        try:
            await asyncio.wrap_future(added)
        except BaseException:
            self._leave(stream)
            raise
        return stream

    def _leave(self, stream: _Stream) -> None:
        """Free what is left of a stream that nobody reads any more."""
        if not stream.ended:
            streams = self._streams
            with suppress(PellucidError):  # the engine has stopped: everything is free
                self._thread.submit(lambda: streams.drop(stream))


class AsyncAnswer:
    """An answer on its way: iterate it for its chunks, or await it for the whole `RequestOutput`. Either, once.

    Nothing is queued until then.
    """

    def __init__(self, llm: AsyncLLM, encode: _Encode, add: _Add, request_id: str | None) -> None:
        self._llm = llm
        self._arguments = (encode, add, request_id)
        self._begun = False

    def __aiter__(self) -> AsyncIterator[StreamChunk]:
        """Each chunk is what came since the one before; the last one has the `result`."""
        self._begin()
        return self._chunks()

    def __await__(self) -> Generator[Any, None, RequestOutput]:
        self._begin()
        return self._whole().__await__()

    def _begin(self) -> None:
        if self._begun:
            raise InvalidRequest("this answer has been read already; call generate() or chat() again for another")
        self._begun = True

    async def _chunks(self) -> AsyncIterator[StreamChunk]:
        stream = await self._llm._start(*self._arguments, whole=False)
        try:
            while not stream.ended:
                await stream.moved()
                for chunk in stream.chunks():
                    yield chunk
        finally:
            self._llm._leave(stream)

    async def _whole(self) -> RequestOutput:
        stream = await self._llm._start(*self._arguments, whole=True)
        try:
            await stream.moved()
            return stream.result()
        finally:
            self._llm._leave(stream)


class _Stream:
    """One prompt's answers between the engine's thread, which publishes, and the task that reads."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        model: LoadedModel,
        prompt: str | None,
        request_id: str | None,
        *,
        whole: bool,
    ) -> None:
        self.loop = loop
        self.request_id = request_id
        self.whole = whole  # woken only when everything is there
        self.wake_is_due = False
        self.requests: list[Request] = []
        self.answers: dict[Request, AnswerStream] = {}
        self.num_running = 0
        self.finished = False  # published to the last token
        self.ended = False  # and its reader has got it
        self._model = model
        self._prompt = prompt
        self._moved = False
        self._waiter: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """In the loop's thread: something was published."""
        self.wake_is_due = False  # before anything is read, so that what is published after it wakes again
        self._moved = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def moved(self) -> None:
        """Wait until there is something that has not been read."""
        if not self._moved:
            self._waiter = self.loop.create_future()
            await self._waiter
        self._moved = False

    def chunks(self) -> list[StreamChunk]:
        """What is new; with the last of it, the result."""
        chunks = [c for answer in self.answers.values() if (c := answer.next_chunk()) is not None]
        if chunks and all(answer.ended for answer in self.answers.values()):
            chunks[-1] = replace(chunks[-1], result=self.result())
        return chunks

    def result(self) -> RequestOutput:
        self.ended = True
        result = build_result(self._model, self._prompt, self.requests)
        return result if self.request_id is None else replace(result, request_id=self.request_id)


class _Streams:
    """Every unfinished stream, by request and by name. All of it is called in the engine's thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._of: dict[Request, _Stream] = {}
        self._named: dict[str, _Stream] = {}

    def add(self, stream: _Stream, add: _Add, token_ids: Sequence[int]) -> None:
        name = stream.request_id
        if name is not None and name in self._named:
            raise InvalidParameter("request_id", f"{name!r} is still running; give each request a name of its own")
        stream.requests = add(token_ids)
        stream.answers = {request: AnswerStream(request) for request in stream.requests}
        stream.num_running = len(stream.requests)
        self._of.update(dict.fromkeys(stream.requests, stream))
        if name is not None:
            self._named[name] = stream

    def abort(self, name: str) -> bool:
        stream = self._named.get(name)
        if stream is not None:
            self._abort(stream)
        return stream is not None

    def drop(self, stream: _Stream) -> None:
        if stream.num_running:
            self._abort(stream)

    def progress(self, changed: Sequence[Request]) -> None:
        due: dict[asyncio.AbstractEventLoop, list[_Stream]] = {}
        for request in changed:
            stream = self._of.get(request)
            if stream is None:
                continue
            if stream.answers[request].publish():
                self._forget(stream, request)
            if not stream.wake_is_due and (stream.finished or not stream.whole):
                stream.wake_is_due = True
                due.setdefault(stream.loop, []).append(stream)
        for loop, streams in due.items():
            try:
                loop.call_soon_threadsafe(_wake, streams)
            except RuntimeError:  # this loop is closed, its tasks are gone
                for stream in streams:
                    self.drop(stream)

    def stopped(self, error: str | None) -> None:
        left = list(self._of)
        for request in left:
            if request.finish_reason is None:
                request.error, request.finish_reason = error, "error" if error else "abort"
                request.times.finished = perf_counter()
        self.progress(left)

    def _abort(self, stream: _Stream) -> None:
        running = [request for request in stream.requests if request in self._of]
        self._engine.abort(running)
        self.progress(running)

    def _forget(self, stream: _Stream, request: Request) -> None:
        del self._of[request]
        stream.num_running -= 1
        if stream.num_running == 0:
            stream.finished = True
            if stream.request_id is not None:
                del self._named[stream.request_id]


def _checked_id(request_id: str | None) -> str | None:
    if request_id is None or (isinstance(request_id, str) and 0 < len(request_id) <= MAX_REQUEST_ID_CHARS):
        return request_id
    raise InvalidParameter(
        "request_id", f"expected text of 1 to {MAX_REQUEST_ID_CHARS} characters, got {show(request_id)}"
    )


def _wake(streams: list[_Stream]) -> None:
    for stream in streams:
        stream.wake()


def _close(thread: EngineThread, llm: LLM, prompt_threads: ThreadPoolExecutor) -> None:
    thread.stop()
    prompt_threads.shutdown(wait=False, cancel_futures=True)
    llm.close()
