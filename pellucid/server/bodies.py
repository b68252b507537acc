"""Request bodies: limits before parsing, then JSON. Nothing of a body is trusted by being read here."""

from __future__ import annotations

import re
from collections.abc import Collection
from itertools import accumulate
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from pellucid.server.boundary import QUEUED_PATHS, call_of
from pellucid.server.errors import HttpError
from pellucid.server.settings import Limits
from pellucid.server.state import state_of

# A string, to its end or to the end of the body. Possessive: no byte is looked at twice, whatever the body is.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


async def read_object(request: Request) -> dict[str, Any]:
    """The JSON object in a request's body. Raises HttpError."""
    limits = state_of(request).settings.limits
    _check_headers(request, limits)
    body = await _read(request.receive, limits.body_nbytes)
    call = call_of(request.scope)
    call.body_nbytes = len(body)
    if request.scope["path"] in QUEUED_PATHS:
        admission = state_of(request).admission
        admission.refuse_when_full()
        call.arrival.enter_context(admission.arriving())
    value = parse(body, limits)
    if not isinstance(value, dict):
        raise HttpError(400, "invalid_json", "the body: expected a JSON object")
    return value


def without_unknown(request: Request, body: dict[str, Any], known: Collection[str]) -> dict[str, Any]:
    """The body; unless the server is strict, without fields nothing is known of, which a header of the answer names."""
    unknown = [] if state_of(request).settings.strict else [name for name in body if name not in known]
    if not unknown:
        return body
    named = ", ".join(re.sub(r"[^A-Za-z0-9._-]", "?", name[:64]) for name in unknown[:32])
    call_of(request.scope).headers.append((b"x-pellucid-ignored", named.encode()))
    return {name: value for name, value in body.items() if name in known}


def parse(body: bytes, limits: Limits) -> Any:
    """The value of a JSON text. Raises HttpError."""
    brackets = _STRING.sub(b"", body).translate(None, _NO_BRACKETS)
    if len(brackets) > 2 * limits.json_containers:
        raise HttpError(400, "invalid_json", f"the body holds more than {limits.json_containers:,} lists and objects")
    if brackets and max(accumulate(map(_STEP.__getitem__, brackets))) > limits.json_depth:
        raise HttpError(400, "invalid_json", f"the body is nested more than {limits.json_depth} deep")
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        place = re.search(r"\(byte (\d+)\)", str(error))
        where = f" (at byte {place[1]})" if place else ""
        raise HttpError(
            400, "invalid_json", f"the body is not sound JSON in UTF-8 with numbers in the range of a double{where}"
        ) from None


def _check_headers(request: Request, limits: Limits) -> None:
    headers = request.headers
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HttpError(415, "unsupported_media_type", "send the body with the header Content-Type: application/json")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise HttpError(415, "unsupported_media_type", "compressed bodies are not taken; send it as it is")
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > limits.body_nbytes:
        raise _too_large(limits.body_nbytes)


async def _read(receive: Receive, most: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > most:
            raise _too_large(most)
        if not message.get("more_body", False):
            return bytes(body)


def _too_large(most: int) -> HttpError:
    return HttpError(413, "body_too_large", f"the body has more than {most:,} bytes", headers={"connection": "close"})
