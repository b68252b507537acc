"""Structured output through LLM: valid with every sampler and n > 1, refused at the call, neighbours unharmed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
