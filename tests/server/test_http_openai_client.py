"""The official OpenAI client, unchanged, against a running server."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import openai
import pytest
from support.server import Server

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "population": {"type": "integer"}},
    "required": ["city", "population"],
    "additionalProperties": False,
}
PARIS: list[Any] = [{"role": "user", "content": "What is the capital of France? Answer with one word."}]


@pytest.fixture(scope="module")
def client(smollm2_server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{smollm2_server.url}/v1", api_key="none", max_retries=0)


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="smollm2", messages=PARIS, temperature=0, max_completion_tokens=20)
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_is_the_same_answer(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {
        "model": "smollm2", "messages": PARIS, "seed": 7, "temperature": 0.8, "max_tokens": 24, "logprobs": True,
        "top_logprobs": 2,
    }  # fmt: skip
    whole = client.chat.completions.create(**options)
    chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == whole.choices[0].message.content
    streamed = [entry for choice in choices if choice.logprobs for entry in choice.logprobs.content or []]
    assert streamed == whole.choices[0].logprobs.content, "log-probabilities bit for bit"
    assert len(streamed[0].top_logprobs) == 2
    assert choices[-1].finish_reason == whole.choices[0].finish_reason


def test_json_schema(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": "Tell me about Paris as JSON."}],
        response_format={"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": CITY}},
        seed=1,
        max_tokens=80,
    )
    found = json.loads(answer.choices[0].message.content or "")
    assert found.keys() == {"city", "population"}
    assert isinstance(found["population"], int)


def test_several_answers_and_stops(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="smollm2", prompt=["One, two,", "Monday, Tuesday,"], n=2, seed=3, max_tokens=12, stop=["\n"], logprobs=2
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert all("\n" not in choice.text for choice in answer.choices)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert answer.choices[0].text.startswith("".join(logprobs.tokens)[:3])


def test_embeddings(client: openai.OpenAI) -> None:
    texts = ["A cat sat.", "A kitten sat.", "Interest rates rose by two percent."]
    vectors = [np.array(item.embedding) for item in client.embeddings.create(model="smollm2", input=texts).data]
    assert all(abs(np.linalg.norm(vector) - 1) < 1e-5 for vector in vectors)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    floats = client.embeddings.create(model="smollm2", input=texts[:1], encoding_format="float").data[0].embedding
    assert np.array_equal(np.array(floats, np.float32), vectors[0].astype(np.float32))


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["smollm2"]
    assert client.models.retrieve("smollm2").id == "smollm2"


def test_errors_are_the_client_s_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="frobnicate") as caught:
        client.chat.completions.create(model="smollm2", messages=PARIS, extra_body={"frobnicate": 1})
    assert caught.value.param == "frobnicate"
    assert caught.value.request_id is not None
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-5", messages=PARIS)
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="smollm2", prompt="word " * 3000)
    assert caught.value.code == "context_length_exceeded"


WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
WEATHER_IN_PARIS: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_tools(client: openai.OpenAI, choice: Any) -> None:
    """SmolLM2's template has no place for tools: they are described in a system message."""
    options: dict[str, Any] = {
        "model": "smollm2", "messages": WEATHER_IN_PARIS, "tools": [WEATHER], "tool_choice": choice, "seed": 2,
        "max_tokens": 60, "parallel_tool_calls": False,
    }  # fmt: skip
    whole = client.chat.completions.create(**options).choices[0]
    assert whole.finish_reason == "tool_calls"
    assert whole.message.content is None
    call = whole.message.tool_calls[0]
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments).keys() == {"city"}
    deltas = [chunk.choices[0] for chunk in client.chat.completions.create(**options, stream=True)]
    pieces = [piece for choice in deltas for piece in choice.delta.tool_calls or [] if piece.index == 0]
    assert (pieces[0].id, pieces[0].function.name) == (call.id, "get_weather")
    assert "".join(piece.function.arguments for piece in pieces) == call.function.arguments
    assert deltas[-1].finish_reason == "tool_calls"
    messages = [
        *WEATHER_IN_PARIS,
        whole.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "Rain, 12 degrees"},
    ]
    answer = client.chat.completions.create(**{**options, "messages": messages, "tool_choice": "none"})
    assert answer.choices[0].message.content


def test_tools_are_refused_if_a_system_message_is(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="has no place for tools, and tool_prompt=False"):
        client.chat.completions.create(
            model="smollm2", messages=WEATHER_IN_PARIS, tools=[WEATHER], extra_body={"tool_prompt": False}
        )
