"""/v1/models."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from pellucid.errors import ModelNotFound, PellucidError
from pellucid.fields import show
from pellucid.server.openapi import described
from pellucid.server.sse import json_response
from pellucid.server.state import ServerState, state_of

router = APIRouter()


@router.get("/v1/models", **described("The models that are served"))
async def models(request: Request) -> Response:
    state = state_of(request)
    data = [_model(state, name) for name in dict.fromkeys(state.registry.names.values())]
    return json_response({"object": "list", "data": data})


@router.get("/v1/models/{model:path}", **described("One of them", parameters=("model",)))
async def model(request: Request) -> Response:
    state = state_of(request)
    name = state.registry.names.get(request.path_params["model"])
    if name is None:
        raise ModelNotFound(f"there is no model {show(request.path_params['model'])} here; see /v1/models")
    return json_response(_model(state, name))


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
        "has_chat_template": info.has_chat_template,
    }
