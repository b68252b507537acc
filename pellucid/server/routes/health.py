"""/health/live, /health/ready and /metrics. The first two need no key and say nothing that would."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from pellucid.api.other_schemas import HEALTH
from pellucid.server.metrics import CONTENT_TYPE
from pellucid.server.openapi import described
from pellucid.server.sse import json_response
from pellucid.server.state import state_of

router = APIRouter()


@router.get("/health/live", **described("The server's process runs", answer=HEALTH, open_to_all=True))
async def live(request: Request) -> Response:
    return json_response({"status": "alive"})


@router.get(
    "/health/ready",
    **described("Requests are being answered; 503 where they are not", answer=HEALTH, open_to_all=True),
)
async def ready(request: Request) -> Response:
    """Every model makes progress: a model with work to do and no step for long is "stalled"."""
    state = state_of(request)
    states = {client.state for client in state.registry.clients.values()} - {"ready"}
    status = "draining" if state.draining else min(states, default="ready")
    headers = None if status == "ready" else {"retry-after": "1"}
    return json_response({"status": status}, 200 if status == "ready" else 503, headers)


@router.get("/metrics", **described("Counters and times, in Prometheus's text format", media_type="text/plain"))
async def metrics(request: Request) -> Response:
    return Response(state_of(request).metrics.text(), media_type=CONTENT_TYPE)
