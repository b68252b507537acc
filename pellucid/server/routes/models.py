"""/v1/models, and loading and unloading them (llama.cpp's paths)."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from pellucid.api.answer_schemas import MODEL_INFO, MODEL_LIST
from pellucid.api.body import Body
from pellucid.api.sampling_schema import closed, text
from pellucid.errors import ModelNotFound, PellucidError
from pellucid.fields import show
from pellucid.server.bodies import read_object, without_unknown
from pellucid.server.boundary import call_of
from pellucid.server.errors import HttpError
from pellucid.server.openapi import described
from pellucid.server.sse import json_response, until_disconnected
from pellucid.server.state import ServerState, state_of

router = APIRouter()
MODEL_NAME = closed({"model": text("its name")}, ("model",))


@router.get("/v1/models", **described("The models that are served", answer=MODEL_LIST))
async def models(request: Request) -> Response:
    state = state_of(request)
    data = [_model(state, name) for name in dict.fromkeys(state.registry.names.values())]
    return json_response({"object": "list", "data": data})


@router.get("/v1/models/{model:path}", **described("One of them", answer=MODEL_INFO, parameters={"model": "its name"}))
async def model(request: Request) -> Response:
    state = state_of(request)
    return json_response(_model(state, _known(state, request.path_params["model"])))


@router.post(
    "/models/load",
    **described("Load a model that was unloaded; returns when it is ready", MODEL_NAME, answer=MODEL_INFO),
)
async def load(request: Request) -> Response:
    name = await _named(request)
    await until_disconnected(request.receive, state_of(request).registry.load(name))
    return json_response(_model(state_of(request), name))


@router.post(
    "/models/unload",
    **described("Free a model; returns when its requests are answered", MODEL_NAME, answer=MODEL_INFO),
)
async def unload(request: Request) -> Response:
    name = await _named(request)
    await until_disconnected(request.receive, state_of(request).registry.unload(name))
    return json_response(_model(state_of(request), name))


async def _named(request: Request) -> str:
    """The model that the body names. Raises HttpError, 403, for a caller who may not load models."""
    state, key = state_of(request), call_of(request.scope).key
    if not (state.settings.is_loopback if key is None else key.admin):
        raise HttpError(
            403, "not_an_admin", "models are loaded and unloaded with an API key whose entry says admin = true"
        )
    known = MODEL_NAME["properties"].keys()
    body = Body(without_unknown(request, await read_object(request), known), known)
    return _known(state, body.text("model"))


def _known(state: ServerState, name: str) -> str:
    """The model's own name. Raises ModelNotFound."""
    if name not in state.registry.names:
        raise ModelNotFound(f"there is no model {show(name)} here; see /v1/models")
    return state.registry.names[name]


def _model(state: ServerState, name: str) -> dict[str, Any]:
    client = state.registry.clients.get(name)
    described: dict[str, Any] = {
        "id": name,
        "object": "model",
        "created": state.started,
        "owned_by": "pellucid",
        "state": "unloaded" if client is None else client.state,
    }
    try:
        info = None if client is None else client.info
    except PellucidError:  # it is being loaded
        info = None
    if info is None:
        return described
    return described | {
        "max_model_len": info.max_model_len,
        "quantization": info.quantization,
        "kv_cache_dtype": info.receipt.kv_cache_dtype,
        "activations": info.receipt.activations,
        "has_chat_template": info.has_chat_template,
    }
