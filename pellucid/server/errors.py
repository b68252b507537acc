"""Errors as responses, in the shape of the API that was asked: Anthropic's below /v1/messages, OpenAI's elsewhere.

What is not ours to say goes to the log; the client gets the request's id.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
from starlette.responses import Response

from pellucid.api import anthropic_responses, openai_responses
from pellucid.api.anthropic_schemas import MESSAGES
from pellucid.errors import PellucidError


class HttpError(PellucidError):
    """The server's own refusals: keys, limits, load, and what HTTP itself can get wrong.

    `retry_after`: seconds after which it may be tried again.
    """

    def __init__(
        self,
        http_status: int,
        code: str,
        message: str,
        *,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.code = code
        self.retry_after = retry_after
        self.headers = dict(headers or {})


def error_response(error: PellucidError, path: str, request_id: str) -> Response:
    headers = dict(getattr(error, "headers", {}))
    retry_after = getattr(error, "retry_after", None)
    if retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(retry_after)))
    anthropic = path == MESSAGES or path.startswith(f"{MESSAGES}/")
    body = anthropic_responses.error_body(error, request_id) if anthropic else openai_responses.error_body(error)
    return Response(msgspec.json.encode(body), error.http_status, headers=headers, media_type="application/json")


def public_error(error: Exception, request_id: str) -> PellucidError:
    """What the client is told of `error`: itself if it was written for clients, else only where to look.

    Errors of the model's files, of memory and of the engine's steps may name what is nobody's business outside.
    """
    if isinstance(error, PellucidError) and (error.http_status < 500 or error.http_status == 503):
        return error
    return HttpError(
        error.http_status if isinstance(error, PellucidError) else 500,
        error.code if isinstance(error, PellucidError) else "internal_error",
        f"this request failed inside the server, others are not affected; its log says more under {request_id}",
    )
