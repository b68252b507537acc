"""The official Anthropic client, unchanged, against a running server."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from support.server import Server

PARIS: list[Any] = [{"role": "user", "content": "What is the capital of France? Answer with one word."}]
WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather at a place",
    "input_schema": {
        "type": "object",
        "properties": {"place": {"type": "string"}, "unit": {"enum": ["C", "F"]}},
        "required": ["place", "unit"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def client(smollm2_server: Server) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=smollm2_server.url, api_key="none", max_retries=0)


def test_a_message_and_its_stream(client: anthropic.Anthropic) -> None:
    options: dict[str, Any] = {
        "model": "smollm2",
        "messages": PARIS,
        "max_tokens": 20,
        "extra_body": {"temperature": 0},
    }
    message = client.messages.create(**options, system="You are helpful.")
    assert "Paris" in message.content[0].text  # type: ignore[union-attr]
    assert message.stop_reason == "end_turn"
    with client.messages.stream(**options, system="You are helpful.") as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == message.content[0].text  # type: ignore[union-attr]
    assert final.usage.output_tokens == message.usage.output_tokens
    counted = client.messages.count_tokens(model="smollm2", messages=PARIS, system="You are helpful.")
    usage = message.usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_a_tool_that_must_be_used(client: anthropic.Anthropic) -> None:
    question: Any = {"role": "user", "content": "How warm is it in Oslo?"}
    options: dict[str, Any] = {
        "model": "smollm2", "max_tokens": 100, "tools": [WEATHER], "tool_choice": {"type": "any"},
        "extra_body": {"seed": 5},
    }  # fmt: skip
    message = client.messages.create(messages=[question], **options)
    assert message.stop_reason == "tool_use"
    (call,) = [block for block in message.content if block.type == "tool_use"][:1]
    assert call.name == "get_weather"
    assert call.input.keys() == {"place", "unit"}
    with client.messages.stream(messages=[question], **options) as stream:
        streamed = stream.get_final_message()
    assert [b.input for b in streamed.content if b.type == "tool_use"] == [
        b.input for b in message.content if b.type == "tool_use"
    ]
    result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "12 C"}
    turns: list[Any] = [
        question,
        {"role": "assistant", "content": [b.model_dump(exclude_none=True) for b in message.content]},
        {"role": "user", "content": [result]},
    ]
    answer = client.messages.create(model="smollm2", messages=turns, max_tokens=16, tools=[WEATHER])
    assert answer.usage.output_tokens > 0


def test_errors_are_the_clients_own(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="top_p"):
        client.messages.create(model="smollm2", messages=PARIS, max_tokens=5, extra_body={"top_p": 7.0})
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="other", messages=PARIS, max_tokens=5)
