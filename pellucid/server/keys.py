"""API keys: who may call, under which name, how often, and how early they are served.

A keys file is TOML, a table for each key:

    [[key]]
    name = "alice"                   # in the log, and whose share of the engine a request takes
    key = "sk-…"                     # or key_sha256 = "…", the SHA-256 of the key in hexadecimal
    admin = false                    # may load and unload models
    priority = 0                     # served before larger numbers; requests may ask for a larger one, never a smaller
    max_concurrent_requests = 16     # default: no limit
    requests_per_minute = 600        # default: no limit
"""

from __future__ import annotations

import hashlib
import hmac
import re
import tomllib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from pellucid.errors import InvalidParameter
from pellucid.fields import boolean, integer, show
from pellucid.server.errors import HttpError

MAX_FILE_NBYTES = 1 << 20
MAX_KEYS = 10_000
MIN_KEY_CHARS = 8
MAX_PRIORITY = 1_000
_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
_FIELDS = ("name", "key", "key_sha256", "admin", "priority", "max_concurrent_requests", "requests_per_minute")


@dataclass
class ApiKey:
    """One caller. `digest` is the SHA-256 of the key, 32 bytes: the key itself is not kept."""

    name: str
    digest: bytes = field(repr=False)
    priority: int = 0
    max_concurrent_requests: int | None = None
    requests_per_minute: int | None = None
    admin: bool = False
    num_running: int = 0
    recent: deque[float] = field(default_factory=deque, repr=False)  # when the requests of the last minute came

    @contextmanager
    def request(self) -> Iterator[None]:
        """One request of this caller, while it lasts. Raises HttpError if there are too many."""
        if self.max_concurrent_requests is not None and self.num_running >= self.max_concurrent_requests:
            raise HttpError(
                429,
                "rate_limit_exceeded",
                f"this API key may have {self.max_concurrent_requests} requests at the same time",
                retry_after=1,
            )
        if self.requests_per_minute is not None:
            now = monotonic()
            while self.recent and self.recent[0] <= now - 60:
                self.recent.popleft()
            if len(self.recent) >= self.requests_per_minute:
                raise HttpError(
                    429,
                    "rate_limit_exceeded",
                    f"this API key may send {self.requests_per_minute} requests a minute",
                    retry_after=self.recent[0] + 60 - now,
                )
            self.recent.append(now)
        self.num_running += 1
        try:
            yield
        finally:
            self.num_running -= 1


class KeyRing:
    """All keys of a server. Empty: everyone who can reach it may call it."""

    def __init__(self, keys: Sequence[ApiKey] = ()) -> None:
        for name in (names := [key.name for key in keys]):
            if names.count(name) > 1:
                raise InvalidParameter("keys", f"two keys are named {name!r}")
        if len({key.digest for key in keys}) < len(keys):
            raise InvalidParameter("keys", "one key is there twice, under two names")
        self._keys = tuple(keys)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, presented: bytes) -> ApiKey | None:
        """Whose key it is. Takes as long for a right one as for a wrong one."""
        digest = hashlib.sha256(presented).digest()
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found


def load_keys(path: Path | None, api_key: str | None) -> KeyRing:
    """The keys of a file, and one more named "default". Raises InvalidParameter."""
    keys = [] if path is None else _read_file(path)
    if api_key is not None:
        keys.append(ApiKey("default", _digest("api_key", {"key": api_key}), admin=True))
    return KeyRing(keys)


def presented_key(headers: Sequence[tuple[bytes, bytes]]) -> bytes | None:
    """The key in `Authorization: Bearer …` or `x-api-key: …` (None: neither is there). Raises HttpError."""
    given = [value for name, value in headers if name in (b"authorization", b"x-api-key")]
    if not given:
        return None
    bearer = [value for name, value in headers if name == b"authorization"]
    plain = [value for name, value in headers if name == b"x-api-key"]
    keys = {value.strip() for value in plain}
    for value in bearer:
        scheme, _, token = value.strip().partition(b" ")
        if scheme.lower() != b"bearer":
            raise _unauthorized("the Authorization header: expected Bearer and an API key")
        keys.add(token.strip())
    if len(keys) > 1 or len(bearer) > 1 or len(plain) > 1:
        raise _unauthorized("more than one API key is given; send one")
    return keys.pop()


def authenticate(ring: KeyRing, headers: Sequence[tuple[bytes, bytes]]) -> ApiKey:
    """Who sends these headers. Raises HttpError, 401."""
    key = presented_key(headers)
    if key is None:
        raise _unauthorized("this server needs an API key: send it as Authorization: Bearer KEY, or as x-api-key: KEY")
    found = ring.find(key)
    if found is None:
        raise _unauthorized("this API key is not known here")
    return found


def _unauthorized(message: str) -> HttpError:
    return HttpError(401, "invalid_api_key", message, headers={"www-authenticate": "Bearer"})


def _read_file(path: Path) -> list[ApiKey]:
    where = f"the keys file {str(path)!r}"
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_NBYTES + 1)
        if len(data) > MAX_FILE_NBYTES:
            raise InvalidParameter("keys_file", f"{where} has more than {MAX_FILE_NBYTES:,} bytes")
        content = tomllib.loads(data.decode("utf-8"))
    except OSError as error:
        raise InvalidParameter("keys_file", f"{where} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError):
        raise InvalidParameter("keys_file", f"{where} is not TOML in UTF-8") from None
    tables = content.get("key")
    if content.keys() != {"key"} or not isinstance(tables, list) or not 1 <= len(tables) <= MAX_KEYS:
        raise InvalidParameter("keys_file", f"{where}: expected 1 to {MAX_KEYS:,} tables [[key]] and nothing else")
    return [_key(table, f"keys_file [[key]] {i + 1}") for i, table in enumerate(tables)]


def _key(table: Any, where: str) -> ApiKey:
    if not isinstance(table, Mapping):
        raise InvalidParameter(where, f"expected a table, got {show(table)}")
    for name in table:
        if name not in _FIELDS:
            raise InvalidParameter(where, f"{show(name)} is none of {', '.join(_FIELDS)}")
    name = table.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidParameter(f"{where}.name", "expected 1 to 128 letters, digits, dots, dashes and underscores")
    limits: dict[str, Any] = {
        limit: integer(f"{where}.{limit}", table[limit], 1, 10**6)
        for limit in ("max_concurrent_requests", "requests_per_minute")
        if limit in table
    }
    priority = integer(f"{where}.priority", table.get("priority", 0), -MAX_PRIORITY, MAX_PRIORITY)
    admin = boolean(f"{where}.admin", table.get("admin", False))
    return ApiKey(name, _digest(where, table), priority, admin=admin, **limits)


def _digest(where: str, table: Mapping[str, Any]) -> bytes:
    """Messages never hold the key."""
    if ("key" in table) == ("key_sha256" in table):
        raise InvalidParameter(where, "expected key or key_sha256, one of them")
    key = table.get("key", table.get("key_sha256"))
    if "key_sha256" in table:
        if not isinstance(key, str) or not re.fullmatch(r"[0-9a-fA-F]{64}", key):
            raise InvalidParameter(f"{where}.key_sha256", "expected 64 hexadecimal digits")
        return bytes.fromhex(key)
    if not isinstance(key, str) or not re.fullmatch(rf"[!-~]{{{MIN_KEY_CHARS},512}}", key):
        raise InvalidParameter(where, f"the key: expected {MIN_KEY_CHARS} to 512 printable ASCII characters, no spaces")
    return hashlib.sha256(key.encode()).digest()
