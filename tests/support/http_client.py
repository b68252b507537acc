"""A client of an app over a scripted model, in this process."""

from __future__ import annotations

import json
from typing import Any

from fastapi.routing import APIRoute
from starlette.testclient import TestClient
from support.scripted_client import ScriptedClient, ScriptedRegistry

from pellucid.server.app import ROUTERS, create_app
from pellucid.server.settings import ServerSettings
from pellucid.server.state import ServerState

HELLO = [{"role": "user", "content": "Hello"}]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


class Http(TestClient):
    """`model` is the scripted one, `state` the app's. What the app raises becomes an answer, as in a server."""

    __test__ = False

    def __init__(self, model: ScriptedClient, **settings: Any) -> None:
        self.model = model
        app = create_app(ScriptedRegistry(model), ServerSettings(**settings))  # type: ignore[arg-type]
        self.state: ServerState = app.state.server
        self.routes = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
        super().__init__(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False)

    def chat(self, **fields: Any) -> Any:
        return self.post(CHAT, json={"messages": HELLO, **fields})

    def events(self, path: str, **fields: Any) -> list[Any]:
        """The events of a stream, decoded; the last one is "[DONE]"."""
        answer = self.post(path, json={"stream": True, **fields})
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]


def error_of(answer: Any) -> dict[str, Any]:
    """The error in a body, whose shape is checked."""
    body = answer.json()
    assert body.keys() - {"type", "request_id"} == {"error"}, "the others are Anthropic's"
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"].startswith("req_")
    error: dict[str, Any] = body["error"]
    return error
