"""ServerSettings: what the HTTP side of a server is told, with the limits that hold before anything is computed."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from pellucid.errors import InvalidParameter
from pellucid.fields import boolean, integer, real, show


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Sizes are bytes, times are seconds. docs/serving.md says what a client sees when one is exceeded.

    header_nbytes, num_headers: of one request's head. body_nbytes: of its body.
    json_depth, json_containers: how deep its JSON may be nested, and how many objects and lists it may hold.
    num_connections: open at the same time. header_time, body_time: to send a head, or a body.
    idle_time: of a connection between two requests. write_time: without the client reading anything of its answer.
    queued_requests, queued_tokens: requests that wait for the engine, and their tokens (prompt and longest answer).
    """

    header_nbytes: int = 16 << 10
    num_headers: int = 100
    body_nbytes: int = 8 << 20
    json_depth: int = 64
    json_containers: int = 100_000
    num_connections: int = 1024
    header_time: float = 10.0
    body_time: float = 60.0
    idle_time: float = 60.0
    write_time: float = 60.0
    queued_requests: int = 256
    queued_tokens: int = 1_000_000

    def __post_init__(self) -> None:
        for name in ("header_nbytes", "num_headers", "body_nbytes", "json_containers", "num_connections"):
            integer(name, getattr(self, name), 1, 2**40)
        integer("json_depth", self.json_depth, 1, 500)
        for name in ("queued_requests", "queued_tokens"):
            integer(name, getattr(self, name), 1, 2**40)
        for name in ("header_time", "body_time", "idle_time", "write_time"):
            real(name, getattr(self, name), 0.0, 86_400.0, open_low=True)


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """How a server is reached, by whom, and what it allows.

    host, port: where it listens; port 0 takes a free one. allowed_hosts: names by which it may be called beside its IP
        addresses, `localhost` (on loopback) and `host`; "*" allows any.
    keys_file: a TOML file with API keys (keys.py). api_key: one more key, of a caller named "default".
    cors_origins: web pages that may call this server, such as "https://chat.example.org"; "*" allows any.
    strict: an unknown field of a request is an error; without, it is left out and named in a header of the answer.
    tls_certificate, tls_key: PEM files; both or none.
    drain_time: after the first SIGTERM, running requests have so many seconds to end.
    log_prompts: the log may hold what users write and what they are answered.
    traces: send spans to an OpenTelemetry receiver: to otlp_endpoint, the base of its URL, or to where the OTEL_*
        environment variables say.
    trace_prompts: spans may hold what users write and what they are answered.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    allowed_hosts: tuple[str, ...] = ()
    keys_file: Path | None = None
    api_key: str | None = field(default=None, repr=False)
    cors_origins: tuple[str, ...] = ()
    strict: bool = True
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    drain_time: float = 60.0
    log_prompts: bool = False
    traces: bool = False
    otlp_endpoint: str | None = None
    trace_prompts: bool = False
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not isinstance(self.host, str) or not self.host:
            raise InvalidParameter("host", f"expected an address or a name, got {show(self.host)}")
        integer("port", self.port, 0, 65_535)
        for name in ("strict", "log_prompts", "traces", "trace_prompts"):
            boolean(name, getattr(self, name))
        real("drain_time", self.drain_time, 0.0, 86_400.0, open_low=True)
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise InvalidParameter("tls_key", "goes with tls_certificate; give both or none")
        if self.otlp_endpoint is not None and not self.otlp_endpoint.startswith(("http://", "https://")):
            raise InvalidParameter(
                "otlp_endpoint", f'expected a URL like "http://localhost:4318", got {show(self.otlp_endpoint)}'
            )
        for origin in self.cors_origins:
            if origin != "*" and ("://" not in origin or origin.endswith("/")):
                raise InvalidParameter(
                    "cors_origins", f'expected origins like "https://example.org", got {show(origin)}'
                )

    @property
    def is_loopback(self) -> bool:
        """Only programs on this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
