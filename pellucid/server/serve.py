"""Runs a server until it is told to stop: sockets, signals, and the order in which things end.

The first SIGTERM or SIGINT drains: new requests are refused with 503, those that run may end. The second one, or the
end of `drain_time`, aborts what is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import uvicorn

from pellucid.errors import InvalidParameter, PellucidError, ResourceError
from pellucid.server.app import create_app
from pellucid.server.protocol import protocol_with
from pellucid.server.registry import ModelRegistry
from pellucid.server.settings import ServerSettings
from pellucid.server.state import ServerState

if TYPE_CHECKING:
    from pellucid.server.tracing import Tracing

BACKLOG = 2048
ABORT_TIME = 2.0  # for what is aborted to say so to its client
TICK = 0.05

_log = logging.getLogger("pellucid.server")

WhenReady = Callable[[ServerState, str], None]
"""Called in the event loop with the server's URL, when every model is loaded."""


def serve(registry: ModelRegistry, settings: ServerSettings, when_ready: WhenReady) -> None:
    """Serve until a signal says stop; every model's process is gone then.

    Raises InvalidParameter for settings that do not work, ResourceError if the address cannot be listened on, and what
    loading a model raises.
    """
    tracing = _tracing(settings)
    app = create_app(registry, settings, tracing)
    listener = _listen(settings)
    try:
        config = uvicorn.Config(
            app,
            http=protocol_with(settings.limits),
            loop="uvloop",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=settings.limits.idle_time,  # type: ignore[arg-type] # it goes to call_later as it is
            ssl_certfile=settings.tls_certificate,
            ssl_keyfile=settings.tls_key,
        )
        try:
            config.load()
        except (OSError, ssl.SSLError) as error:
            raise InvalidParameter("tls_certificate", f"certificate and key cannot be used: {error}") from error
        scheme = "http" if settings.tls_certificate is None else "https"
        host, port = listener.getsockname()[:2]
        url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        server = _Server(config)
        loop_factory = config.get_loop_factory()
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(_run(server, registry, app.state.server, listener, lambda state: when_ready(state, url)))
    finally:
        listener.close()
        registry.kill()
        if tracing is not None:
            tracing.close()


def _tracing(settings: ServerSettings) -> Tracing | None:
    """Raises InvalidParameter without OpenTelemetry's SDK."""
    if not settings.traces:
        return None
    try:
        from pellucid.server.tracing import Tracing, otlp_provider
    except ImportError as error:
        raise InvalidParameter(
            "traces",
            f"spans need OpenTelemetry's SDK ({error}): pip install 'pellucid[otel]', or leave out --otlp-endpoint "
            "and set OTEL_SDK_DISABLED=true where OTEL_* variables ask for them",
        ) from None
    return Tracing(otlp_provider(settings.otlp_endpoint), with_text=settings.trace_prompts)


def _listen(settings: ServerSettings) -> socket.socket:
    """A socket that is bound, not yet listening."""
    try:
        found = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG
        )
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ResourceError(f"cannot listen on {settings.host} port {settings.port}: {reason}") from error
    listener.setblocking(False)
    return listener


class _Server(uvicorn.Server):
    """Signals are ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _run(
    server: _Server,
    registry: ModelRegistry,
    state: ServerState,
    listener: socket.socket,
    when_ready: Callable[[ServerState], None],
) -> None:
    stop = _Stop(server, registry, state)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.signalled)
    try:
        await registry.attach()
        serving = loop.create_task(server.serve([listener]))
        loading = loop.create_task(_loaded(registry, state, when_ready))
        await asyncio.wait({serving, loading}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done() and loading.exception() is not None and not state.draining:
            server.should_exit = server.force_exit = True
            await serving
            loading.result()
        await serving
        loading.cancel()
        with suppress(asyncio.CancelledError, PellucidError):
            await loading
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        await registry.close()


async def _loaded(registry: ModelRegistry, state: ServerState, when_ready: Callable[[ServerState], None]) -> None:
    for client in list(registry.clients.values()):
        await client.ready()
    if not state.draining:
        when_ready(state)


class _Stop:
    """What signals do."""

    def __init__(self, server: _Server, registry: ModelRegistry, state: ServerState) -> None:
        self._server = server
        self._registry = registry
        self._state = state
        self._draining: asyncio.Task[None] | None = None
        self._aborting: asyncio.Task[None] | None = None

    def signalled(self) -> None:
        loop = asyncio.get_running_loop()
        if self._draining is None:
            self._state.background.cancel_all()  # nothing of them outlives the server
            num_running = self._state.num_unfinished
            _log.info("stopping: new requests are refused, %d may end; once more to stop at once", num_running)
            self._state.draining = True
            self._draining = loop.create_task(self._drain())
        elif self._aborting is None:
            _log.info("stopping at once: %d requests are aborted", self._state.num_unfinished)
            self._aborting = loop.create_task(self._abort())

    async def _drain(self) -> None:
        if await self._unfinished_end(self._state.settings.drain_time):
            self._server.should_exit = True
        elif self._aborting is None:
            _log.warning("the time to drain is over: %d requests are aborted", self._state.num_unfinished)
            self._aborting = asyncio.get_running_loop().create_task(self._abort())

    async def _abort(self) -> None:
        await self._registry.close()
        await self._unfinished_end(ABORT_TIME)
        self._server.should_exit = self._server.force_exit = True

    async def _unfinished_end(self, most: float) -> bool:
        """Whether no request is left, after waiting for that for `most` seconds."""
        loop = asyncio.get_running_loop()
        until = loop.time() + most
        while self._state.num_unfinished and loop.time() < until:
            await asyncio.sleep(TICK)
        return not self._state.num_unfinished
