"""Below HTTP: slow, silent, huge and broken connections, beside good ones that must not notice."""

from __future__ import annotations

import asyncio
import json
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
import pytest
from support.running_app import RunningApp, head, read_all
from support.scripted_client import SCRIPT, ScriptedClient

from pellucid.server.settings import Limits

BODY = b'{"prompt": "a", "stream": false}'
STREAM = b'{"prompt": "a", "stream": true}'


def good(app: RunningApp) -> float:
    """One good request, which is answered as always. Seconds it took."""
    begun = time.monotonic()
    answer = httpx.post(f"{app.url}/v1/completions", json={"prompt": "a"})
    assert answer.json()["choices"][0]["text"] == "".join(SCRIPT)
    return time.monotonic() - begun


def error_in(data: bytes, status: int) -> dict[str, Any]:
    line, _, rest = data.partition(b"\r\n")
    assert line.split()[1] == str(status).encode(), data[:200]
    body: dict[str, Any] = json.loads(rest.partition(b"\r\n\r\n")[2])
    return body["error"]


def soon(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nx: ", 408, "request_timeout"),
        (head(length=len(BODY)) + BODY[:5], 408, "request_timeout"),
        (head(more="transfer-encoding: chunked\r\n") + b"5\r\n" + BODY[:5] + b"\r\n", 408, "request_timeout"),
    ],
    ids=["head", "body", "chunked body"],
)
def test_what_comes_too_slowly_is_cut_off(sent: bytes, status: int, code: str) -> None:
    limits = Limits(header_time=0.4, body_time=0.4)
    with RunningApp(limits=limits) as app, app.connect() as connection:
        begun = time.monotonic()
        connection.sendall(sent)
        for _ in range(3):  # a byte now and then does not help
            time.sleep(0.1)
            connection.sendall(b"a" if b"chunked" not in sent else b"")
        assert error_in(read_all(connection), status)["code"] == code
        assert 0.3 < time.monotonic() - begun < 3
        good(app)
        assert len(app.model.requests) == 1


def test_silent_connections_are_closed() -> None:
    with RunningApp(limits=Limits(header_time=0.3, idle_time=0.3)) as app:
        with app.connect() as connection:
            assert read_all(connection) == b""
        with app.connect() as connection:
            connection.sendall(head("/health/live", method="GET"))
            data = read_all(connection)
            assert data.startswith(b"HTTP/1.1 200")
        with app.connect() as connection:  # empty lines between requests are no requests
            connection.sendall(head("/health/live", method="GET"))
            begun = time.monotonic()
            with suppress(ConnectionError):
                while time.monotonic() - begun < 5:
                    connection.sendall(b"\r\n")
                    time.sleep(0.05)
            assert time.monotonic() - begun < 3


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nx\x00y: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 99999999999999999999999\r\n\r\n",
    ],
)
def test_what_is_not_http(sent: bytes) -> None:
    with RunningApp(limits=Limits(header_time=1)) as app:
        with app.connect() as connection:
            connection.sendall(sent)
            assert error_in(read_all(connection), 400)["code"] == "invalid_http"
        good(app)


def test_heads_that_are_too_large() -> None:
    with RunningApp() as app:
        for more in ("x: " + "a" * 20_000 + "\r\n", "x: 1\r\n" * 10_000):
            with app.connect() as connection:
                connection.sendall(head(length=0, more=more))
                assert error_in(read_all(connection), 431)["code"] == "headers_too_large"
        with app.connect() as connection:
            connection.sendall(b"GET /" + b"a" * 300_000)
            assert error_in(read_all(connection), 431)["code"] == "headers_too_large"
        assert app.model.requests == []
        good(app)


