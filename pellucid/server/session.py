"""EngineSession: the front's calls on one AsyncLLM, in the engine process.

What may not enter here: anything that takes time (the loop must go on reading, writing and giving heartbeats). Prompts
are rendered and tokenised in AsyncLLM's threads; chunks are made here when the front can take them, so that a front
that reads slowly finds more in each chunk and costs no memory.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from pellucid.engine.async_engine import AsyncAnswer, AsyncLLM
from pellucid.engine.classify import ClassificationOutput
from pellucid.engine.streams import Stream
from pellucid.errors import PellucidError
from pellucid.server.begun import BegunCalls
from pellucid.server.channel import Channel, encode
from pellucid.server.messages import (
    Cancel,
    Chunk,
    Classification,
    Classifications,
    Classify,
    Command,
    Detokenize,
    Embed,
    Embedding,
    Embeddings,
    Finished,
    Generate,
    GenerateRequest,
    Message,
    Render,
    Rendered,
    RenderRequest,
    Score,
    Scores,
    Similarity,
    Started,
    Stats,
    Text,
    Tokenize,
    Tokens,
    failed,
    params_of,
)

logger = logging.getLogger(__name__)


class EngineSession:
    """Carries out commands; every call ends with exactly one answer that says so, unless it is cancelled."""

    def __init__(self, llm: AsyncLLM, channel: Channel[Command], begun: BegunCalls) -> None:
        """`begun` is told of every Generate, before the first step that has to do with it."""
        self._llm = llm
        self._begun = begun
        self._channel = channel
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._answering: dict[int, _Answering] = {}
        self._held: dict[int, _Answering] = {}  # moved while the front could take nothing

    def carry_out(self, command: Command) -> None:
        match command:
            case Cancel():
                self._cancel(command.call)
            case Generate():
                self._begin(command.call, self._generate(command.call, command.request), command.request.request_id)
            case Tokenize():
                self._begin(command.call, self._tokenize(command))
            case Detokenize():
                self._begin(command.call, self._detokenize(command))
            case Render():
                self._begin(command.call, self._render(command.call, command.request))
            case Embed():
                self._begin(command.call, self._embed(command))
            case Score():
                self._begin(command.call, self._score(command))
            case Classify():
                self._begin(command.call, self._classify(command))

    def writable(self) -> None:
        """The front can take something again."""
        held, self._held = self._held, {}
        for answering in held.values():
            if answering.stream is not None:
                self._moved(answering, answering.stream)

    @property
    def is_over(self) -> bool:
        """The engine has failed as a whole. Nothing is answered any more: whoever waits is told that it was lost."""
        return self._llm.failure is not None

    @property
    def stats(self) -> Stats:
        progress = self._llm.progress
        return Stats(seconds_without_step=progress.seconds_without_step, **vars(progress.stats))

    def _begin(self, call: int, work: Coroutine[Any, Any, None], request_id: str = "") -> None:
        self._tasks[call] = asyncio.get_running_loop().create_task(self._guarded(call, work, request_id))

    async def _guarded(self, call: int, work: Coroutine[Any, Any, None], request_id: str) -> None:
        """One call cannot hurt another: whatever it raises is its answer."""
        try:
            await work
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # panics of Rust extensions are no Exceptions
            self._report(call, error, request_id)
        finally:
            del self._tasks[call]

    def _cancel(self, call: int) -> None:
        if (task := self._tasks.get(call)) is not None:
            task.cancel()
        elif (answering := self._answering.get(call)) is not None:
            self._end(answering)

    async def _generate(self, call: int, request: GenerateRequest) -> None:
        """Queue it; from then on the engine says when there is something to send."""
        answer = self._answer(request)
        answering = _Answering(call, request, answer)
        try:
            answering.stream = await answer.open(
                lambda stream: self._moved(answering, stream), on_begun=lambda: self._begun.add(call)
            )
        except BaseException:
            answering.ended = True
            raise
        if not answering.ended:
            self._answering[call] = answering

    def _answer(self, request: GenerateRequest) -> AsyncAnswer:
        params = params_of(request)
        admission: dict[str, Any] = {
            "request_id": request.request_id or None,
            "priority": request.priority,
            "tenant": request.tenant,
            "cache_salt": request.cache_salt,
        }
        if request.messages is None:
            return self._llm.generate(request.prompt if request.prompt is not None else "", params, **admission)
        return self._llm.chat(
            request.messages,
            params,
            **admission,
            tools=request.tools,
            tool_choice=request.tool_choice,
            parallel_tool_calls=request.parallel_tool_calls,
            tool_parser=request.tool_parser,
            tool_prompt=request.tool_prompt,
            reasoning_parser=request.reasoning_parser,
            add_generation_prompt=request.add_generation_prompt,
            chat_template_kwargs=request.chat_template_kwargs,
        )

    def _moved(self, answering: _Answering, stream: Stream) -> None:
        answering.stream = stream
        if answering.ended or self.is_over:
            return
        if not self._channel.is_writable:
            self._held[answering.call] = answering
            return
        try:
            self._send(answering, stream)
        except Exception as error:
            self._report(answering.call, error, answering.request_id)
            self._end(answering)

    def _send(self, answering: _Answering, stream: Stream) -> None:
        """What is new of an answer."""
        call = answering.call
        if not answering.started and any(request.times.first_token for request in stream.requests):
            answering.started = True
            first = stream.requests[0]
            self._post(Started(call, first.num_prompt_tokens, first.num_cached_tokens))
            stream.whole = not answering.streams
        if answering.streams:
            chunks = stream.chunks()
            result = chunks[-1].result if chunks else None
            for chunk in chunks:
                self._post(Chunk(call, chunk if chunk.result is None else replace(chunk, result=None)))
        else:
            result = stream.result() if stream.finished else None
        if result is not None:
            self._post(Finished(call, result))
            self._end(answering)

    def _end(self, answering: _Answering) -> None:
        """Nothing more is sent; what may be left of it in the engine is freed."""
        answering.ended = True
        self._answering.pop(answering.call, None)
        self._held.pop(answering.call, None)
        if answering.stream is not None:
            answering.answer.leave(answering.stream)

    async def _tokenize(self, command: Tokenize) -> None:
        token_ids = await self._llm.tokenize(
            command.text, add_special=command.add_special, parse_special=command.parse_special
        )
        self._post(Tokens(command.call, token_ids))

    async def _detokenize(self, command: Detokenize) -> None:
        skip = command.skip_special_tokens
        text = await asyncio.to_thread(self._llm.detokenize, command.token_ids, skip_special_tokens=skip)
        self._post(Text(command.call, text))

    async def _render(self, call: int, request: RenderRequest) -> None:
        prompt, token_ids = await self._llm.render(
            request.messages,
            tools=request.tools,
            tool_choice=request.tool_choice,
            add_generation_prompt=request.add_generation_prompt,
            chat_template_kwargs=request.chat_template_kwargs,
        )
        self._post(Rendered(call, prompt, token_ids))

    async def _embed(self, command: Embed) -> None:
        found = await self._llm.embed(command.texts, **command.options)
        items = [Embedding(e.embedding.astype("<f4").tobytes(), e.usage.prompt_tokens) for e in found]
        self._post(Embeddings(command.call, items))

    async def _score(self, command: Score) -> None:
        found = await self._llm.score(command.query, command.documents, **command.options)
        self._post(Scores(command.call, [Similarity(s.score, s.usage.prompt_tokens) for s in found]))

    async def _classify(self, command: Classify) -> None:
        found = await self._llm.classify(command.texts, command.labels, **command.options)
        self._post(Classifications(command.call, [_classification(c) for c in found]))

    def _report(self, call: int, error: BaseException, request_id: str) -> None:
        if self.is_over:
            return
        if not isinstance(error, PellucidError):  # what it says may quote anything: that is for the log
            logger.error("a request failed", exc_info=error, extra={"fields": {"request_id": request_id}})
            error = PellucidError(f"internal error ({type(error).__name__}); the log has the details")
        self._post(failed(call, error))

    def _post(self, message: Message) -> None:
        self._channel.post(encode(message))


class _Answering:
    """A Generate that is in the engine, or on its way there."""

    def __init__(self, call: int, request: GenerateRequest, answer: AsyncAnswer) -> None:
        self.call = call
        self.request_id = request.request_id
        self.streams = request.stream
        self.answer = answer
        self.stream: Stream | None = None
        self.started = False
        self.ended = False


def _classification(found: ClassificationOutput) -> Classification:
    sentences = found.sentence_contributions
    return Classification(
        found.label,
        found.probabilities,
        found.usage.prompt_tokens,
        None if sentences is None else [(s.text, s.contribution) for s in sentences],
    )
