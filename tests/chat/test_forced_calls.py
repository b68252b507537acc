"""Calls that must be made: by models that would rather write noise, in every format, with its own control tokens."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from chat.tool_templates import HERMES, TEMPLATES
from support.tiny_model import write_tiny_model
from support.tools import NOW, TOOLS, WEATHER

from pellucid import LLM, SamplingParams, StructuredOutputs
from pellucid.chat.formats import FORMATS
from pellucid.chat.forms import closed
from pellucid.chat.tools import checked_tools
from pellucid.engine.outputs import CompletionOutput
from pellucid.errors import InvalidParameter, UnsupportedParameter

USER = {"role": "user", "content": "What is the weather in Paris, in the next three days?"}
NAMED = {"type": "function", "function": {"name": "get_weather"}}
SCHEMAS = {tool.name: closed(tool.parameters) for tool in checked_tools(TOOLS)}


def check(output: CompletionOutput, *names: str) -> None:
    """Calls and nothing else, of tools among `names`, with sound arguments; the last one may be cut off."""
    assert output.finish_reason in ("stop", "length"), output
    assert output.text == ""
    whole = output.tool_calls if output.finish_reason == "stop" else output.tool_calls[:-1]
    assert whole or output.finish_reason == "length"
    for call in whole:
        assert call.name in names
        jsonschema.validate(json.loads(call.arguments), SCHEMAS[call.name])


@pytest.fixture(scope="module")
def smollm2(smollm2_path: Path) -> Iterator[LLM]:
    with LLM(str(smollm2_path), max_model_len=2048) as llm:
        yield llm


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_smollm2_answers_with_sound_calls(smollm2: LLM, choice: Any) -> None:
    params = SamplingParams(seed=5, temperature=1, max_tokens=90, n=3)
    [result] = smollm2.chat([USER], params, tools=TOOLS, tool_choice=choice, tool_prompt=True)
    for output in result.outputs:
        check(output, *(("get_weather",) if choice is NAMED else SCHEMAS))
    assert sum(output.finish_reason == "stop" for output in result.outputs) >= 2
    if choice is NAMED:
        assert all(len(output.tool_calls) == 1 for output in result.outputs)


def test_a_stream_says_the_same_piece_by_piece(smollm2: LLM) -> None:
    params = SamplingParams(seed=5, temperature=1, max_tokens=90)
    chunks = list(smollm2.stream_chat([USER], params, tools=TOOLS, tool_choice=NAMED, tool_prompt=True))
    assert chunks[-1].result is not None
    [call] = chunks[-1].result.tool_calls
    deltas = [delta for chunk in chunks for delta in chunk.tool_calls]
    assert [(d.index, d.id, d.name) for d in deltas] == [(0, call.id, call.name)] + [(0, None, None)] * (
        len(deltas) - 1
    )
    assert "".join(delta.arguments for delta in deltas) == call.arguments
    assert len(deltas) > 3


def test_smollm2_in_other_forms(smollm2: LLM, soak: bool) -> None:
    for seed, name in enumerate(FORMATS if soak else ["qwen3_coder", "llama3", "mistral_args"]):
        params = SamplingParams(seed=seed, temperature=1, max_tokens=160 if soak else 60, n=24 if soak else 2)
        [result] = smollm2.chat(
            [USER], params, tools=TOOLS if soak else [WEATHER], tool_choice="required", tool_prompt=True,
            tool_parser=name,
        )  # fmt: skip
        for output in result.outputs:
            check(output, *SCHEMAS)


def test_every_answer_of_a_contest_is_read(smollm2: LLM) -> None:
    params = SamplingParams(max_tokens=60, n=2, best_of=3, seed=1)
    [result] = smollm2.chat([USER], params, tools=[WEATHER], tool_choice=NAMED, tool_prompt=True)
    for output in result.outputs:
        check(output, "get_weather")


def test_strict_tools_among_text(smollm2: LLM) -> None:
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    ask = {"role": "user", "content": USER["content"] + " Begin your answer with <tool_call>."}
    begins = smollm2.tokenize("<tool_call>", add_special=False)[0]  # so small a model calls nothing by itself
    params = SamplingParams(seed=3, temperature=1, max_tokens=80, n=8, logit_bias={begins: 6})
    [result] = smollm2.chat([ask], params, tools=[strict], tool_prompt=True)
    calls = [
        call
        for output in result.outputs
        for call in (output.tool_calls if output.finish_reason == "stop" else output.tool_calls[:-1])
    ]
    assert calls
    for call in calls:
        jsonschema.validate(json.loads(call.arguments), SCHEMAS[call.name])


@pytest.mark.parametrize("name", list(FORMATS))
@pytest.mark.parametrize("as_tokens", [False, True])
def test_every_form_with_its_own_tokens(name: str, as_tokens: bool, tmp_path: Path) -> None:
    """A model of random weights: texts take long to end, so they are short words here."""
    template = TEMPLATES.get(name, HERMES)
    special = FORMATS[name].tokens if as_tokens else ()
    path = write_tiny_model(tmp_path / "t.gguf", template=template, context=2048, special=special)
    units = {"type": "string", "enum": ["celsius", "fahrenheit"]}
    city = {"type": "string", "enum": ["Ulm", "Bern"]}
    parameters = {
        "type": "object", "properties": {"city": city, "days": {"type": "integer", "maximum": 9}, "unit": units},
        "required": ["city"],
    }  # fmt: skip
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": parameters}}
    params = SamplingParams(seed=2, temperature=1, max_tokens=500, n=2)
    with LLM(str(path), threads=1) as llm:
        for tools, options in (([tool, NOW], {"parallel_tool_calls": False}), ([tool], {})):
            [result] = llm.chat(
                [USER], params, tools=tools, tool_choice="required", tool_parser=name, **options  # type: ignore[arg-type]
            )  # fmt: skip
            for output in result.outputs:
                whole = output.tool_calls if output.finish_reason == "stop" else output.tool_calls[:-1]
                assert whole
                assert output.text == ""
                for call in whole:
                    schema = closed(parameters) if call.name == "get_weather" else SCHEMAS[call.name]
                    jsonschema.validate(json.loads(call.arguments), schema)


def test_what_does_not_go_together_is_refused_and_the_receipt_makes_the_answer_again(smollm2: LLM) -> None:
    def ask(tool: Any = WEATHER, **settings: Any) -> Any:
        params = SamplingParams(**{"seed": 1, "max_tokens": 60, **settings})
        return smollm2.chat([USER], params, tools=[tool], tool_choice="required", tool_prompt=True)[0]

    for settings, named in (
        ({"structured_outputs": StructuredOutputs(regex="a")}, "structured_outputs: tool_choice"),
        ({"min_tokens": 5}, "min_tokens"), ({"ignore_eos": True}, "ignore_eos"),
    ):  # fmt: skip
        with pytest.raises(InvalidParameter, match=named):
            ask(**settings)
    odd = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "not": {}}}}
    with pytest.raises(UnsupportedParameter, match=r"tools\[0\].function.parameters: the keyword 'not'"):
        ask(odd)
    made = ask()
    again = SamplingParams(**made.receipt.sampling_params)
    assert smollm2.generate(made.prompt_token_ids, again)[0].token_ids == made.token_ids
