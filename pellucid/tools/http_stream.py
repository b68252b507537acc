"""The least HTTP/1.1 that a load generator needs: one request on a connection of its own, each event timed on arrival.

Written for its cost: on a machine that also runs the server, what the client computes is taken from the server. A
library's client needs several times as much a token.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from pellucid.errors import InvalidParameter

EVENT_STREAM = b"text/event-stream"


@dataclass(frozen=True)
class Site:
    """Where a server answers. `prefix` is what its URL has before every path."""

    host: str
    port: int
    prefix: str = ""
    tls: ssl.SSLContext | None = None
    api_key: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, url: str, api_key: str | None = None) -> Site:
        """Of "http://host:port" or "https://…", with or without "/v1" at the end. Raises InvalidParameter."""
        parts = urlsplit(url)
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            raise InvalidParameter("url", f"{error} in {url!r}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise InvalidParameter("url", f"expected something like http://127.0.0.1:8000, got {url!r}")
        tls = ssl.create_default_context() if parts.scheme == "https" else None
        return cls(parts.hostname, port, parts.path.rstrip("/").removesuffix("/v1"), tls, api_key)

    def head(self, method: str, path: str, num_body_bytes: int) -> bytes:
        """The request up to its body."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        lines = [f"{method} {self.prefix}{path} HTTP/1.1", f"host: {host}:{self.port}", "connection: close"]
        lines += [f"authorization: Bearer {self.api_key}"] if self.api_key else []
        lines += ["content-type: application/json", f"content-length: {num_body_bytes}"] if num_body_bytes else []
        return "\r\n".join([*lines, "", ""]).encode()


@dataclass
class Answer:
    """What came back. Times are those of time.perf_counter().

    body: of an answer that is no event stream. events: (arrival, data) of one that is, `[DONE]` included.
    retry_after: seconds, of the header.
    """

    sent: float
    status: int = 0
    body: bytes = b""
    events: list[tuple[float, bytes]] = field(default_factory=list)
    ended: float = 0.0
    retry_after: float | None = None


async def ask(site: Site, method: str, path: str, body: bytes = b"") -> Answer:
    """Send one request and read all of its answer; whoever cancels this hangs up.

    Raises OSError when nobody listens, or when the connection is closed before the answer is complete.
    """
    begun = time.perf_counter()
    loop = asyncio.get_running_loop()
    transport, exchange = await loop.create_connection(lambda: _Exchange(begun), site.host, site.port, ssl=site.tls)
    try:
        transport.write(site.head(method, path, len(body)) + body)
        return await exchange.done
    finally:
        transport.abort()


class _Exchange(asyncio.Protocol):
    """Reads one answer; `done` has it when it is complete."""

    def __init__(self, begun: float) -> None:
        self.done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.done.add_done_callback(lambda done: done.cancelled() or done.exception())  # whoever asked may be gone
        self._answer = Answer(begun)
        self._raw = bytearray()
        self._line = b""  # the beginning of an event whose end has not come
        self._length: int | None = None
        self._in_body = self._chunked = self._streams = False

    def data_received(self, data: bytes) -> None:
        self._raw += data
        try:
            if self._in_body or self._read_head():
                self._read_body(time.perf_counter())
        except (ValueError, IndexError) as error:
            self._fail(f"this is no HTTP/1.1: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        if self._in_body and not self._chunked and self._length is None:
            self._end(time.perf_counter())  # such a body lasts as long as the connection
        self._fail(f"closed before the answer was complete{f': {exc}' if exc else ''}")

    def _read_head(self) -> bool:
        end = self._raw.find(b"\r\n\r\n")
        if end < 0:
            return False
        status, *lines = bytes(self._raw[:end]).split(b"\r\n")
        del self._raw[: end + 4]
        self._answer.status = int(status.split()[1])
        if self._answer.status < 200:  # such as 100 Continue; the answer is still to come
            return self._read_head()
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        self._chunked = fields.get(b"transfer-encoding", b"").lower() == b"chunked"
        self._streams = fields.get(b"content-type", b"").startswith(EVENT_STREAM)
        if fields.get(b"retry-after", b"").isdigit():
            self._answer.retry_after = float(fields[b"retry-after"])
        self._length = int(fields[b"content-length"]) if b"content-length" in fields else None
        self._in_body = True
        return True

    def _read_body(self, now: float) -> None:
        if not self._chunked:
            if self._length is not None:
                self._length -= len(self._raw)
            self._take(bytes(self._raw), now)
            self._raw.clear()
            if self._length is not None and self._length <= 0:
                self._end(now)
            return
        while (end := self._raw.find(b"\r\n")) >= 0:
            size = int(self._raw[:end].partition(b";")[0], 16)
            if size == 0:
                self._end(now)
                return
            if len(self._raw) < end + size + 4:
                return
            self._take(bytes(self._raw[end + 2 : end + 2 + size]), now)
            del self._raw[: end + size + 4]

    def _take(self, data: bytes, now: float) -> None:
        if not self._streams:
            self._answer.body += data
            return
        *lines, self._line = (self._line + data).split(b"\n")
        self._answer.events += [(now, line[5:].strip()) for line in lines if line.startswith(b"data:")]

    def _end(self, now: float) -> None:
        self._answer.ended = now
        if not self.done.done():
            self.done.set_result(self._answer)

    def _fail(self, message: str) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError(message))


async def ask_json(site: Site, path: str) -> Any:
    """The JSON of a GET. Raises OSError, ConnectionError with the status when that is not 200, and ValueError."""
    answer = await ask(site, "GET", path)
    if answer.status != 200:
        raise ConnectionError(f"{path} is answered with status {answer.status}: {answer.body[:200]!r}")
    return json.loads(answer.body)
