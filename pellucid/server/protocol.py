"""The HTTP/1.1 protocol of uvicorn with what it lacks: limits on heads and connections, and time limits.

A connection is in one of four states. Each has a time limit that the peer cannot extend by sending a byte now and
then: head (from the first byte of a request, or from the connection's beginning), body, answer (only writing is timed:
from the moment the peer stops reading until it reads again), idle (uvicorn's own keep-alive).
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

import msgspec
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pellucid.server.settings import Limits

MAX_PIPELINED = 8


def protocol_with(limits: Limits) -> type[HttpToolsProtocol]:
    """The class for uvicorn's `http` setting."""
    return type("LimitedHttp", (_LimitedHttp,), {"limits": limits})


class _LimitedHttp(HttpToolsProtocol):
    limits: Limits

    def __init__(self, config: Config, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self._timer: asyncio.TimerHandle | None = None  # of the head or the body
        self._write_timer: asyncio.TimerHandle | None = None
        self._in_head = False
        self._head_nbytes = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.limits.num_connections:
            self._refuse(503, "too_many_connections", "this server has too many open connections; try again later")
        else:
            self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._timer is None and (self.cycle is None or self.cycle.response_complete):
            self._begin_head()
        if self._in_head:
            self._head_nbytes += len(data)
        super().data_received(data)
        # What is left of `data` after a whole head is body; only an unfinished head is all head.
        if self._in_head and self._head_nbytes > self.limits.header_nbytes and not self.transport.is_closing():
            self._head_too_large()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if not self._in_head:
            self._begin_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if len(self.headers) == self.limits.num_headers + 1:
            self._head_too_large()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_timer()
        if self.transport.is_closing():
            return
        head = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if head > self.limits.header_nbytes or len(self.headers) > self.limits.num_headers:
            self._head_too_large()
        elif len(self.pipeline) >= MAX_PIPELINED:
            self.transport.close()
        else:
            self._timer = self.loop.call_later(self.limits.body_time, self._late, "the body")
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._stop_timer()
        if not self.transport.is_closing():
            super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.limits.write_time, self._drop)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_write_timer()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "invalid_http", "this is not a sound HTTP/1.1 request")

    def _begin_head(self) -> None:
        self._in_head = True
        self._head_nbytes = 0
        self._stop_timer()
        self._timer = self.loop.call_later(self.limits.header_time, self._late, "the head of the request")

    def _late(self, what: str) -> None:
        if self._in_head and self._head_nbytes == 0:
            self.transport.close()
        else:
            self._refuse(408, "request_timeout", f"{what} did not come in time")

    def _head_too_large(self) -> None:
        limits = self.limits
        self._refuse(
            431,
            "headers_too_large",
            f"expected at most {limits.header_nbytes:,} bytes of headers and {limits.num_headers} of them",
        )

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answer without the application, and hang up."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            kind = "server_error" if status >= 500 else "invalid_request_error"
            body = msgspec.json.encode({"error": {"message": message, "type": kind, "param": None, "code": code}})
            lines = [
                f"HTTP/1.1 {status} {_REASONS[status]}",
                "content-type: application/json",
                f"content-length: {len(body)}",
                "connection: close",
            ]
            if status == 503:
                lines.append("retry-after: 1")
            self.transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def _drop(self) -> None:
        """Hang up, and have the system forget what it was still to send: up to some megabytes a connection."""
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGERING)
        self.transport.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


_NO_LINGERING = struct.pack("ii", 1, 0)
_REASONS = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}
