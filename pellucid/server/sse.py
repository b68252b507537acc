"""Answers on their way to a client: JSON, or server-sent events. A client that hangs up ends its request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing, suppress
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pellucid.api.openai_responses import error_body
from pellucid.server.boundary import call_of
from pellucid.server.errors import public_error

T = TypeVar("T")
DONE = b"data: [DONE]\n\n"

_encoder = msgspec.json.Encoder()
_log = logging.getLogger("pellucid.server")


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(_encoder.encode(value), status, headers=headers, media_type="application/json")


def event(value: Any, name: str | None = None) -> bytes:
    """One server-sent event with a JSON value."""
    head = b"" if name is None else b"event: %b\n" % name.encode()
    return b"%bdata: %b\n\n" % (head, _encoder.encode(value))


def openai_error_event(error: Exception, request_id: str) -> bytes:
    """The last event of a stream that failed. Also writes to the log what the client is not told."""
    return event(error_body(public_error(error, request_id)))


async def until_disconnected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client hangs up. Raises ClientDisconnect then."""
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        for each in (task, watcher):
            each.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await each


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Sends the events of an iterator. The answer begins with the first of them: what fails before is an error of its
    own; what fails later becomes the last event."""

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        *,
        error_event: Callable[[Exception, str], bytes] = openai_error_event,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no", **(headers or {})})
        del self.headers["content-length"]
        self._events = events
        self._error_event = error_event

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await until_disconnected(receive, self._send(call_of(scope).request_id, send))

    async def _send(self, request_id: str, send: Send) -> None:
        begun = False
        async with aclosing(self._events) as events:
            try:
                async for data in events:
                    if not begun:
                        begun = True
                        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                    await send({"type": "http.response.body", "body": data, "more_body": True})
            except Exception as error:
                if not begun:
                    raise
                inside = error if public_error(error, request_id) is not error else None
                _log.warning("a stream failed", exc_info=inside, extra={"fields": {"request_id": request_id}})
                last = self._error_event(error, request_id)
                await send({"type": "http.response.body", "body": last, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
