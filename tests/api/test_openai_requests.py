"""OpenAI's bodies: every field means something or is refused by its name."""

from typing import Any

import pytest

from pellucid.api.openai_requests import parse_request, with_seed
from pellucid.api.openai_schemas import CHAT, COMPLETIONS
from pellucid.errors import InvalidParameter, ModelNotFound, UnsupportedParameter
from pellucid.sampling import SamplingParams
from pellucid.structured_outputs import StructuredOutputs

HELLO = [{"role": "user", "content": "Hello"}]


def chat(**fields: Any) -> Any:
    return parse_request(CHAT, {"messages": HELLO, **fields})


def completion(**fields: Any) -> Any:
    return parse_request(COMPLETIONS, {"prompt": "Hello", **fields})


def test_the_least() -> None:
    request = chat()
    assert request.prompts == [HELLO]
    assert request.params == SamplingParams()
    assert (request.model, request.stream, request.priority, request.cache_salt) == (None, False, None, "")
    assert completion().params == SamplingParams(max_tokens=16), "OpenAI's default"


def test_every_field_arrives() -> None:
    common = {
        "model": "m", "temperature": 0.5, "top_p": 0.9, "n": 2, "stop": ["a"], "presence_penalty": 0.1,
        "frequency_penalty": 0.2, "logit_bias": {"5": -1.5}, "seed": 7, "user": "someone", "top_k": 4, "min_p": 0.1,
        "repetition_penalty": 1.1, "ignore_eos": True, "stop_token_ids": [3], "min_tokens": 1, "store": False,
        "priority": 2, "cache_salt": "salt", "stream": True, "stream_options": {"include_usage": True},
        "metadata": {"a": "b"}, "service_tier": "auto", "response_format": {"type": "text"},
    }  # fmt: skip
    expected = {
        "temperature": 0.5, "top_p": 0.9, "n": 2, "stop": ["a"], "presence_penalty": 0.1, "frequency_penalty": 0.2,
        "logit_bias": {5: -1.5}, "seed": 7, "top_k": 4, "min_p": 0.1, "repetition_penalty": 1.1, "ignore_eos": True,
        "stop_token_ids": [3], "min_tokens": 1, "logprobs": 3, "max_tokens": 9,
    }  # fmt: skip
    requests = [
        chat(**common, logprobs=True, top_logprobs=3, max_completion_tokens=9),
        completion(**common, logprobs=3, max_tokens=9),
    ]
    for request in requests:
        assert request.params == SamplingParams(**expected)
        assert (request.model, request.priority, request.cache_salt) == ("m", 2, "salt")
        assert (request.stream, request.stream_usage) == (True, True)


def test_null_is_not_given() -> None:
    names = ["temperature", "tools", "stop", "seed", "model", "stream", "logit_bias", "user", "n", "frobnicate"]
    assert chat(**dict.fromkeys(names)) == chat()


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]])],
)
def test_the_four_kinds_of_prompt(prompt: Any, prompts: Any) -> None:
    assert completion(prompt=prompt).prompts == prompts


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"frobnicate": 1}, "frobnicate"),
        ({"temperature": "hot"}, "temperature"),
        ({"model": 5}, "model"),
        ({"user": 5}, "user"),
        ({"metadata": "x"}, "metadata"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"logprobs": 5}, "logprobs"),
        ({"top_logprobs": 5}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"add_generation_prompt": 1}, "add_generation_prompt"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "text", "strict": True}}, "response_format.strict"),
        ({"response_format": {"type": "grammar", "grammar": "x", "syntax": "ebnf"}}, "response_format.syntax"),
        ({"response_format": {"type": []}}, "response_format.type"),
        ({"tools": {}}, "tools"),
        ({"tool_parser": 1}, "tool_parser"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
        ({"receipt": 1}, "receipt"),
        ({"priority": 10**9}, "priority"),
        ({"cache_salt": 1}, "cache_salt"),
        ({"messages": None}, "messages"),
    ],
)
def test_what_is_wrong_is_named(fields: Any, name: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        chat(**fields)
    assert caught.value.param == name


@pytest.mark.parametrize("name", ["functions", "audio", "suffix", "prediction"])
def test_what_is_not_supported_is_refused_by_name(name: str) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        completion(**{name: "x"})
    assert caught.value.param == name


@pytest.mark.parametrize(
    "fields", [{"store": True}, {"service_tier": "flex"}, {"stream": True, "stream_options": {"x": 1}}]
)
def test_values_that_ask_for_more(fields: Any) -> None:
    with pytest.raises(UnsupportedParameter):
        chat(**fields)


@pytest.mark.parametrize("fields", [{"best_of": 3}, {"n": 2, "beam_width": 4}])
def test_what_is_known_at_the_end_is_not_streamed(fields: Any) -> None:
    assert completion(**fields).params.is_contest
    with pytest.raises(UnsupportedParameter) as caught:
        completion(**fields, stream=True)
    assert caught.value.param == "stream"


@pytest.mark.parametrize("prompt", [None, 5, [], {"a": 1}, ["a"] * 3000])
def test_prompts_that_are_none(prompt: Any) -> None:
    with pytest.raises(InvalidParameter, match="prompt"):
        completion(prompt=prompt)


def test_the_endpoint_and_the_model() -> None:
    with pytest.raises(UnsupportedParameter, match="/v1/embeddings"):
        parse_request("/v1/embeddings", {})
    chat(model="a").require_model(("b", "a"))
    chat().require_model(("b",))
    with pytest.raises(ModelNotFound, match="'a' is not served here; ask for 'b'"):
        chat(model="a").require_model(("b",))


def test_a_seed_is_given_where_there_is_none() -> None:
    assert with_seed(SamplingParams(), 5).seed == 5
    assert with_seed(SamplingParams(seed=0), 5).seed == 0


@pytest.mark.parametrize(
    ("format", "structured"),
    [
        ({"type": "json_object"}, {"json_object": True}),
        ({"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": {}}}, {"json": {}}),
        ({"type": "regex", "regex": "a+"}, {"regex": "a+"}),
        ({"type": "grammar", "grammar": "root ::= [a]"}, {"gbnf": "root ::= [a]"}),
        ({"type": "grammar", "grammar": "start: /a/", "syntax": "lark"}, {"grammar": "start: /a/"}),
    ],
)
def test_response_formats(format: Any, structured: Any) -> None:
    assert chat(response_format=format).params.structured_outputs == StructuredOutputs(**structured)
