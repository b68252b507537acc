"""Structured output through LLM: valid with every sampler and n > 1, refused at the call, neighbours unharmed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_model import write_tiny_model

from pellucid import LLM, SamplingParams
from pellucid.errors import InvalidParameter, UnsupportedParameter
from pellucid.structured_outputs import StructuredOutputs

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    path: Path = write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")
    with LLM(str(path), threads=1, kv_cache_memory="4MiB") as llm:
        yield llm


def person(**more: Any) -> SamplingParams:
    form = StructuredOutputs(json=PERSON, disable_any_whitespace=True)
    return SamplingParams(structured_outputs=form, max_tokens=120, seed=3, **more)


@pytest.mark.parametrize(
    "sampler",
    [
        {"temperature": 0}, {"temperature": 1}, {"temperature": 5}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.3},
        {"typical_p": 0.5}, {"top_n_sigma": 1}, {"xtc_probability": 0.5, "xtc_threshold": 0.01}, {"mirostat": 2},
        {"dry_multiplier": 1}, {"repetition_penalty": 1.5, "presence_penalty": 1}, {"logit_bias": {5: 100}},
        {"dynatemp_range": 0.5}, {"n": 4}, {"logprobs": 3}, {"no_repeat_ngram_size": 50},
    ],
)  # fmt: skip
def test_answers_are_valid_with_every_sampler(llm: LLM, sampler: dict[str, Any]) -> None:
    [result] = llm.generate("A person:", person(**sampler))
    assert len(result.outputs) == sampler.get("n", 1)
    for answer in result.outputs:
        assert answer.finish_reason == "stop", answer
        value = json.loads(answer.text)
        assert list(value) == ["name", "age"]
        assert len(value["name"]) <= 5
        assert 0 <= value["age"] <= 99


def test_streams_and_receipts(llm: LLM) -> None:
    chunks = list(llm.stream("A person:", person()))
    text = "".join(chunk.text for chunk in chunks)
    result = chunks[-1].result
    assert result is not None
    assert json.loads(text) == json.loads(result.text)
    again = SamplingParams(**result.receipt.sampling_params)  # type: ignore[arg-type]
    assert llm.generate("A person:", again)[0].token_ids == result.token_ids


def test_the_other_forms(llm: LLM) -> None:
    def ask(**form: Any) -> str:
        [result] = llm.generate(
            "x", SamplingParams(structured_outputs=StructuredOutputs(**form), max_tokens=40, seed=1)
        )
        return str(result.text)

    assert ask(choice=["yes", "no"]) in ("yes", "no")
    assert ask(regex="[ab]{3}").strip("ab") == ""
    assert ask(json_object=True).startswith("{")
    assert ask(grammar='start: /[xy]/ "z"') in ("xz", "yz")
    assert ask(gbnf='root ::= [0-9]{4} "-" [0-9]{2}')[4] == "-"


def test_an_answer_cut_short_says_so(llm: LLM) -> None:
    params = SamplingParams(structured_outputs=StructuredOutputs(regex="a{50}"), max_tokens=3)
    [result] = llm.generate("x", params)
    assert result.finish_reason == "length"
    assert set(result.text) == {"a"}


def test_what_cannot_be_enforced_is_refused_at_the_call_and_a_neighbour_answers_as_alone(llm: LLM) -> None:
    plain = SamplingParams(max_tokens=8, seed=9, ignore_eos=True)
    [alone] = llm.generate("canary", plain)
    for form, named in [
        ({"json": {"not": {}}}, "not"),
        ({"json": "[" * 20_000}, "nested"),
        ({"json": {"$ref": "#"}}, "ref"),
        ({"json": False}, "expected text"),
        ({"json": {"enum": [str(i) for i in range(10_000)]}}, "enum"),
        ({"json": {"title": "x" * 10_000_000}}, "bytes"),
        ({"json": {"type": "string", "minLength": 3, "maxLength": 2}}, "minLength"),
        ({"regex": "a{1000000}"}, "repetition"),
        ({"grammar": "start: a"}, "grammar: line 1, column 8"),
        ({"gbnf": "root ::= root"}, "gbnf: line 1, column 1"),
    ]:
        with pytest.raises(InvalidParameter, match=named):
            llm.generate(["canary", "x"], [plain, SamplingParams(structured_outputs=StructuredOutputs(**form))])
    both = llm.generate(["canary", "A person:"], [plain, person()])
    assert both[0].token_ids == alone.token_ids
    assert json.loads(both[1].text)


def without_a(prompt: Any, answer: Any, logits: Any) -> None:
    logits[ord("a")] = -np.inf


@pytest.mark.parametrize(
    ("regex", "more", "expected"),
    [
        ("a{10}", {"stop": ["aaa"]}, ("stop", "")),
        ("a{10}", {"stop": ["aaa"], "include_stop_str_in_output": True}, ("stop", "aaa")),
        ("a{10}", {"stop_token_ids": [ord("a")]}, ("stop", "")),
        ("a{0,10}", {"logit_bias": {ord("a"): -100}}, ("stop", "")),
        ("[ab]{10}", {"bad_words": ["aa", "bb"]}, ("stop", None)),
        ("[ab]{5}", {"logits_processors": [without_a]}, ("stop", "bbbbb")),
        ("a{10}", {"bad_words": ["aa"]}, ("error", "a")),
        ("a{10}", {"no_repeat_ngram_size": 2}, ("error", "aa")),
        ("a{10}", {"allowed_token_ids": [ord("b")]}, ("error", "")),
        ("a{5}", {"logits_processors": [without_a]}, ("error", "")),
    ],
)
def test_what_else_ends_an_answer_or_forbids_tokens(
    llm: LLM, regex: str, more: dict[str, Any], expected: tuple[str, str | None]
) -> None:
    form = StructuredOutputs(regex=regex)
    no_pair = {256: -100.0}  # "ab" is one token of this model, "aa" is none
    params = {"logit_bias": no_pair, **more}
    [result] = llm.generate("x", SamplingParams(structured_outputs=form, max_tokens=30, seed=1, **params))
    reason, text = expected
    assert result.finish_reason == reason
    assert text is None or result.text == text
    if text is None:
        assert result.text in ("ababababab", "bababababa")


def test_logprobs_are_those_of_the_model(llm: LLM) -> None:
    free, held = (
        llm.generate("x", SamplingParams(structured_outputs=form, max_tokens=1, temperature=0, logprobs=2))[0]
        for form in (None, StructuredOutputs(choice=["\u0007"]))
    )
    best, own = (dict(result.outputs[0].logprobs[0]) for result in (free, held))
    assert own.pop(7).rank > 2
    assert {token: own[token] for token in own} == {token: best[token] for token in own}


@pytest.mark.parametrize("contradiction", [{"min_tokens": 3}, {"ignore_eos": True}])
def test_contradictions_are_refused_by_name(contradiction: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter, match=next(iter(contradiction))):
        person(**contradiction)


def test_the_dataclass_refuses_by_name() -> None:
    for given in ({}, {"json": {}, "regex": "a"}, {"choice": "ab"}, {"choice": []}, {"regex": ""}, {"regex": 0}):
        with pytest.raises(InvalidParameter):
            StructuredOutputs(**given)
    with pytest.raises(UnsupportedParameter, match="whitespace_pattern"):
        StructuredOutputs(whitespace_pattern=" ")
    endless: dict[str, Any] = {}
    for _ in range(100):
        endless = {"x": endless, "y": endless}
    with pytest.raises(InvalidParameter, match="json"):
        StructuredOutputs(json=endless)
