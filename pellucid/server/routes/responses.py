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
from pellucid.api.responses_input import with_ids
from pellucid.api.responses_pages import PAGE, parse_page
from pellucid.api.responses_requests import ResponsesRequest, parse_responses
from pellucid.api.responses_schemas import (
    DELETED,
    INPUT_ITEMS,
    REFUSED,
    RESPONSE,
    RESPONSES,
    RESPONSES_BODY,
    RESPONSES_EVENTS,
)
from pellucid.engine.outputs import RequestOutput, StreamChunk
from pellucid.errors import InvalidParameter, UnsupportedParameter
from pellucid.server.bodies import read_object, without_unknown
from pellucid.server.boundary import Call, call_of
from pellucid.server.errors import public_error
from pellucid.server.generation import Generation, priority_for
from pellucid.server.messages import GenerateRequest
from pellucid.server.openapi import described
from pellucid.server.response_store import ResponseStore, StoredResponse
from pellucid.server.sse import EventStream, event, json_response, until_disconnected
from pellucid.server.state import ServerState, state_of

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
    previous = _previous(state, call, asked.previous_response_id)
    generation = Generation(state, call, client, [_generate_request(asked, previous, call)])
    key = secrets.token_hex(12)
    response = begun(asked.echo, key=key, model=client.name, created=int(time()))
    memory = _Memory(state.responses, call.tenant, asked, previous, key)
    shape = ResponseStream(response)
    if asked.stream:

        def failed(error: Exception, request_id: str) -> bytes:
            return _encoded(shape.failing(public_error(error, request_id)))

        return EventStream(_events(generation, shape, memory), error_event=failed)
    if asked.background:
        await state.background.start(call, response, memory.items, _whole(generation, shape, memory))
        return json_response(response)
    return json_response(await until_disconnected(request.receive, _whole(generation, shape, memory)))


@router.get(ONE, **described("A response that was stored", answer=RESPONSE, parameters=_PARAMETERS))
async def stored_response(request: Request) -> Response:
    for name in request.query_params:
        raise UnsupportedParameter(name[:80], "is not supported; a stored response is given as a whole, as it is")
    state, owner, response_id = _asked_for(request)
    if (running := state.background.get(owner, response_id)) is not None:
        return json_response(running.response)
    return Response(state.responses.get(owner, response_id).body, media_type="application/json")


@router.delete(ONE, **described("Forget a response", answer=DELETED, parameters=_PARAMETERS))
async def delete_response(request: Request) -> Response:
    state, owner, response_id = _asked_for(request)
    await state.background.cancel(owner, response_id)
    state.responses.delete(owner, response_id)
    return json_response({"id": response_id, "object": "response", "deleted": True})


@router.post(f"{ONE}/cancel", **described("End a response in the background", answer=RESPONSE, parameters=_PARAMETERS))
async def cancel_response(request: Request) -> Response:
    """One that has ended is given as it is."""
    state, owner, response_id = _asked_for(request)
    await state.background.cancel(owner, response_id)
    body = state.responses.get(owner, response_id).body
    if not msgspec.json.decode(body)["background"]:
        raise InvalidParameter(
            "response_id", "was not asked for with background = true; any other ends when its connection is closed"
        )
    return Response(body, media_type="application/json")


@router.get(
    f"{ONE}/input_items",
    **described("What a response was asked with", answer=INPUT_ITEMS, parameters=_PARAMETERS, query=PAGE),
)
async def input_items(request: Request) -> Response:
    """The items of its own input, without those of the responses before it."""
    page = parse_page(request.query_params)
    state, owner, response_id = _asked_for(request)
    found = state.background.get(owner, response_id) or state.responses.get(owner, response_id)
    return json_response(page.of(msgspec.json.decode(found.items)))


def _asked_for(request: Request) -> tuple[ServerState, str, str]:
    """Where it may be, whose it must be, and the response's id."""
    return state_of(request), call_of(request.scope).tenant, request.path_params["response_id"]


def _previous(state: ServerState, call: Call, response_id: str | None) -> list[dict[str, Any]]:
    """The messages of a conversation up to its answer. Raises HttpError, 404, and InvalidParameter."""
    if response_id is None:
        return []
    if state.background.get(call.tenant, response_id) is not None:
        raise InvalidParameter("previous_response_id", "names a response that is still in progress")
    stored = state.responses.get(call.tenant, response_id)
    if stored.messages is None:
        raise InvalidParameter("previous_response_id", "names a response that was cancelled or failed")
    call.body_nbytes += len(stored.messages)  # the prompt's length is guessed by it
    messages: list[dict[str, Any]] = msgspec.json.decode(stored.messages)
    return messages


class _Memory:
    """Where the response of one request is stored, if it is to be."""

    def __init__(
        self, store: ResponseStore, owner: str, asked: ResponsesRequest, previous: list[dict[str, Any]], key: str
    ) -> None:
        self.items = msgspec.json.encode(with_ids(asked.items, key))
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
            stored = StoredResponse(msgspec.json.encode(response), msgspec.json.encode(messages), self.items)
            self._store.add(self._owner, response["id"], stored)
        return response


def _generate_request(asked: ResponsesRequest, previous: list[dict[str, Any]], call: Call) -> GenerateRequest:
    return GenerateRequest(
        messages=asked.conversation(previous),
        params=asked.params,
        stream=asked.stream or asked.params.logprobs is not None,  # only the pieces say whose tokens they are
        request_id=call.request_id,
        priority=priority_for(call, asked.priority),
        tenant=call.tenant,
        cache_salt=asked.cache_salt,
        **asked.chat,
    )


async def _whole(generation: Generation, shape: ResponseStream, memory: _Memory) -> dict[str, Any]:
    """The response, computed to its end."""
    told = False
    async with aclosing(generation.stream()) as answers:
        async for _, answer in answers:
            if isinstance(answer, StreamChunk):
                told = True
                for _event in shape.piece(answer):
                    pass
    result = generation.finished[0]
    return memory.take(shape.whole(result) if told else ended(shape.response, result), result)


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
