"""Forms that a model's vocabulary cannot write: 400 in the shape of each API, with the field's name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.server import Server
from support.tiny_model import SPECIAL, byte_characters, write_tiny_model

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
HELLO = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Of a server whose model has no token for "{"."""
    tokens = ["zz" if text == "{" else text for text in [*byte_characters(), "ab", *SPECIAL]]
    facts: dict[str, Any] = {"tokenizer.ggml.tokens": tokens}
    path: Path = write_tiny_model(tmp_path_factory.mktemp("model") / "small.gguf", context=1024, **facts)
    with (
        Server(str(path), "--served-model-name", "m", "--kv-cache-memory", "8MiB") as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        yield client


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {"messages": HELLO, "response_format": {"type": "json_object"}}, "response_format"),
        (CHAT, {"messages": HELLO, "tools": [TOOL], "tool_choice": "required"}, "tool_choice"),
        (CHAT, {"messages": HELLO, "tools": [TOOL],
                "tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        (CHAT, {"messages": HELLO, "response_format": {
            "type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}}, "response_format"),
        ("/v1/completions", {"prompt": "x", "structured_outputs": {"regex": "a\\{"}}, "regex"),
        (MESSAGES, {"messages": HELLO, "tools": [{"name": "f", "input_schema": SCHEMA}],
                    "tool_choice": {"type": "any"}}, "tool_choice"),
        (RESPONSES, {"input": "x", "text": {"format": {"type": "json_object"}}}, "text.format"),
    ],
)  # fmt: skip
def test_a_form_that_cannot_be_written(
    client: httpx.Client, path: str, body: dict[str, Any], param: str, stream: bool
) -> None:
    most = {"max_output_tokens" if path == RESPONSES else "max_tokens": 20}
    answer = client.post(path, json={"model": "m", "stream": stream, **most, **body})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert "no token for '{'" in error["message"], error
    assert param in error["message"]
    if path != MESSAGES:
        assert (error["type"], error["param"]) == ("invalid_request_error", param)


def test_a_dead_end_on_the_way(client: httpx.Client) -> None:
    body = {"prompt": "x", "max_tokens": 20, "structured_outputs": {"regex": "[a-z]{3}[{]"}}
    answer = client.post("/v1/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "regex"), answer.text
    streamed = client.post("/v1/completions", json=body | {"stream": True})
    assert streamed.status_code in (200, 400)  # whether a piece had been sent before
    assert '"param":"regex"' in streamed.text.split("data: ")[-1]
    assert client.post("/v1/completions", json={"prompt": "x", "max_tokens": 3}).status_code == 200
