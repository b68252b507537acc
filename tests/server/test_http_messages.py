"""/v1/messages in Anthropic's shape, over a scripted model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.http_client import Http
from support.scripted_client import ScriptedClient

PATH = "/v1/messages"
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
WEATHER = {"name": "weather", "description": "of a place", "input_schema": {"type": "object", "properties": {}}}


@pytest.fixture
def http() -> Iterator[Http]:
    with Http(ScriptedClient()) as client:
        yield client


def events_of(answer: Any) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for text in answer.text.split("\n\n"):
        if text:
            name, data = text.split("\n")
            found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_a_message(http: Http) -> None:
    answer = http.post(PATH, json=HELLO).json()
    assert answer.pop("id").startswith("msg_")
    assert answer == {
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": "Once upon a time", "citations": None}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 3,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 2,
            "output_tokens": 4,
        },
    }


def test_a_stream_tells_the_same_in_events(http: Http) -> None:
    events = events_of(http.post(PATH, json=HELLO | {"stream": True}))
    assert [name for name, _ in events] == [
        "message_start", "content_block_start", *["content_block_delta"] * 4, "content_block_stop", "message_delta",
        "message_stop",
    ]  # fmt: skip
    assert all(data["type"] == name for name, data in events)
    assert "".join(data["delta"]["text"] for name, data in events if name == "content_block_delta") == (
        "Once upon a time"
    )
    assert events[0][1]["message"]["usage"]["cache_read_input_tokens"] == 2
    assert events[-2][1] == {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": 4},
    }


def test_what_is_said_reaches_the_model_in_one_form(http: Http) -> None:
    answer = http.post(
        PATH,
        json={
            "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Is it "}, {"type": "text", "text": "warm?"}]},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "Look it up.", "signature": "x"},
                        {"type": "text", "text": "One moment."},
                        {"type": "tool_use", "id": "t1", "name": "weather", "input": {"place": "Oslo"}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "t1", "content": "no station", "is_error": True},
                        {"type": "text", "text": "Well?"},
                    ],
                },
            ],
            "max_tokens": 8,
            "stop_sequences": ["END"],
            "temperature": 0.5,
            "min_p": 0.1,
            "tools": [WEATHER],
            "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        },
    )
    assert answer.status_code == 200, answer.text
    (request,) = http.model.requests
    assert request.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Is it warm?"},
        {
            "role": "assistant",
            "content": "One moment.",
            "reasoning_content": "Look it up.",
            "tool_calls": [
                {"id": "t1", "type": "function", "function": {"name": "weather", "arguments": {"place": "Oslo"}}}
            ],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "Error: no station"},
        {"role": "user", "content": "Well?"},
    ]
    assert request.params.stop == ("END",)
    assert (request.params.temperature, request.params.min_p, request.params.max_tokens) == (0.5, 0.1, 8)
    assert request.tool_choice == {"type": "function", "function": {"name": "weather"}}
    assert request.parallel_tool_calls is False
    assert request.tools == [
        {
            "type": "function",
            "function": {"name": "weather", "description": "of a place", "parameters": WEATHER["input_schema"]},
        }
    ]


IMAGE = {"type": "image", "source": {"type": "url", "url": "http://127.0.0.1/x.png"}}


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": "x", "name": "n"}]}, "messages[0].name"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [*HELLO["messages"], {"role": "assistant", "content": "I"}]}, "going on with an answer"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking.type"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"n": 2}, "n: "),
        ({"mcp_servers": []}, "mcp_servers"),
        ({"metadata": {"user": "x"}}, "metadata.user"),
        ({"stop_sequences": "END"}, "stop_sequences"),
    ],
)
def test_what_is_not_understood_is_named_in_its_shape(http: Http, change: dict[str, Any], names: str) -> None:
    answer = http.post(PATH, json=HELLO | change)
    assert answer.status_code == 400, answer.text
    body = answer.json()
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
    assert names in body["error"]["message"]
    assert body["request_id"] == answer.headers["x-request-id"]
    assert not http.model.requests


def test_an_error_after_the_beginning_is_the_last_event(http: Http) -> None:
    def fail(request: Any, i: int) -> None:
        if i == 2:
            raise RuntimeError("secret")

    http.model.before_token = fail
    events = events_of(http.post(PATH, json=HELLO | {"stream": True}))
    name, data = events[-1]
    assert (name, data["type"], data["error"]["type"]) == ("error", "error", "api_error")
    assert "secret" not in json.dumps(data)


def test_errors_of_the_server_have_its_shape_too() -> None:
    with Http(ScriptedClient(), api_key="key-of-8") as http:
        answer = http.post(PATH, json=HELLO)
        assert answer.status_code == 401
        assert answer.json()["error"]["type"] == "authentication_error"
        assert http.post(PATH, json=HELLO, headers={"x-api-key": "key-of-8"}).status_code == 200


def test_tokens_are_counted(http: Http) -> None:
    answer = http.post(f"{PATH}/count_tokens", json={"messages": HELLO["messages"], "system": "s"})
    assert answer.json() == {"input_tokens": len("<system>s<user>Hello")}
    assert http.post(f"{PATH}/count_tokens", json=HELLO).status_code == 400, "max_tokens has no meaning there"
