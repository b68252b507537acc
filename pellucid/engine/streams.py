"""Streams: answers on their way from the engine's thread, which publishes, to readers on event loops.

After a step, `Streams` marks for every request that moved how far its reader may read, and wakes each event loop once,
however many streams moved. A reader makes its chunks itself, from what is there when it gets to it.

What may not enter here: steps (engine_thread.py), prompts and arguments (async_engine.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

from pellucid.chat.turn import Turn
from pellucid.engine.chat_answers import ChatReader
from pellucid.engine.engine import Engine
from pellucid.engine.loader import LoadedModel
from pellucid.engine.outputs import RequestOutput, StreamChunk
from pellucid.engine.request import Request
from pellucid.engine.results import AnswerStream, build_result
from pellucid.errors import InvalidParameter
from pellucid.sampling import SamplingParams


@dataclass(frozen=True)
class Prepared:
    """A request ready for the engine: its text (None for token ids), and for a chat how the answers are read."""

    prompt: str | None
    token_ids: Sequence[int]
    params: SamplingParams
    grammar: Future[Any] | None = None  # that must be compiled first
    turn: Turn | None = None


Add = Callable[[Sequence[int], SamplingParams], list[Request]]
"""Queues a prompt in the engine, in the engine's thread."""


class Stream:
    """One prompt's answers between the engine's thread, which publishes, and whoever reads.

    `on_moved` is called on the reader's event loop when something was published since it was called last: after each
    step that gave a token or, while `whole` is set, only when everything is there. `on_begun` is called in the
    engine's thread, before the first step that has to do with it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        model: LoadedModel,
        prepared: Prepared,
        request_id: str | None,
        on_moved: Callable[[Stream], None],
        *,
        whole: bool,
        on_begun: Callable[[], None] | None = None,
    ) -> None:
        self.loop = loop
        self.request_id = request_id
        self.whole = whole
        self.wake_is_due = False
        self.requests: list[Request] = []
        self.answers: dict[Request, AnswerStream] = {}
        self.num_running = 0
        self.finished = False  # published to the last token
        self.ended = False  # and its reader has got it
        self._model = model
        self.prepared = prepared
        self._reader = ChatReader(prepared.turn)
        self._on_moved = on_moved
        self._on_begun = on_begun

    def wake(self) -> None:
        """In the loop's thread: something was published."""
        self.wake_is_due = False  # before anything is read, so that what is published after it wakes again
        self._on_moved(self)

    def begin(self) -> None:
        """In the engine's thread, once."""
        if self._on_begun is not None:
            self._on_begun()
            self._on_begun = None

    def chunks(self) -> list[StreamChunk]:
        """What is new; with the last of it, the result."""
        chunks = [
            self._reader.chunk(chunk, request)
            for request, answer in self.answers.items()
            if (chunk := answer.next_chunk()) is not None
        ]
        if chunks and all(answer.ended for answer in self.answers.values()):
            chunks[-1] = replace(chunks[-1], result=self.result())
        return chunks

    def result(self) -> RequestOutput:
        self.ended = True
        result = self._reader.result(build_result(self._model, self.prepared.prompt, self.requests))
        return result if self.request_id is None else replace(result, request_id=self.request_id)


class Streams:
    """Every unfinished stream, by request and by name. All of it is called in the engine's thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._of: dict[Request, Stream] = {}
        self._named: dict[str, Stream] = {}

    def add(self, stream: Stream, add: Add) -> None:
        name = stream.request_id
        if name is not None and name in self._named:
            raise InvalidParameter("request_id", f"{name!r} is still running; give each request a name of its own")
        stream.requests = add(stream.prepared.token_ids, stream.prepared.params)
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

    def drop(self, stream: Stream) -> None:
        if stream.num_running:
            self._abort(stream)

    def begin(self, request: Request) -> None:
        """Before the first step of `request`, which may be a member of a contest."""
        stream = self._of.get(request if request.contest is None else request.contest.answers[0])
        if stream is not None:
            stream.begin()

    def progress(self, changed: Sequence[Request]) -> None:
        due: dict[asyncio.AbstractEventLoop, list[Stream]] = {}
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

    def _abort(self, stream: Stream) -> None:
        running = [request for request in stream.requests if request in self._of]
        self._engine.abort(running)
        self.progress(running)

    def _forget(self, stream: Stream, request: Request) -> None:
        del self._of[request]
        stream.num_running -= 1
        if stream.num_running == 0:
            stream.finished = True
            if stream.request_id is not None:
                del self._named[stream.request_id]


def _wake(streams: list[Stream]) -> None:
    for stream in streams:
        stream.wake()
