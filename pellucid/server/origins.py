"""Which names the server answers to, and which web pages may call it.

A page on the internet can make its reader's browser call a server on the reader's own machine. Against that: the Host
header must name this server (a rebound DNS name does not), and an Origin that is another site's is refused unless it is
on the list. Programs send no Origin.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

from pellucid.server.errors import HttpError
from pellucid.server.settings import ServerSettings

Header = tuple[bytes, bytes]
EXPOSED = "x-request-id, x-pellucid-ignored, retry-after"


class Origins:
    def __init__(self, settings: ServerSettings) -> None:
        self._any_host = "*" in settings.allowed_hosts
        self._hosts = {host.lower().rstrip(".") for host in (settings.host, *settings.allowed_hosts)}
        self._hosts |= {"localhost"} if settings.is_loopback else {"localhost", socket.gethostname().lower()}
        self._loopback_only = settings.is_loopback
        self._any_origin = "*" in settings.cors_origins
        self._origins = frozenset(settings.cors_origins)

    def check_host(self, headers: Sequence[Header]) -> str:
        """The Host header. Raises HttpError, 421, if it is not this server's."""
        values = [value for name, value in headers if name == b"host"]
        host = values[0].decode("latin-1") if len(values) == 1 else ""
        if not self._any_host and not self._is_ours(_hostname(host)):
            raise HttpError(
                421,
                "misdirected_request",
                "the Host header does not name this server; the operator can add a name with --allowed-host",
            )
        return host

    def _is_ours(self, name: str) -> bool:
        if name in self._hosts:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self._loopback_only

    def check_origin(self, headers: Sequence[Header], scheme: str, host: str) -> list[Header]:
        """The headers that let the calling page read the answer. Raises HttpError, 403, if it may not call."""
        values = [value for name, value in headers if name == b"origin"]
        if not values:
            return []
        origin = values[0].decode("latin-1")
        if len(values) == 1 and origin == f"{scheme}://{host}":
            return []
        if len(values) > 1 or not (self._any_origin or origin in self._origins):
            raise HttpError(
                403,
                "origin_not_allowed",
                "pages of this origin may not call this server; the operator can allow one with --cors-origin",
            )
        return [
            (b"access-control-allow-origin", values[0]),
            (b"access-control-expose-headers", EXPOSED.encode()),
            (b"vary", b"Origin"),
        ]


PREFLIGHT: list[Header] = [
    (b"access-control-allow-methods", b"GET, POST, DELETE"),
    (b"access-control-allow-headers", b"authorization, content-type, x-api-key, *"),
    (b"access-control-max-age", b"600"),
]


def _hostname(host: str) -> str:
    """Without the port. Empty if it is no host at all."""
    try:
        parts = urlsplit(f"//{host}")
        if parts.username is not None or parts.path or parts.query or parts.fragment:
            return ""
        _ = parts.port
        return (parts.hostname or "").rstrip(".")
    except ValueError:
        return ""