def test_a_body_in_one_byte_chunks() -> None:
    with RunningApp() as app, app.connect() as connection:
        body = BODY[:-1] + b" " * 20_000 + b"}"
        connection.sendall(head(more="transfer-encoding: chunked\r\nconnection: close\r\n"))
        connection.sendall(b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n")
        assert b"Once upon a time" in read_all(connection)


def test_pipelined_requests_are_answered_in_order_and_bounded() -> None:
    with RunningApp() as app:
        with app.connect() as connection:
            connection.sendall((head(length=len(BODY)) + BODY) * 3 + head("/health/live", method="GET"))
            data = b""
            while b"alive" not in data:
                data += connection.recv(65536)
            assert data.count(b"Once upon a time") == 3
        with app.connect() as connection:
            connection.sendall(head("/health/live", method="GET") * 5000)
            assert read_all(connection).count(b"HTTP/1.1") < 5000
        good(app)


def test_connections_have_a_cap() -> None:
    with RunningApp(limits=Limits(num_connections=5)) as app:
        held = [app.connect() for _ in range(5)]
        with app.connect() as connection:
            assert error_in(read_all(connection), 503)["code"] == "too_many_connections"
        for connection in held:
            connection.close()
        soon(lambda: _is_answered(app))


def _is_answered(app: RunningApp) -> bool:
    try:
        return good(app) > 0
    except (httpx.HTTPError, KeyError, json.JSONDecodeError):
        return False


def forever(request: Any, i: int) -> Any:
    return asyncio.sleep(0.02)


@pytest.mark.parametrize("body", [BODY, STREAM], ids=["whole", "stream"])
def test_hanging_up_ends_the_request(body: bytes) -> None:
    model = ScriptedClient(script=("a",) * 10_000)
    model.before_token = forever
    with RunningApp(model) as app:
        connection = app.connect()
        connection.sendall(head(length=len(body)) + body)
        soon(lambda: len(model.requests) == 1)
        connection.close()
        soon(lambda: model.left == 1)
        soon(lambda: app.state.admission.num_requests == 0 and app.state.num_unfinished == 0)


def test_a_client_that_never_reads_is_hung_up_on() -> None:
    model = ScriptedClient(script=("word " * 2000,) * 3000)
    model.before_token = lambda request, i: asyncio.sleep(0)
    with RunningApp(model, limits=Limits(write_time=0.5)) as app:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(app.address)
        with connection:
            connection.sendall(head(length=len(STREAM)) + STREAM)
            soon(lambda: len(model.requests) == 1)
            assert httpx.get(f"{app.url}/health/live").status_code == 200
            soon(lambda: model.left == 1)
            poll = select.poll()
            poll.register(connection, select.POLLERR)
            soon(lambda: bool(poll.poll(0)))  # reset: the system keeps nothing of what it could not send
        soon(lambda: app.state.num_unfinished == 0)


def test_slow_loris_does_not_slow_good_clients() -> None:
    with RunningApp() as app:
        alone = sorted(good(app) for _ in range(20))
        crowd = [app.connect() for _ in range(300)]
        for connection in crowd:
            connection.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nx-a: ")
        beside = sorted(good(app) for _ in range(20))
        for connection in crowd:
            connection.close()
        assert beside[10] < 3 * alone[10] + 0.05


def test_more_clients_than_places_are_refused_at_once() -> None:
    """100 clients, 4 answered at a time, 16 may wait: each of the others knows within a moment, and nobody is lost."""
    model = ScriptedClient()
    seats = asyncio.Semaphore(4)

    async def work(request: Any) -> None:
        async with seats:
            await asyncio.sleep(0.05)

    model.before_start = work
    with RunningApp(model, limits=Limits(queued_requests=16)) as app:

        async def ask(client: httpx.AsyncClient) -> tuple[int, float]:
            begun = time.monotonic()
            answer = await client.post(f"{app.url}/v1/completions", json={"prompt": "a"})
            if answer.status_code == 429:
                assert 1 <= int(answer.headers["retry-after"]) <= 120
            return answer.status_code, time.monotonic() - begun

        async def crowd() -> list[tuple[int, float]]:
            async with httpx.AsyncClient(limits=httpx.Limits(max_connections=100)) as client:
                return await asyncio.gather(*(ask(client) for _ in range(100)))

        answers = asyncio.run(crowd())
    assert {status for status, _ in answers} == {200, 429}
    assert sum(status == 200 for status, _ in answers) == len(model.requests) >= 16
    assert model.left == 0
