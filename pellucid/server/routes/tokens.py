"""/tokenize, /detokenize and /apply-template: what a model makes of text before it computes anything."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from pellucid.api import other_schemas as schemas
from pellucid.api.body import Body
from pellucid.api.sampling_schema import Schema
from pellucid.errors import InvalidParameter
from pellucid.fields import integer, show
from pellucid.sampling_fields import MAX_TOKEN_ID
from pellucid.server.bodies import read_object, without_unknown
from pellucid.server.messages import RenderRequest
from pellucid.server.openapi import described
from pellucid.server.sse import json_response, until_disconnected
from pellucid.server.state import state_of

router = APIRouter()
_OF_TEXT = ("add_special_tokens", "add_special", "parse_special")
_OF_MESSAGES = ("tools", "tool_choice", "add_generation_prompt", "chat_template_kwargs")


@router.post(
    "/tokenize",
    **described("The token ids of a text or of a conversation", schemas.TOKENIZE, answer=schemas.TOKENIZE_ANSWER),
)
async def tokenize(request: Request) -> Response:
    body = await _body(request, schemas.TOKENIZE)
    given = [name for name in ("prompt", "content", "messages") if name in body]
    if len(given) != 1:
        raise InvalidParameter(
            "prompt", f"expected one of prompt, content and messages; got {' and '.join(given) or 'none'}"
        )
    with_messages = given == ["messages"]
    for name in _OF_TEXT if with_messages else _OF_MESSAGES:
        if name in body:
            raise InvalidParameter(name, f"does not go with {given[0]}")
    client = state_of(request).registry.get(body.optional_text("model"))
    if with_messages:
        _, token_ids = await until_disconnected(request.receive, client.render(_render_request(body)))
    else:
        text = body.text(given[0])
        add_special = body.boolean("add_special_tokens", body.boolean("add_special", given == ["prompt"]))
        work = client.tokenize(text, add_special=add_special, parse_special=body.boolean("parse_special", False))
        token_ids = await until_disconnected(request.receive, work)
    return json_response({"count": len(token_ids), "max_model_len": client.info.max_model_len, "tokens": token_ids})


@router.post("/detokenize", **described("The text of token ids", schemas.DETOKENIZE, answer=schemas.DETOKENIZE_ANSWER))
async def detokenize(request: Request) -> Response:
    body = await _body(request, schemas.DETOKENIZE)
    tokens = body.required("tokens")
    if not isinstance(tokens, list):
        raise InvalidParameter("tokens", f"expected a list of token ids, got {show(tokens)}")
    for token in tokens:
        integer("tokens", token, 0, MAX_TOKEN_ID)
    client = state_of(request).registry.get(body.optional_text("model"))
    skip = body.boolean("skip_special_tokens", False)
    text = await until_disconnected(request.receive, client.detokenize(tokens, skip_special_tokens=skip))
    return json_response({"prompt": text, "content": text})


@router.post(
    "/apply-template",
    **described("The prompt that a conversation becomes", schemas.APPLY_TEMPLATE, answer=schemas.APPLY_TEMPLATE_ANSWER),
)
async def apply_template(request: Request) -> Response:
    body = await _body(request, schemas.APPLY_TEMPLATE)
    client = state_of(request).registry.get(body.optional_text("model"))
    prompt, token_ids = await until_disconnected(request.receive, client.render(_render_request(body)))
    return json_response({"prompt": prompt, "tokens": token_ids})


async def _body(request: Request, schema: Schema) -> Body:
    known = schema["properties"].keys()
    return Body(without_unknown(request, await read_object(request), known), known)


def _render_request(body: Body) -> RenderRequest:
    options: dict[str, Any] = {}
    for name, kind in (("tools", list), ("chat_template_kwargs", dict)):
        if name in body and not isinstance(options.setdefault(name, body.value(name)), kind):
            raise InvalidParameter(name, f"expected {'a list' if kind is list else 'an object'}")
    if "tool_choice" in body:
        options["tool_choice"] = body.value("tool_choice")
    return RenderRequest(
        messages=body.items("messages"),
        add_generation_prompt=body.boolean("add_generation_prompt", True),
        **options,
    )
