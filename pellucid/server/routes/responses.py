"""/v1/responses: OpenAI's way to ask that remembers what was said."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from time import time
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from pellucid.api.openai_responses import server_receipt
from pellucid.api.responses_answers import ResponseStream, answer_message, begun, ended
from pellucid.api.responses_requests import ResponsesRequest, parse_responses
from pellucid.api.responses_schemas import (
    DELETED,
    REFUSED,
    RESPONSE,
    RESPONSES,
    RESPONSES_BODY,
    RESPONSES_EVENTS,
)
from pellucid.engine.outputs import RequestOutput, StreamChunk
from pellucid.errors import UnsupportedParameter
from pellucid.server.bodies import read_object, without_unknown
from pellucid.server.boundary import Call, call_of
from pellucid.server.errors import public_error
from pellucid.server.generation import Generation, priority_for
from pellucid.server.messages import GenerateRequest
from pellucid.server.openapi import described
from pellucid.server.response_store import ResponseStore, StoredResponse
from pellucid.server.sse import EventStream, event, json_response, until_disconnected
from pellucid.server.state import state_of

router = APIRouter()
ONE = f"{RESPONSES}/{{response_id}}"
_PARAMETERS = {"response_id": "of a response that was stored"}


@router.post(
    RESPONSES,
    **described("Answer, and remember the conversation", RESPONSES_BODY, answer=RESPONSE, events=RESPONSES_EVENTS),
)
async def responses(request: Request) -> Response:
    state, call = state_of(request), call_of(request.scope)
    known = RESPONSES_BODY["properties"].keys() | REFUSED
    asked = parse_responses(without_unknown(request, await read_object(request), known))
    client = state.registry.get(asked.model)
    previous: list[dict[str, Any]] = []
    if asked.previous_response_id is not None:
        stored = state.responses.get(call.tenant, asked.previous_response_id)
        previous = msgspec.json.decode(stored.messages)
        call.body_nbytes += len(stored.messages)  # the prompt's length is guessed by it
    generation = Generation(state, call, client, [_generate_request(asked, previous, call)])
    memory = _Memory(state.responses, call.tenant, asked, previous)
    response = begun(asked.echo, key=secrets.token_hex(12), model=client.name, created=int(time()))
    if asked.stream:
        shape = ResponseStream(response)

        def failed(error: Exception, request_id: str) -> bytes:
            return _encoded(shape.failing(public_error(error, request_id)))

        return EventStream(_events(generation, shape, memory), error_event=failed)
    (result,) = await until_disconnected(request.receive, generation.results())
    return json_response(memory.take(ended(response, result), result))


@router.get(ONE, **described("A response that was stored", answer=RESPONSE, parameters=_PARAMETERS))
async def stored_response(request: Request) -> Response:
    for name in request.query_params:
        raise UnsupportedParameter(name[:80], "is not supported; a stored response is given as a whole, as it is")
    stored = state_of(request).responses.get(call_of(request.scope).tenant, request.path_params["response_id"])
    return Response(stored.body, media_type="application/json")


@router.delete(ONE, **described("Forget a response", answer=DELETED, parameters=_PARAMETERS))
async def delete_response(request: Request) -> Response:
    response_id = request.path_params["response_id"]
    state_of(request).responses.delete(call_of(request.scope).tenant, response_id)
    return json_response({"id": response_id, "object": "response", "deleted": True})


class _Memory:
    """Where the response of one request is stored, if it is to be."""

    def __init__(
        self, store: ResponseStore, owner: str, asked: ResponsesRequest, previous: list[dict[str, Any]]
    ) -> None:
        self._store = store
        self._owner = owner
        self._asked = asked
        self._previous = previous

    def take(self, response: dict[str, Any], result: RequestOutput) -> dict[str, Any]:
        """The response as it is sent."""
        if self._asked.receipt:
            response["receipt"] = server_receipt(result)
        if self._asked.store:
            messages = [*self._previous, *self._asked.messages, answer_message(result)]
            stored = StoredResponse(msgspec.json.encode(response), msgspec.json.encode(messages))
            self._store.add(self._owner, response["id"], stored)
        return response


def _generate_request(asked: ResponsesRequest, previous: list[dict[str, Any]], call: Call) -> GenerateRequest:
    return GenerateRequest(
        messages=asked.conversation(previous),
        params=asked.params,
        stream=asked.stream,
        request_id=call.request_id,
        priority=priority_for(call, asked.priority),
        tenant=call.tenant,
        cache_salt=asked.cache_salt,
        **asked.chat,
    )


async def _events(generation: Generation, shape: ResponseStream, memory: _Memory) -> AsyncGenerator[bytes, None]:
    async with aclosing(generation.stream()) as answers:
        async for _, answer in answers:
            found = shape.piece(answer) if isinstance(answer, StreamChunk) else shape.opening()
            if data := b"".join(map(_encoded, found)):
                yield data
    result = generation.finished[0]
    for value in shape.closing(memory.take(shape.whole(result), result)):
        yield _encoded(value)


def _encoded(value: dict[str, Any]) -> bytes:
    return event(value, value["type"])
