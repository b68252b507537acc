"""/v1/chat/completions and /v1/completions."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from time import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from pellucid.api.answer_schemas import CHAT_ANSWER, CHAT_EVENTS, COMPLETION_ANSWER, COMPLETION_EVENTS
from pellucid.api.openai_requests import OpenAIRequest, parse_request
from pellucid.api.openai_responses import response_body, server_receipt, with_prompt
from pellucid.api.openai_schemas import BODIES, CHAT, COMPLETIONS, REFUSED, fields_of
from pellucid.api.openai_streams import OpenAIStream
from pellucid.engine.outputs import RequestOutput, StreamChunk
from pellucid.server.bodies import read_object, without_unknown
from pellucid.server.boundary import Call, call_of
from pellucid.server.generation import Generation, priority_for
from pellucid.server.messages import GenerateRequest
from pellucid.server.openapi import described
from pellucid.server.sse import DONE, EventStream, event, json_response, until_disconnected
from pellucid.server.state import state_of

router = APIRouter()


@router.post(CHAT, **described("Answer a conversation", BODIES[CHAT], answer=CHAT_ANSWER, events=CHAT_EVENTS))
async def chat_completions(request: Request) -> Response:
    return await _answer(request, CHAT)


@router.post(
    COMPLETIONS,
    **described("Go on with a text", BODIES[COMPLETIONS], answer=COMPLETION_ANSWER, events=COMPLETION_EVENTS),
)
async def completions(request: Request) -> Response:
    return await _answer(request, COMPLETIONS)


async def _answer(request: Request, endpoint: str) -> Response:
    state, call = state_of(request), call_of(request.scope)
    body = without_unknown(request, await read_object(request), fields_of(endpoint) | REFUSED)
    asked = parse_request(endpoint, body)
    client = state.registry.get(asked.model)
    generation = Generation(state, call, client, generate_requests(asked, call))
    key, created = secrets.token_hex(12), int(time())
    if asked.stream:
        shape = OpenAIStream(
            endpoint,
            key=key,
            model=client.name,
            created=created,
            top=asked.params.logprobs,
            with_usage=asked.stream_usage,
        )
        return EventStream(_events(generation, asked, shape))
    results = await until_disconnected(request.receive, generation.results())
    answer = response_body(endpoint, results, key=key, model=client.name, created=created, cached=True)
    if asked.params.echo and asked.params.logprobs is not None:
        for i, result in enumerate(results):
            first = await client.detokenize(result.prompt_token_ids[:1])
            for choice in answer["choices"][i * asked.params.n : (i + 1) * asked.params.n]:
                choice["logprobs"] = with_prompt(choice["logprobs"], result, first, choice["text"])
    if asked.receipt:
        answer["receipt"] = _receipts(results)
    return json_response(answer)


def generate_requests(asked: OpenAIRequest, call: Call) -> list[GenerateRequest]:
    """One for each prompt of a body."""
    common: dict[str, Any] = {
        "params": asked.params,
        "stream": asked.stream,
        "priority": priority_for(call, asked.priority),
        "tenant": call.tenant,
        "cache_salt": asked.cache_salt,
    }
    if asked.endpoint == CHAT:
        return [GenerateRequest(messages=asked.prompts[0], request_id=call.request_id, **common, **asked.chat)]
    return [
        GenerateRequest(prompt=prompt, request_id=f"{call.request_id}-{i}", **common)
        for i, prompt in enumerate(asked.prompts)
    ]


async def _events(generation: Generation, asked: OpenAIRequest, shape: OpenAIStream) -> AsyncGenerator[bytes, None]:
    n = asked.params.n
    async with aclosing(generation.stream()) as answers:
        async for i, answer in answers:
            if isinstance(answer, StreamChunk):
                for chunk in shape.piece(i * n + answer.index, answer):
                    yield event(chunk)
                continue
            for index in range(i * n, i * n + n):
                for chunk in shape.opening(index):
                    yield event(chunk)
    results = [generation.finished[i] for i in range(len(asked.prompts))]
    if asked.receipt:
        yield event(shape.extra(receipt=_receipts(results)))
    for chunk in shape.closing(results):
        yield event(chunk)
    yield DONE


def _receipts(results: list[RequestOutput]) -> Any:
    """One receipt, or a list of them for several prompts."""
    receipts = [server_receipt(result) for result in results]
    return receipts[0] if len(receipts) == 1 else receipts
