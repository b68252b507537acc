"""/openapi.json and /docs: made from the routes and from the tables that the bodies are checked with."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from starlette.responses import Response

from pellucid import __version__
from pellucid.api.answer_schemas import Events
from pellucid.api.sampling_schema import Schema, closed, text
from pellucid.server.error_codes import CODES
from pellucid.server.settings import ServerSettings
from pellucid.server.sse import json_response
from pellucid.server.state import state_of

router = APIRouter()

ERROR = closed(
    {
        "error": closed(
            {
                "message": text("for people: what was found, what was expected, what to do"),
                "type": text("the kind of error, as the API that was asked names it"),
                "param": {"type": ["string", "null"], "description": "the field that is wrong"},
                "code": {"enum": sorted(CODES), "description": "for programs"},
            },
            ("message", "type", "param", "code"),
            description="what is wrong",
        )
    },
    ("error",),
)
ANTHROPIC_ERROR = closed(
    {
        "type": {"const": "error", "description": "always this"},
        "error": ERROR["properties"]["error"],
        "request_id": text("the request's id, as in the header x-request-id"),
    },
    ("type", "error", "request_id"),
)
_ERRORS = {
    400: "The body is not sound JSON, or a field has a value that is not allowed; it is named",
    401: "No API key, or an unknown one",
    403: "A web page of an origin that is not allowed, or a key that may not do this",
    404: "No such model, or no such path",
    408: "The request did not come in time",
    413: "The body is too large",
    415: "The body is not application/json",
    421: "The Host header does not name this server",
    429: "Too many requests; Retry-After says when to come back",
    431: "The headers are too large",
    500: "A fault of the server's; its log says more under the request's id",
    503: "The model is being loaded or its engine started again, or the server is being stopped; see Retry-After",
}


def described(
    summary: str,
    body: Schema | None = None,
    *,
    answer: Schema | None = None,
    events: Events | None = None,
    open_to_all: bool = False,
    media_type: str = "application/json",
    parameters: Mapping[str, str] | None = None,
    query: Mapping[str, Schema] | None = None,
    errors: Literal["Error", "AnthropicError"] = "Error",
) -> dict[str, Any]:
    """The keyword arguments with which a route is put on a router, so that it stands in /openapi.json as it is.

    `answer`: its schema, where it is JSON. `events`: what its stream consists of, if it can be one. `parameters`: the
    parts of its path, `query` what may stand behind it.
    """
    content: dict[str, Any] = {media_type: {"schema": answer or {"type": "string"}}}
    if events is not None:
        content["text/event-stream"] = {"schema": {"type": "string"}, "x-events": events}
    unmet = set() if body is not None else {413, 415} if parameters else {400, 413, 415}
    statuses = [status for status in _ERRORS if status not in unmet]
    if open_to_all:
        statuses = [status for status in statuses if status not in (401, 404)]
    extra: dict[str, Any] = {
        "responses": {
            "200": {"description": "The answer", "content": content},
            **{str(status): {"$ref": f"#/components/responses/{errors}{status}"} for status in statuses},
        },
        "security": [{}] if open_to_all else [{"bearer": []}, {"x-api-key": []}],
    }
    if body is not None:
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": _nullable(body)}}}
    extra["parameters"] = [
        {"name": name, "in": "path", "required": True, "description": about, "schema": {"type": "string"}}
        for name, about in (parameters or {}).items()
    ]
    extra["parameters"] += [
        {"name": name, "in": "query", "description": schema["description"], "schema": schema}
        for name, schema in (query or {}).items()
    ]
    return {"summary": summary, "openapi_extra": extra, "response_class": Response}


def document(app: FastAPI, settings: ServerSettings) -> dict[str, Any]:
    """The OpenAPI document of `app`."""
    limits = asdict(settings.limits)
    found: dict[str, Any] = _whole(
        get_openapi(
            title="Pellucid",
            version=__version__,
            description=(
                "An OpenAI-compatible server for large language models. Limits that no schema can say (sizes in bytes, "
                "times in seconds): " + ", ".join(f"{name} {value:,}" for name, value in _whole(limits).items()) + "."
            ),
            routes=app.routes,
        )
    )
    found["info"]["x-limits"] = limits
    components = found.setdefault("components", {})
    components["schemas"] = {"Error": ERROR, "AnthropicError": ANTHROPIC_ERROR}
    components["responses"] = {
        f"{name}{status}": {
            "description": text,
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}},
        }
        for status, text in _ERRORS.items()
        for name in components["schemas"]
    }
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    if not settings.strict:
        for operations in found["paths"].values():
            for operation in operations.values():
                if "requestBody" in operation:
                    schema = operation["requestBody"]["content"]["application/json"]["schema"]
                    schema["additionalProperties"] = True
    return found


def _whole(value: Any) -> Any:
    """`value` with whole numbers as int: FastAPI makes a float of every limit."""
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _nullable(body: Schema) -> Schema:
    """A body's schema with null for every field that may be left out: null counts as not given."""
    required = body.get("required", ())
    properties = {
        name: schema if name in required else {"anyOf": [schema, {"type": "null"}]}
        for name, schema in body["properties"].items()
    }
    return {**body, "properties": properties}


@router.get("/openapi.json", **described("This document", answer={"type": "object"}))
async def openapi(request: Request) -> Response:
    return json_response(document(request.app, state_of(request).settings))


@router.get("/docs", **described("This document, to be read", media_type="text/html"))
async def docs(request: Request) -> Response:
    return Response(page(document(request.app, state_of(request).settings)), media_type="text/html")


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "summary{cursor:pointer;padding:.4rem 0}pre{background:#8882;padding:1rem;overflow:auto}"
    "td{vertical-align:top;padding:.2rem .8rem .2rem 0}code{white-space:nowrap}"
)


def page(document: dict[str, Any]) -> str:
    """One page of HTML, which loads nothing from anywhere."""
    parts = [
        f"<!doctype html><meta charset=utf-8><title>Pellucid</title><style>{_STYLE}</style>",
        f"<h1>Pellucid {html.escape(document['info']['version'])}</h1>",
        f"<p>{html.escape(document['info']['description'])}</p>",
    ]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts.append(
                f"<details><summary><code>{method.upper()} {html.escape(path)}</code> "
                f"{html.escape(operation['summary'])}</summary>"
            )
            if "requestBody" in operation:
                schema = operation["requestBody"]["content"]["application/json"]["schema"]
                parts.append("<table>")
                for name, field in schema["properties"].items():
                    bare = field["anyOf"][0] if field.get("anyOf", [None])[-1] == {"type": "null"} else field
                    needed = " (required)" if name in schema.get("required", ()) else ""
                    about = html.escape(str(bare.get("description", "")) + needed)
                    rest = {key: value for key, value in bare.items() if key != "description"}
                    text = html.escape(json.dumps(rest, ensure_ascii=False))
                    shown = text if len(text) <= 160 else f"<details><summary>schema</summary>{text}</details>"
                    parts.append(f"<tr><td><code>{html.escape(name)}</code><td>{about}<td>{shown}")
                parts.append("</table>")
            parts.append("</details>")
    return "\n".join(parts)
