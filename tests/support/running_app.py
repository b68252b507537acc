"""An app over a scripted model behind uvicorn and our protocol, on a socket, in a thread."""

from __future__ import annotations

import asyncio
import socket
import threading
from types import TracebackType
from typing import Any, Self

import uvicorn
from support.scripted_client import ScriptedClient, ScriptedRegistry

from pellucid.server.app import create_app
from pellucid.server.protocol import protocol_with
from pellucid.server.settings import ServerSettings
from pellucid.server.state import ServerState


class RunningApp:
    """`address` is where it listens; `model` is the scripted one; `state` the app's, to be read only."""

    def __init__(self, model: ScriptedClient | None = None, **settings: Any) -> None:
        self.model = model or ScriptedClient()
        checked = ServerSettings(**settings)
        app = create_app(ScriptedRegistry(self.model), checked)  # type: ignore[arg-type]
        self.state: ServerState = app.state.server
        config = uvicorn.Config(
            app,
            http=protocol_with(checked.limits),
            loop="uvloop",
            ws="none",
            lifespan="off",
            log_config=None,
            timeout_keep_alive=checked.limits.idle_time,  # type: ignore[arg-type]
        )
        self._server = uvicorn.Server(config)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._socket.getsockname()
        run = config.get_loop_factory()

        def serve() -> None:
            with asyncio.Runner(loop_factory=run) as runner:
                runner.run(self._server.serve([self._socket]))

        self._thread = threading.Thread(target=serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.address[1]}"

    def connect(self, timeout: float = 10.0) -> socket.socket:
        connection = socket.create_connection(self.address, timeout=timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


def head(path: str = "/v1/completions", *, length: int | None = None, method: str = "POST", more: str = "") -> bytes:
    """The head of a request with a JSON body."""
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1", "content-type: application/json"]
    if length is not None:
        lines.append(f"content-length: {length}")
    return ("\r\n".join(lines) + "\r\n" + more + "\r\n").encode("latin-1")


def read_all(connection: socket.socket) -> bytes:
    """Everything until the other side hangs up."""
    data = bytearray()
    try:
        while piece := connection.recv(65536):
            data += piece
    except ConnectionResetError:
        pass
    return bytes(data)
