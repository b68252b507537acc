"""A ModelClient and a registry that follow a script: the HTTP side is tested in milliseconds, without a model."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncGenerator, Callable
from typing import Any

from pellucid.chat.history import template_messages
from pellucid.chat.tools import checked_toolbox
from pellucid.engine.outputs import (
    CompletionOutput,
    Logprob,
    Metrics,
    ModelReceipt,
    Receipt,
    RequestOutput,
    StreamChunk,
    Usage,
)
from pellucid.errors import InvalidParameter, ModelNotFound
from pellucid.server.messages import (
    Classification,
    Embedding,
    Finished,
    GenerateRequest,
    ModelInfo,
    RenderRequest,
    Similarity,
    Started,
    Stats,
)
from pellucid.text.messages import checked_messages

SCRIPT = ("Once", " upon", " a", " time")
MODEL = ModelReceipt("0", "/models/secret-folder/m.gguf", "llama", "Q4_1", "cpu", "avx2", 2, "f32", "int16", 512)


class ScriptedClient:
    """`requests` are those that came; `left` counts those that were left before their end."""

    def __init__(self, name: str = "m", script: tuple[str, ...] = SCRIPT) -> None:
        self.name = name
        self.script = script
        self.state = "ready"
        self.stats = Stats(num_running=1, kv_cache_usage=0.4, prompt_tokens_total=7)
        self.num_restarts = 0
        self.requests: list[GenerateRequest] = []
        self.left = 0
        self.before_start: Callable[[GenerateRequest], Any] = lambda request: None
        self.before_token: Callable[[GenerateRequest, int], Any] = lambda request, i: None
        self.info = ModelInfo(
            receipt=MODEL,
            vocab_size=100,
            hidden_size=4,
            has_chat_template=True,
            max_num_seqs=4,
            max_num_batched_tokens=64,
            num_blocks=10,
            block_size=16,
            load_seconds=0.1,
        )

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Any, None]:
        self.requests.append(request)
        n, done = request.params.n, False
        try:
            if request.messages is not None:
                checked_toolbox(request.tools, request.tool_choice, request.parallel_tool_calls)
                _checked(request.messages)
            await _maybe(self.before_start(request))
            yield Started(0, 5, 2)
            for i, text in enumerate(self.script):
                await _maybe(self.before_token(request, i))
                for index in range(n) if request.stream else ():
                    last = i == len(self.script) - 1
                    logprobs = [_position(i, text)] if request.params.logprobs is not None else []
                    echo = _echo(request) if i == 0 else ""
                    yield StreamChunk(index, echo + text, [i], logprobs, "stop" if last else None)
            yield Finished(0, self.result(request))
            done = True
        finally:
            self.left += not done

    def result(self, request: GenerateRequest) -> RequestOutput:
        positions = [_position(i, text) for i, text in enumerate(self.script)]
        logprobs = positions if request.params.logprobs is not None else None
        outputs = [
            CompletionOutput(i, _echo(request) + "".join(self.script), list(range(len(self.script))), logprobs, "stop")
            for i in range(request.params.n)
        ]
        prompt = request.prompt if isinstance(request.prompt, str) else None
        return RequestOutput(
            request.request_id,
            prompt,
            [1, 2, 3, 4, 5],
            None if request.params.prompt_logprobs is None else [None, *(_position(i, f"{i}") for i in range(2, 6))],
            outputs,
            Usage(5, len(self.script) * len(outputs), 5 + len(self.script) * len(outputs), 2),
            Metrics(0.01, 0.02, 0.1, 100.0, 50.0, 0),
            Receipt(
                **vars(MODEL),
                prompt=prompt,
                sampling_params=request.params.as_dict(),
                seed=request.params.seed or 7,
                cached_tokens=2,
            ),
        )

    async def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        return [1] * add_special + [len(word) for word in text.split()]

    async def detokenize(self, token_ids: list[int], *, skip_special_tokens: bool = False) -> str:
        return " ".join(map(str, token_ids))

    async def render(self, request: RenderRequest) -> tuple[str, list[int]]:
        checked_toolbox(request.tools, request.tool_choice)
        prompt = "".join(f"<{m['role']}>{m.get('content')}" for m in _checked(request.messages))
        return prompt, list(range(len(prompt)))

    async def embed(self, texts: list[Any], **options: Any) -> list[Embedding]:
        return [Embedding(array("f", [1.0, 0.5, float(len(text))]).tobytes(), len(text)) for text in texts]

    async def score(self, query: str, documents: list[str], **options: Any) -> list[Similarity]:
        return [Similarity(1.0 / (1 + abs(len(query) - len(document))), len(document)) for document in documents]

    async def classify(self, texts: list[str], labels: list[str], **options: Any) -> list[Classification]:
        share = 1 / len(labels)
        return [Classification(labels[0], dict.fromkeys(labels, share), len(text), None) for text in texts]


def _echo(request: GenerateRequest) -> str:
    return str(request.prompt) if request.params.echo else ""


class ScriptedRegistry:
    def __init__(self, *clients: ScriptedClient) -> None:
        self.clients = {client.name: client for client in clients}
        self.names = {client.name: client.name for client in clients}
        self._all = dict(self.clients)

    async def load(self, name: str) -> None:
        self.clients[name] = self._all[name]

    async def unload(self, name: str) -> None:
        self.clients.pop(name, None)

    def get(self, name: str | None) -> ScriptedClient:
        if name is None and len(self.clients) == 1:
            return next(iter(self.clients.values()))
        if name not in self.clients:
            raise ModelNotFound(f"model: {str(name)[:80]!r} is not served here")
        return self.clients[name]


def _checked(messages: Any) -> list[dict[str, Any]]:
    """What a chat template would get."""
    if not isinstance(messages, list):
        raise InvalidParameter("messages", "expected a list")
    return checked_messages(template_messages(messages, short_ids=False))


def _position(i: int, text: str) -> dict[int, Logprob]:
    return {i: Logprob(-0.5, 1, text), i + 50: Logprob(-1.5, 2, "x")}


async def _maybe(value: Any) -> None:
    if asyncio.iscoroutine(value):
        await value
