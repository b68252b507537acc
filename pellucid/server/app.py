"""create_app: the HTTP side of a server, over models that run in processes of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from pellucid.server import openapi
from pellucid.server.admission import Admission
from pellucid.server.boundary import Boundary, call_of
from pellucid.server.errors import HttpError, error_response
from pellucid.server.keys import load_keys
from pellucid.server.metrics import Metrics
from pellucid.server.origins import Origins
from pellucid.server.routes import chat, embeddings, health, messages, models, responses, tokens
from pellucid.server.settings import ServerSettings
from pellucid.server.state import ServerState

if TYPE_CHECKING:
    from pellucid.server.registry import ModelRegistry
    from pellucid.server.tracing import Tracing

# Newer versions of FastAPI make spans of their own, with the words of exceptions in them. Ours are made in tracing.py.
_NO_TELEMETRY: Any = dict.fromkeys(("tracing", "metrics", "logs", "operation_spans", "auto_configure"), False)

ROUTERS = tuple(m.router for m in (chat, responses, messages, embeddings, models, tokens, health, openapi))


def create_app(
    registry: ModelRegistry, settings: ServerSettings | None = None, tracing: Tracing | None = None
) -> FastAPI:
    """An ASGI application; `app.state.server` is its ServerState. Raises InvalidParameter for a bad keys file."""
    settings = settings or ServerSettings()
    limits = settings.limits
    admission = Admission(limits.queued_requests, limits.queued_tokens)
    state = ServerState(
        registry=registry,
        settings=settings,
        keys=load_keys(settings.keys_file, settings.api_key),
        origins=Origins(settings),
        admission=admission,
        metrics=Metrics(registry.clients, admission),
        tracing=tracing,
    )
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False, telemetry=_NO_TELEMETRY)
    app.state.server = state
    for router in ROUTERS:
        app.include_router(router)
    app.add_exception_handler(HTTPException, _not_routed)
    app.add_middleware(Boundary, state=state)
    return app


async def _not_routed(request: Request, error: Exception) -> Response:
    """What the router itself refuses."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        told = HttpError(405, "method_not_allowed", "this path does not take this method", headers=error.headers)
    else:
        told = HttpError(404, "not_found", "there is no such path; see /docs")
    return error_response(told, request.url.path, call_of(request.scope).request_id)
