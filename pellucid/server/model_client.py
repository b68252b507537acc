"""ModelClient: a model in an engine process, for the tasks of the front's event loop.

A call that the engine has not begun to compute when it is lost is put to the next one, once; the others raise
EngineRestarting: one of them may have been the reason. (Of calls but `generate` it is only known whether they have been
answered.) Leaving a call (an iterator closed, a task cancelled) ends it in the engine.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, TypeVar

from pellucid.config import EngineConfig
from pellucid.engine.outputs import StreamChunk
from pellucid.errors import EngineFailed, EngineRestarting, EngineUnavailable, InvalidParameter, PellucidError
from pellucid.fields import show
from pellucid.sampling import SamplingParams
from pellucid.server.channel import encode
from pellucid.server.logs import LogFormat
from pellucid.server.messages import (
    Answer,
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
    Failed,
    Finished,
    Generate,
    GenerateRequest,
    ModelInfo,
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
    on_the_wire,
    plain_texts,
    raised,
)
from pellucid.server.spawn import ENGINE_COMMAND
from pellucid.server.supervisor import Policy, State, Supervisor

A = TypeVar("A")
Prompt = str | Sequence[int]


class ModelClient:
    """One model. `start` (optional, before there is a loop), `attach`, calls, `close`.

    Calls may be made at any time after `attach`; those made while the model is loaded, or its engine started again,
    wait for it.
    """

    def __init__(
        self,
        name: str,
        settings: Mapping[str, Any],
        *,
        policy: Policy | None = None,
        command: Sequence[str] = ENGINE_COMMAND,
        log_format: LogFormat = "text",
    ) -> None:
        """`settings` are the keyword arguments of AsyncLLM, `model` among them; `log_format` is of the process's log,
        which goes to the standard error of this one. Raises InvalidParameter.
        """
        EngineConfig(**settings)
        self.name = name
        self._supervisor = Supervisor(name, dict(settings), self, policy=policy, command=command, log_format=log_format)
        self._calls: dict[int, _Call] = {}
        self._numbers = count(1)
        self._idle = asyncio.Event()

    @property
    def state(self) -> State:
        """ "loading", "ready", "stalled", "restarting", "failed" or "closed"; see supervisor.py."""
        return self._supervisor.state

    @property
    def failure(self) -> PellucidError | None:
        """Why the state is "failed"."""
        return self._supervisor.failure

    @property
    def info(self) -> ModelInfo:
        """Raises EngineUnavailable before the model has been loaded for the first time."""
        if self._supervisor.info is None:
            raise self.failure or EngineUnavailable(f"{self.name} is being loaded", self._supervisor.retry_after)
        return self._supervisor.info

    @property
    def stats(self) -> Stats:
        """Of the last heartbeat; totals go on counting when an engine has been replaced."""
        return self._supervisor.stats

    @property
    def num_restarts(self) -> int:
        return self._supervisor.num_restarts

    @property
    def num_calls(self) -> int:
        """Calls that have not been answered to the end."""
        return len(self._calls)

    def start(self) -> None:
        """Start the engine's process, so that it loads while the caller goes on; needs no loop. Raises EngineFailed."""
        self._supervisor.start()

    async def attach(self) -> None:
        """Belong to this event loop. Returns at once, whether the model is loaded or not. Raises EngineFailed."""
        await self._supervisor.attach()

    async def ready(self) -> None:
        """Wait for the model. Raises the ModelError or ResourceError that loading ended with, or EngineFailed."""
        await self._supervisor.ready()

    async def drained(self) -> None:
        """Wait until no call is left."""
        while self._calls:
            self._idle.clear()
            await self._idle.wait()

    async def close(self) -> None:
        """End the process and every call (they raise EngineUnavailable). Twice is fine."""
        await self._supervisor.close()

    def kill(self) -> None:
        """`close` for a caller who has no event loop (any more)."""
        self._supervisor.kill()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Started | StreamChunk | Finished, None]:
        """Answer one request: Started, chunks if it wants them, Finished.

        Raises InvalidRequest if it cannot be served, EngineRestarting if the engine was lost after it had started,
        EngineFailed, and whatever error of errors.py ended it.
        """
        if not isinstance(request.params, SamplingParams):
            raise InvalidParameter("params", f"expected SamplingParams, got {show(request.params)}")
        plain = on_the_wire(request)
        call = self._begin(lambda number: Generate(number, plain))
        try:
            while True:
                answer = await call.next_answer()
                if isinstance(answer, Chunk):
                    yield answer.chunk
                elif isinstance(answer, Started | Finished):
                    yield answer
                    if isinstance(answer, Finished):
                        return
        finally:
            self._leave(call)

    async def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """See `LLM.tokenize`."""
        return (await self._ask(lambda call: Tokenize(call, text, add_special, parse_special), Tokens)).token_ids

    async def detokenize(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """See `LLM.detokenize`. Raises InvalidParameter for an id that the model does not have."""
        ids = list(token_ids)
        return (await self._ask(lambda call: Detokenize(call, ids, skip_special_tokens), Text)).text

    async def render(self, request: RenderRequest) -> tuple[str, list[int]]:
        """The prompt that these messages become, and its token ids."""
        rendered = await self._ask(lambda call: Render(call, request), Rendered)
        return rendered.prompt, rendered.token_ids

    async def embed(self, texts: Sequence[Prompt], **options: Any) -> list[Embedding]:
        """One vector for each text; `options` are those of `LLM.embed`."""
        return (await self._ask(lambda call: Embed(call, plain_texts(texts), options), Embeddings)).items

    async def score(self, query: Prompt, documents: Sequence[Prompt], **options: Any) -> list[Similarity]:
        """How alike `query` is to each document; `options` are those of `LLM.score`."""
        [first] = plain_texts([query])
        return (await self._ask(lambda call: Score(call, first, plain_texts(documents), options), Scores)).items

    async def classify(self, texts: Sequence[str], labels: Sequence[str], **options: Any) -> list[Classification]:
        """The most likely label of each text; `options` are those of `LLM.classify`."""
        return (await self._ask(lambda call: Classify(call, list(texts), list(labels), options), Classifications)).items

    # ---- what the supervisor tells

    def engine_ready(self) -> None:
        for call in self._calls.values():
            if not call.posted:
                self._post(call)

    def engine_lost(self, begun: Collection[int] = ()) -> None:
        going_on = self.state in ("loading", "restarting")
        for call in [call for call in self._calls.values() if not call.ended]:
            if going_on and not (call.posted and (call.started or call.was_lost or call.number in begun)):
                call.was_lost = call.was_lost or call.posted
                call.posted = False
            else:
                call.fail(self._refusal())

    def engine_answered(self, answer: Answer) -> None:
        call = self._calls.get(answer.call)
        if call is not None:
            call.push(answer)

    # ---- calls

    async def _ask(self, make: Callable[[int], Command], expected: type[A]) -> A:
        call = self._begin(make)
        try:
            answer = await call.next_answer()
        finally:
            self._leave(call)
        assert isinstance(answer, expected), answer
        return answer

    def _begin(self, make: Callable[[int], Command]) -> _Call:
        if self.state in ("failed", "closed"):
            raise self._refusal()
        number = next(self._numbers)
        call = self._calls[number] = _Call(number, encode(make(number)))
        if self._supervisor.takes_commands:
            self._post(call)
        return call

    def _post(self, call: _Call) -> None:
        call.posted = True
        self._supervisor.post(call.encoded)

    def _leave(self, call: _Call) -> None:
        self._calls.pop(call.number, None)
        if call.posted and not call.ended:
            self._supervisor.post(encode(Cancel(call.number)))
        if not self._calls:
            self._idle.set()

    def _refusal(self) -> PellucidError:
        match self.state:
            case "failed" if isinstance(self.failure, EngineUnavailable):
                return EngineFailed(str(self.failure))
            case "failed":
                return EngineFailed(f"{self.name} cannot be loaded: {self.failure}")
            case "closed":
                return EngineUnavailable(f"{self.name} is being unloaded or the server is being stopped", retry_after=5)
        return EngineRestarting(
            f"the engine of {self.name} was lost while it answered this request; it is being started again",
            self._supervisor.retry_after,
        )


class _Call:
    """One call between the channel, which pushes answers, and the task that reads them."""

    def __init__(self, number: int, encoded: bytes) -> None:
        self.number = number
        self.encoded = encoded
        self.posted = False
        self.was_lost = False
        self.started = False
        self.ended = False
        self._answers: deque[Answer] = deque()
        self._error: PellucidError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def push(self, answer: Answer) -> None:
        if isinstance(answer, Failed):
            self.fail(raised(answer))
            return
        if isinstance(answer, Started):
            self.started, self.encoded = True, b""
        elif not isinstance(answer, Chunk):
            self.ended = True
        last = self._answers[-1] if self._answers else None
        if isinstance(answer, Chunk) and isinstance(last, Chunk) and _joinable(last.chunk, answer.chunk):
            self._answers[-1] = Chunk(self.number, _joined(last.chunk, answer.chunk))  # its reader is slow
        else:
            self._answers.append(answer)
        self._wake()

    def fail(self, error: PellucidError) -> None:
        self.ended = True
        self._error = error
        self._wake()

    async def next_answer(self) -> Answer:
        """The next one that has not been read. Raises what ended the call."""
        while not self._answers:
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._answers.popleft()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _joinable(earlier: StreamChunk, later: StreamChunk) -> bool:
    return earlier.index == later.index and earlier.finish_reason is None


def _joined(earlier: StreamChunk, later: StreamChunk) -> StreamChunk:
    return replace(
        later,
        text=earlier.text + later.text,
        reasoning=earlier.reasoning + later.reasoning,
        token_ids=earlier.token_ids + later.token_ids,
        logprobs=earlier.logprobs + later.logprobs,
        tool_calls=earlier.tool_calls + later.tool_calls,
    )
