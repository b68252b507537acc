"""AsyncLLM: the engine for programs built on asyncio. Many streams at once, each of which can be left at any moment.

One thread steps the engine (engine_thread.py) and publishes what came of it (streams.py). A slow reader holds up
nobody, and what it missed comes as one chunk. Prompts are rendered and tokenised in worker threads, so a long one does
not stop the loop.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, Self, TypeVar

from pellucid.chat.tools import ToolChoice
from pellucid.chat.turn import ChatOptions
from pellucid.engine.chat_answers import chat_params
from pellucid.engine.classify import ClassificationOutput
from pellucid.engine.engine_thread import EngineThread, StepProgress
from pellucid.engine.llm import LLM, Message, Prompt
from pellucid.engine.loader import LoadedModel
from pellucid.engine.outputs import RequestOutput, StreamChunk
from pellucid.engine.pooling import EmbeddingOutput, ScoreOutput
from pellucid.engine.reading import Reader
from pellucid.engine.streams import Add, Prepared, Stream, Streams
from pellucid.errors import InvalidParameter, InvalidRequest, PellucidError
from pellucid.fields import show
from pellucid.sampling import SamplingParams
from pellucid.thread_pool import started_pool

MAX_REQUEST_ID_CHARS = 256
PROMPT_THREADS = 2
READING_THREADS = 4

_T = TypeVar("_T")
_Prepare = Callable[[], Prepared]
"""Done in a thread for prompts: it may take a while, to tokenise a long text or to wait for a grammar."""


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
        self._streams = Streams(self._llm._engine)
        self._thread = EngineThread(self._llm._engine, self._streams)
        self._prompt_threads = started_pool(PROMPT_THREADS, "pellucid-prompt")
        self._reading_threads = started_pool(READING_THREADS, "pellucid-reading")
        # Also runs when this object is collected, and before the interpreter ends: a daemon thread must not see that.
        pools = (self._prompt_threads, self._reading_threads)
        self._close = weakref.finalize(self, _close, self._thread, self._llm, *pools)

    @property
    def model(self) -> LoadedModel:
        """What was loaded: configuration, program, tokenizer, chat template."""
        return self._llm._model

    @property
    def progress(self) -> StepProgress:
        """How the engine is getting on."""
        return self._thread.progress

    @property
    def failure(self) -> str | None:
        """Why no step will ever follow, if that is so; every request ends with an error then."""
        return self._thread.failure

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
        given = _checked_params(params)
        llm = self._llm

        def prepare() -> Prepared:
            return Prepared(*llm._prompt(prompt), given, llm._engine.grammar(given))

        add = partial(llm._engine.add_request, priority=priority, tenant=tenant, cache_salt=cache_salt)
        return AsyncAnswer(self, prepare, add, _checked_id(request_id))

    def chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        request_id: str | None = None,
        priority: int = 0,
        tenant: str = "",
        cache_salt: str = "",
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: ToolChoice = "auto",
        parallel_tool_calls: bool = True,
        tool_parser: str | None = None,
        tool_prompt: bool | None = None,
        reasoning_parser: str | None = None,
        add_generation_prompt: bool = True,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> AsyncAnswer:
        """Answer one conversation through the model's chat template; see `generate`, and `LLM.chat` for the rest."""
        given = _checked_params(params)
        options = ChatOptions(
            tools=tools,
            tool_choice=tool_choice,
            parallel_tool_calls=parallel_tool_calls,
            tool_parser=tool_parser,
            tool_prompt=tool_prompt,
            reasoning_parser=reasoning_parser,
            add_generation_prompt=add_generation_prompt,
            chat_template_kwargs=chat_template_kwargs,
        )
        llm = self._llm

        def prepare() -> Prepared:
            turn = llm._turns.turn(messages, options)
            effective = chat_params(given, turn)
            return Prepared(turn.prompt, turn.token_ids, effective, llm._engine.grammar(effective), turn)

        add = partial(llm._engine.add_request, priority=priority, tenant=tenant, cache_salt=cache_salt)
        return AsyncAnswer(self, prepare, add, _checked_id(request_id))

    async def embed(self, texts: Prompt | Sequence[Prompt], **options: Any) -> list[EmbeddingOutput]:
        """See `LLM.embed`. The texts are computed in the same steps as whatever else runs."""
        return await self._read(lambda llm, reader: llm._embed(reader, texts, **options))

    async def score(self, query: Prompt, documents: Prompt | Sequence[Prompt], **options: Any) -> list[ScoreOutput]:
        """See `LLM.score`."""
        return await self._read(lambda llm, reader: llm._score(reader, query, documents, **options))

    async def classify(
        self, texts: str | Sequence[str], labels: Sequence[str], **options: Any
    ) -> list[ClassificationOutput]:
        """See `LLM.classify`."""
        return await self._read(lambda llm, reader: llm._classify(reader, texts, labels, **options))

    async def abort(self, request_id: str) -> bool:
        """End the request of this name with "abort"; its blocks are free when this returns. False if there is none."""
        streams = self._streams
        return await asyncio.wrap_future(self._thread.submit(lambda: streams.abort(request_id)))

    async def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """See `LLM.tokenize`."""
        return await self._in_thread(
            self._prompt_threads,
            lambda: self._llm.tokenize(text, add_special=add_special, parse_special=parse_special),
        )

    async def render(self, messages: Sequence[Message], **options: Any) -> tuple[str, list[int]]:
        """The prompt that a conversation becomes, and its token ids; `options` are those of `chat` about prompts."""
        chat_options = ChatOptions(**options)
        turn = await self._in_thread(self._prompt_threads, lambda: self._llm._turns.turn(messages, chat_options))
        return turn.prompt, turn.token_ids

    def detokenize(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        return self._llm.detokenize(token_ids, skip_special_tokens=skip_special_tokens)

    async def close(self) -> None:
        """Free everything. Further calls raise InvalidRequest; closing twice is fine."""
        await asyncio.to_thread(self._close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _start(
        self,
        prepare: _Prepare,
        add: Add,
        request_id: str | None,
        on_moved: Callable[[Stream], None],
        *,
        whole: bool,
        on_begun: Callable[[], None] | None = None,
    ) -> Stream:
        prepared = await self._in_thread(self._prompt_threads, prepare)
        if prepared.grammar is not None:  # waited for here: a thread for prompts is needed by others
            await _result_of(prepared.grammar)
        loop, model = asyncio.get_running_loop(), self._llm._model
        streams = self._streams
        stream = Stream(loop, model, prepared, request_id, on_moved, whole=whole, on_begun=on_begun)
        added = self._thread.submit(lambda: streams.add(stream, add))
        try:
            await asyncio.wrap_future(added)
        except BaseException:
            self._leave(stream)
            raise
        return stream

    def _leave(self, stream: Stream) -> None:
        """Free what is left of a stream that nobody reads any more."""
        if not stream.ended:
            streams = self._streams
            with suppress(PellucidError):  # the engine has stopped: everything is free
                self._thread.submit(lambda: streams.drop(stream))

    async def _read(self, work: Callable[[LLM, Reader], _T]) -> _T:
        """Do `work` in a thread for reading. Cancelled, it ends with the next step."""
        cancelled = threading.Event()

        def drive(turn: Callable[[], None]) -> None:
            self._thread.submit(turn).result()
            if cancelled.is_set():
                raise InvalidRequest("nobody waits for this any more")

        reader = Reader(self._llm._engine, drive, max_queued=2 * self.config.max_num_seqs)
        try:
            return await self._in_thread(self._reading_threads, lambda: work(self._llm, reader))
        finally:
            cancelled.set()

    async def _in_thread(self, threads: ThreadPoolExecutor, work: Callable[[], _T]) -> _T:
        try:
            waiting = asyncio.get_running_loop().run_in_executor(threads, work)
        except RuntimeError:
            if self._close.alive:
                raise
            raise InvalidRequest("this AsyncLLM is closed") from None
        return await waiting


class AsyncAnswer:
    """An answer on its way: iterate it for its chunks, or await it for the whole `RequestOutput`. Either, once.

    Nothing is queued until then.
    """

    def __init__(self, llm: AsyncLLM, prepare: _Prepare, add: Add, request_id: str | None) -> None:
        self._llm = llm
        self._arguments = (prepare, add, request_id)
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

    async def open(self, on_moved: Callable[[Stream], None], *, on_begun: Callable[[], None] | None = None) -> Stream:
        """Queue the request for a reader who is called rather than waits: see `Stream`. `leave` when it is not wanted.

        Raises InvalidRequest if it cannot be served.
        """
        self._begin()
        return await self._llm._start(*self._arguments, on_moved, whole=False, on_begun=on_begun)

    def leave(self, stream: Stream) -> None:
        """Nobody reads `stream` any more: what is left of it is freed."""
        self._llm._leave(stream)

    async def _chunks(self) -> AsyncIterator[StreamChunk]:
        moved = asyncio.Event()
        stream = await self._llm._start(*self._arguments, lambda _: moved.set(), whole=False)
        try:
            while not stream.ended:
                await moved.wait()
                moved.clear()
                for chunk in stream.chunks():
                    yield chunk
        finally:
            self._llm._leave(stream)

    async def _whole(self) -> RequestOutput:
        finished = asyncio.Event()
        stream = await self._llm._start(*self._arguments, lambda _: finished.set(), whole=True)
        try:
            await finished.wait()
            return stream.result()
        finally:
            self._llm._leave(stream)


async def _result_of(shared: Future[_T]) -> _T:
    """Wait for a future that others wait for, too: cancelling this does not cancel it."""
    own = asyncio.wrap_future(shared)
    own.add_done_callback(lambda done: done.cancelled() or done.exception())  # it may fail when nobody waits any more
    return await asyncio.shield(own)


def _checked_params(params: SamplingParams | None) -> SamplingParams:
    if params is not None and not isinstance(params, SamplingParams):
        raise InvalidParameter("params", f"expected SamplingParams, got {show(params)}")
    return params or SamplingParams()


def _checked_id(request_id: str | None) -> str | None:
    if request_id is None or (isinstance(request_id, str) and 0 < len(request_id) <= MAX_REQUEST_ID_CHARS):
        return request_id
    raise InvalidParameter(
        "request_id", f"expected text of 1 to {MAX_REQUEST_ID_CHARS} characters, got {show(request_id)}"
    )


def _close(thread: EngineThread, llm: LLM, *pools: ThreadPoolExecutor) -> None:
    thread.stop()
    for pool in pools:
        pool.shutdown(wait=False, cancel_futures=True)
    llm.close()
