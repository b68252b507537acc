"""/v1/responses through the official OpenAI client, unchanged, against a running server."""

from __future__ import annotations

import json
from time import sleep
from typing import Any

import openai
import pytest
from support.server import Server

PARIS = "What is the capital of France? Answer with one word."
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


@pytest.fixture(scope="module")
def client(smollm2_server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{smollm2_server.url}/v1", api_key="none", max_retries=0)


def test_a_response_and_its_stream(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "smollm2", "input": PARIS, "temperature": 0, "max_output_tokens": 20}
    whole = client.responses.create(**options, instructions="You are helpful.")
    assert "Paris" in whole.output_text
    assert whole.status == "completed"
    with client.responses.stream(**options, instructions="You are helpful.") as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert text == final.output_text == whole.output_text
    assert final.usage is not None
    assert whole.usage is not None
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_the_server_remembers(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "smollm2", "temperature": 0, "max_output_tokens": 24}
    first = client.responses.create(input=PARIS, **options)
    second = client.responses.create(input="And of Italy?", previous_response_id=first.id, **options)
    said: Any = [{"role": "user", "content": PARIS}, *first.output, {"role": "user", "content": "And of Italy?"}]
    again = client.responses.create(input=said, store=False, **options)
    assert second.output_text == again.output_text
    assert second.usage is not None
    assert again.usage is not None
    assert second.usage.input_tokens == again.usage.input_tokens
    assert second.usage.input_tokens_details.cached_tokens > 0
    assert client.responses.retrieve(second.id).output_text == second.output_text
    client.responses.delete(second.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(second.id)


def test_logprobs_of_the_text(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {
        "model": "smollm2", "input": PARIS, "temperature": 0, "max_output_tokens": 12,
        "include": ["message.output_text.logprobs"], "top_logprobs": 2,
    }  # fmt: skip
    whole = client.responses.create(**options)
    part: Any = whole.output[0].content[0]  # type: ignore[union-attr, index]
    assert "".join(position.token for position in part.logprobs).startswith(part.text)
    for position in part.logprobs:
        assert [position.top_logprobs[0].token, len(position.top_logprobs)] == [position.token, 2]
    with client.responses.stream(**options) as stream:
        told = [p for event in stream if event.type == "response.output_text.delta" for p in event.logprobs]
    assert [(p.token, p.logprob) for p in told] == [(p.token, p.logprob) for p in part.logprobs]
    chat = client.chat.completions.create(
        model="smollm2", messages=[{"role": "user", "content": PARIS}], temperature=0, max_tokens=12, logprobs=True
    )
    assert chat.choices[0].logprobs is not None
    said = chat.choices[0].logprobs.content or []
    assert [p.logprob for p in said] == [p.logprob for p in part.logprobs]


def test_the_background(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "smollm2", "temperature": 0, "background": True}
    running = client.responses.create(input=PARIS, max_output_tokens=12, **options)
    assert running.status == "in_progress"
    while running.status == "in_progress":
        sleep(0.05)
        running = client.responses.retrieve(running.id)
    assert running.output_text == client.responses.create(input=PARIS, max_output_tokens=12, temperature=0).output_text
    (item,) = client.responses.input_items.list(running.id).data
    assert (item.type, item.role, item.content[0].text) == ("message", "user", PARIS)  # type: ignore[union-attr]
    long = client.responses.create(input="Count.", max_output_tokens=900, **options, extra_body={"ignore_eos": True})
    assert client.responses.cancel(long.id).status == "cancelled"
    assert client.responses.retrieve(long.id).status == "cancelled"


def test_a_tool_and_its_result(client: openai.OpenAI) -> None:
    """SmolLM2's template has no place for tools: they are described in a system message."""
    options: dict[str, Any] = {
        "model": "smollm2", "tools": [WEATHER], "max_output_tokens": 60, "parallel_tool_calls": False,
        "extra_body": {"tool_prompt": True, "seed": 2},
    }  # fmt: skip
    question = "What is the weather in Paris?"
    whole = client.responses.create(input=question, tool_choice="required", **options)
    (call,) = [item for item in whole.output if item.type == "function_call"]
    assert call.name == "get_weather"
    assert json.loads(call.arguments).keys() == {"city"}
    with client.responses.stream(input=question, tool_choice="required", **options) as stream:
        final = stream.get_final_response()
    assert [item.arguments for item in final.output if item.type == "function_call"] == [call.arguments]
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "Rain, 12 degrees"}
    answer = client.responses.create(input=[output], previous_response_id=whole.id, tool_choice="none", **options)
    assert answer.output_text


def test_a_form(client: openai.OpenAI) -> None:
    answer = client.responses.create(
        model="smollm2",
        input="Tell me about Paris as JSON.",
        text={"format": {"type": "json_schema", "name": "w", "schema": WEATHER["parameters"], "strict": True}},
        max_output_tokens=60,
        extra_body={"seed": 1},
    )
    assert json.loads(answer.output_text).keys() == {"city"}


def test_errors_are_the_client_s_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="reasoning"):
        client.responses.create(model="smollm2", input=PARIS, reasoning={"effort": "low"})
    with pytest.raises(openai.NotFoundError, match="resp_x"):
        client.responses.create(model="smollm2", input=PARIS, previous_response_id="resp_x")
