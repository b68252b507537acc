"""The outermost layer: every request gets an id, is let in or not, and every failure becomes an answer in one shape.

It denies by default: whatever path is asked for, without a key only those in OPEN_PATHS are answered.
"""

from __future__ import annotations

import logging
import secrets
from contextlib import ExitStack
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pellucid.server.errors import HttpError, error_response, public_error
from pellucid.server.keys import ApiKey, authenticate
from pellucid.server.origins import PREFLIGHT, Header

if TYPE_CHECKING:
    from pellucid.server.state import ServerState
    from pellucid.server.tracing import RequestTrace

OPEN_PATHS = frozenset({"/health/live", "/health/ready"})
QUEUED_PATHS = frozenset({
    "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings", "/v1/rerank",
    "/v1/score", "/v1/classify",
})  # fmt: skip
WHILE_DRAINING = frozenset({"/health/live", "/health/ready", "/metrics"})

_log = logging.getLogger("pellucid.server")
_access = logging.getLogger("pellucid.access")


@dataclass
class Call:
    """One request on its way through the server. `notes` go into its line of the log, `headers` into its answer.

    `while_it_lasts`: what it holds until it is answered; whoever goes on afterwards takes it over. `arrival`: its place
    before it asks for one in the queue (admission.py).
    """

    request_id: str
    key: ApiKey | None = None
    body_nbytes: int = 0
    notes: dict[str, object] = field(default_factory=dict)
    headers: list[Header] = field(default_factory=list)
    while_it_lasts: ExitStack = field(default_factory=ExitStack)
    arrival: ExitStack = field(default_factory=ExitStack)
    trace: RequestTrace | None = None

    @property
    def tenant(self) -> str:
        return "" if self.key is None else self.key.name


def call_of(scope: Scope) -> Call:
    call: Call = scope["pellucid.call"]
    return call


class Boundary:
    def __init__(self, app: ASGIApp, state: ServerState) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = perf_counter()
        call = Call(f"req_{secrets.token_hex(12)}")
        call.headers.append((b"x-request-id", call.request_id.encode()))
        scope["pellucid.call"] = call
        if self._state.tracing is not None:
            call.trace = self._state.tracing.request(scope, call.request_id)
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *call.headers]
            await send(message)

        try:
            with call.while_it_lasts:
                answer = self._let_in(scope, call)
                await (answer or self._app)(scope, receive, send_with_headers)
        except ClientDisconnect:
            call.notes["disconnected"] = True
        except Exception as error:
            told = public_error(error, call.request_id)
            if told is not error:
                _log.error("a request failed", exc_info=error, extra={"fields": {"request_id": call.request_id}})
            call.notes["error"] = told.code
            if status == 0:
                await error_response(told, scope["path"], call.request_id)(scope, receive, send_with_headers)
            else:
                raise  # the answer has begun: uvicorn closes the connection, so that nobody takes it for whole
        finally:
            self._record(scope, call, status, perf_counter() - begun)

    def _let_in(self, scope: Scope, call: Call) -> Response | None:
        """Raises HttpError. A response, where nothing is left to do."""
        state, headers, path = self._state, scope["headers"], scope["path"]
        host = state.origins.check_host(headers)
        call.headers += (allowed := state.origins.check_origin(headers, scope["scheme"], host))
        if scope["method"] == "OPTIONS" and allowed:
            call.headers += PREFLIGHT
            return Response(status_code=204)
        if path in OPEN_PATHS:
            return None
        if len(state.keys):
            call.key = authenticate(state.keys, headers)
            call.while_it_lasts.enter_context(call.key.request())
        if state.draining and path not in WHILE_DRAINING:
            raise HttpError(
                503, "shutting_down", "this server is shutting down", retry_after=5, headers={"connection": "close"}
            )
        if path in QUEUED_PATHS and scope["method"] == "POST":
            state.admission.refuse_when_full()
        call.while_it_lasts.enter_context(state.request())
        call.while_it_lasts.enter_context(call.arrival)
        return None

    def _record(self, scope: Scope, call: Call, status: int, seconds: float) -> None:
        refused = scope["path"] if scope["path"] in QUEUED_PATHS else None  # before it was routed
        route = getattr(scope.get("route"), "path", refused)
        path = route or "unknown"
        self._state.metrics.http_ended(path, status)
        fields = {
            "request_id": call.request_id,
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "seconds": round(seconds, 4),
            "client": (scope.get("client") or ("",))[0],
        }
        if call.key is not None:
            fields["key"] = call.key.name
        if call.trace is not None:
            call.trace.end(route, status)
        _access.info("request", extra={"fields": fields | call.notes})
