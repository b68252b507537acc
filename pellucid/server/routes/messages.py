"""/v1/messages and /v1/messages/count_tokens: Anthropic's way to ask."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter, Request
from starlette.responses import Response

from pellucid.api.anthropic_requests import Conversation, MessagesRequest, parse_count_tokens, parse_messages
from pellucid.api.anthropic_responses import MessageStream, error_body, message_body
from pellucid.api.anthropic_schemas import (
    COUNT_TOKENS,
    COUNT_TOKENS_ANSWER,
    COUNT_TOKENS_BODY,
    MESSAGES,
    MESSAGES_ANSWER,
    MESSAGES_BODY,
    MESSAGES_EVENTS,
    REFUSED,
)
from pellucid.api.openai_responses import server_receipt
from pellucid.engine.outputs import StreamChunk
from pellucid.server.bodies import read_object, without_unknown
from pellucid.server.boundary import Call, call_of
from pellucid.server.errors import public_error
from pellucid.server.generation import Generation, priority_for
from pellucid.server.messages import GenerateRequest, RenderRequest
from pellucid.server.openapi import described
from pellucid.server.sse import EventStream, event, json_response, until_disconnected
from pellucid.server.state import state_of

router = APIRouter()


@router.post(
    MESSAGES,
    **described(
        "Answer a conversation, as Anthropic's API does",
        MESSAGES_BODY,
        answer=MESSAGES_ANSWER,
        events=MESSAGES_EVENTS,
        errors="AnthropicError",
    ),
)
async def messages(request: Request) -> Response:
    state, call = state_of(request), call_of(request.scope)
    known = MESSAGES_BODY["properties"].keys() | REFUSED
    asked = parse_messages(without_unknown(request, await read_object(request), known))
    client = state.registry.get(asked.conversation.model)
    generation = Generation(state, call, client, [_generate_request(asked, call)])
    key = secrets.token_hex(12)
    if asked.stream:
        events = _events(generation, asked, MessageStream(key=key, model=client.name))
        return EventStream(events, error_event=_error_event)
    (result,) = await until_disconnected(request.receive, generation.results())
    answer = message_body(result, key=key, model=client.name)
    if asked.receipt:
        answer["receipt"] = server_receipt(result)
    return json_response(answer)


@router.post(
    COUNT_TOKENS,
    **described(
        "How many tokens a conversation has", COUNT_TOKENS_BODY, answer=COUNT_TOKENS_ANSWER, errors="AnthropicError"
    ),
)
async def count_tokens(request: Request) -> Response:
    known = COUNT_TOKENS_BODY["properties"].keys() | REFUSED
    asked = parse_count_tokens(without_unknown(request, await read_object(request), known))
    client = state_of(request).registry.get(asked.model)
    _, token_ids = await until_disconnected(request.receive, client.render(_render_request(asked)))
    return json_response({"input_tokens": len(token_ids)})


def _generate_request(asked: MessagesRequest, call: Call) -> GenerateRequest:
    conversation = asked.conversation
    return GenerateRequest(
        messages=conversation.messages,
        params=asked.params,
        stream=asked.stream,
        request_id=call.request_id,
        priority=priority_for(call, asked.priority),
        tenant=call.tenant,
        cache_salt=asked.cache_salt,
        tools=conversation.tools,
        tool_choice=conversation.tool_choice,
        parallel_tool_calls=conversation.parallel_tool_calls,
        **asked.chat,
    )


def _render_request(asked: Conversation) -> RenderRequest:
    return RenderRequest(messages=asked.messages, tools=asked.tools, tool_choice=asked.tool_choice)


async def _events(generation: Generation, asked: MessagesRequest, shape: MessageStream) -> AsyncGenerator[bytes, None]:
    async with aclosing(generation.stream()) as answers:
        async for _, answer in answers:
            if isinstance(answer, StreamChunk):
                found = shape.piece(answer)
            else:
                found = shape.opening(answer.prompt_tokens, answer.cached_tokens)
            data = b"".join(event(value, name) for name, value in found)
            if data:
                yield data
    result = generation.finished[0]
    for name, value in shape.closing(result):
        more = {"receipt": server_receipt(result)} if asked.receipt and name == "message_delta" else {}
        yield event(value | more, name)


def _error_event(error: Exception, request_id: str) -> bytes:
    return event(error_body(public_error(error, request_id), request_id), "error")
