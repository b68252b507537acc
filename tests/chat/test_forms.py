"""Forms of answers with tools: what they allow, what they do not, and that what they allow is read as sound calls."""

import json
import random
from typing import Any

import jsonschema
import pytest
from support.fake_model import ByteTokenizer
from support.structured import accepts, allowed, grammar
from support.tools import ADD, NOW, TOOLS, WEATHER

from pellucid.chat.formats import FORMATS
from pellucid.chat.forms import FormWriter, closed
from pellucid.chat.parser import AnswerParser
from pellucid.chat.reasoning import REASONING_FORMATS
from pellucid.chat.tools import Toolbox, ToolChoice, checked_toolbox
from pellucid.errors import InvalidParameter, UnsupportedParameter
from pellucid.structured.vocabulary import build_tokenizer
from pellucid.structured_outputs import StructuredOutputs

NAMED: ToolChoice = {"type": "function", "function": {"name": "get_weather"}}
CALLS = {
    "hermes": '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Ulm", "days": 3}}\n</tool_call>',
    "qwen3_coder": "<tool_call>\n<function=get_weather>\n<parameter=city>\nUlm\n</parameter>\n<parameter=days>\n3\n"
    "</parameter>\n</function>\n</tool_call>",
    "llama3": '{"name": "get_weather", "parameters": {"city": "Ulm", "days": 3}}',
    "mistral": '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Ulm", "days": 3}}]',
    "mistral_args": '[TOOL_CALLS]get_weather[ARGS]{"city": "Ulm", "days": 3}',
    "gemma3": '{"name": "get_weather", "parameters": {"city": "Ulm", "days": 3}}',
    "functiongemma": "<start_function_call>call:get_weather{city:<escape>Ulm<escape>,days:3}<end_function_call>",
    "gemma4": '<|tool_call>call:get_weather{city:<|"|>Ulm<|"|>,days:3}<tool_call|>',
}
HINTS = ("</parameter>", "<escape>", '<|"|>', '"}}]')


@pytest.fixture(scope="module")
def table() -> Any:
    return build_tokenizer(ByteTokenizer(), 260)  # type: ignore[arg-type]


def toolbox(choice: ToolChoice = "auto", *, tools: Any = TOOLS, parallel: bool = True) -> Toolbox:
    box = checked_toolbox(tools, choice, parallel)[1]
    assert box is not None
    return box


def strict(tool: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {**tool["function"], "strict": True}}


def form(name: str | None, box: Toolbox | None, own: Any = None, reasoning: str | None = None, **given: Any) -> Any:
    """The argument of `grammar`."""
    writer = FormWriter(FORMATS[name] if name else None, box, (), plain=given.get("plain", False))
    written = writer.form(own, REASONING_FORMATS[reasoning] if reasoning else None, given.get("prompt", ""))
    if written is None:
        return None
    return {"structural_tag": written.structural_tag, "disable_any_whitespace": written.disable_any_whitespace}


def fits(table: Any, text: str, *arguments: Any, **given: Any) -> bool:
    return accepts(grammar(table, **form(*arguments, **given)).matcher(), text)


def walk(table: Any, given: Any, seed: int) -> tuple[str, bool]:
    """A random answer and whether it ended. After 30 bytes it tries to spell what ends a text."""
    rng, matcher, data = random.Random(seed), grammar(table, **given).matcher(), b""
    hint = b""
    for i in range(600):
        if matcher.is_finished:
            return data.decode(), True
        tokens = set(allowed(matcher.mask()).tolist())
        if 257 in tokens and (i > 30 or len(tokens) == 1):
            return data.decode(), True
        if not hint and i > 30:
            hint = rng.choice(HINTS).encode()
        token = hint[0] if hint and hint[0] in tokens else rng.choice(sorted(tokens - {257}))
        hint = hint[1:] if hint and token == hint[0] else b""
        matcher.accept(token)
        data += bytes([token])
    return data.decode(errors="ignore"), False


def read(name: str, box: Toolbox, text: str, reasoning: str | None = None, **given: Any) -> AnswerParser:
    parser = AnswerParser(
        b"key",
        format=FORMATS[name],
        toolbox=box,
        reasoning=REASONING_FORMATS[reasoning] if reasoning else None,
        **given,
    )
    parser.feed(text, final=True)
    return parser


@pytest.mark.parametrize("name", list(FORMATS))
def test_the_forms_of_calls(name: str, table: Any) -> None:
    call, required, format = CALLS[name], toolbox("required"), FORMATS[name]
    assert (*format.begin, *format.before)[:1] == format.openers[:1] or format.edge_openers  # what may come among text
    assert fits(table, call, name, required)
    assert fits(table, call, name, toolbox(NAMED))
    found = read(name, required, call)
    assert [(c.name, json.loads(c.arguments)) for c in found.tool_calls] == [
        ("get_weather", {"city": "Ulm", "days": 3})
    ]
    for wrong in ("", "Yes.", call[:-1], call + "x", call.replace("get_weather", "launch"), call.replace("3", "10"),
                  call.replace("city", "town"), call.replace("days", "more")):  # fmt: skip
        assert not fits(table, wrong, name, required), wrong
    two = FORMATS[name].between.join([call, call])
    if name == "mistral":
        two = call[:-1] + ", " + call.removeprefix("[TOOL_CALLS][")
    assert fits(table, two, name, required)
    assert len(read(name, required, two).tool_calls) == 2
    assert not fits(table, two, name, toolbox("required", parallel=False))


@pytest.mark.parametrize("name", list(FORMATS))
@pytest.mark.parametrize("choice", ["required", NAMED, "auto"])
def test_whatever_a_form_allows_is_read_as_calls_that_fit_their_schemas(
    name: str, choice: ToolChoice, table: Any
) -> None:
    box = toolbox(choice, tools=[strict(tool) for tool in TOOLS] if choice == "auto" else TOOLS)
    given, ended = form(name, box), 0
    for seed in range(8):
        text, complete = walk(table, given, seed)
        if not complete:
            continue
        ended += 1
        parser = read(name, box, text)
        assert parser.tool_calls or choice == "auto", text
        assert choice == "auto" or not parser.content, text
        for call in parser.tool_calls:
            jsonschema.validate(json.loads(call.arguments), closed(box.by_name[call.name].parameters))
    assert ended >= 3


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_strict_tool_among_text(name: str, table: Any) -> None:
    box, call = toolbox(tools=[strict(WEATHER), NOW]), CALLS[name]
    assert form(name, toolbox()) is None
    for text in ("", "It is {sunny} <b>today</b>.", call):
        assert fits(table, text, name, box), text
    at_edge = bool(FORMATS[name].edge_openers)
    assert fits(table, f"I see. {call}", name, box)
    assert bool(read(name, box, f"I see. {call}").tool_calls) is not at_edge
    for wrong in (call[:-1] + "x", call.replace("3", "10"), call.replace("get_weather", "launch")):
        assert not fits(table, wrong, name, box), wrong


def test_a_tool_that_is_not_strict_may_be_called_with_anything_unless_it_must_be_called(table: Any) -> None:
    text = '<tool_call>\n{"name": "add", "arguments": {"numbers": "all"}}\n</tool_call>'
    assert fits(table, text, "hermes", toolbox(tools=[strict(WEATHER), ADD]))
    assert not fits(table, text, "hermes", toolbox("required", tools=[WEATHER, ADD]))
    loose = {"type": "function", "function": {**ADD["function"], "strict": False}}
    assert fits(table, text, "hermes", toolbox("required", tools=[WEATHER, loose]))


def test_calls_whose_schema_a_style_cannot_hold_are_json(table: Any) -> None:
    for schema in (
        {"type": "string", "pattern": "^a+$"}, {"$ref": "#/$defs/x"}, {"anyOf": [{"type": "string"}, {"type": "null"}]},
        {"type": "string", "enum": ["</parameter>"]}, {"enum": ["5"]}, {"type": ["string", "null"]},
    ):  # fmt: skip
        parameters = {"properties": {"x": schema}, "required": ["x"], "$defs": {"x": {"type": "string"}}}
        if "$ref" not in schema:
            del parameters["$defs"]
        box = toolbox("required", tools=[{"type": "function", "function": {"name": "f", "parameters": parameters}}])
        value = "5" if schema == {"enum": ["5"]} else "</parameter>" if "enum" in schema else "a"
        for name, begin, end in (
            ("qwen3_coder", "<tool_call>\n", "\n</tool_call>"), ("gemma4", "<|tool_call>", "<tool_call|>"),
        ):  # fmt: skip
            text = begin + json.dumps({"name": "f", "arguments": {"x": value}}) + end
            if name == "gemma4" and schema == {"enum": ["5"]}:
                text = f'{begin}call:f{{x:<|"|>5<|"|>}}{end}'
            assert fits(table, text, name, box), text
            assert json.loads(read(name, box, text).tool_calls[0].arguments) == {"x": value}


def test_values_that_quote_an_end_of_their_own(table: Any) -> None:
    box = toolbox("required", tools=[{"type": "function", "function": {"name": "f", "parameters": {
        "type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]}}}])  # fmt: skip
    evil = "a</parameter>\n<parameter=y>\nb"
    text = f"<tool_call>\n<function=f>\n<parameter=x>\n{evil}\n</parameter>\n</function>\n</tool_call>"
    assert not fits(table, text, "qwen3_coder", box)
    assert fits(table, text.replace(evil, "a<b>"), "qwen3_coder", box)


@pytest.mark.parametrize("name", ["hermes", "qwen3_coder", "mistral", "gemma4"])
def test_reasoning_comes_first_and_may_be_left_out_unless_the_prompt_has_begun_it(name: str, table: Any) -> None:
    call, box = CALLS[name], toolbox("required")
    thought = f"Hm, {call}?\n</think>\n\n{call}"
    assert fits(table, thought, name, box, None, "think", prompt="…<think>\n")
    assert not fits(table, call, name, box, None, "think", prompt="…<think>\n")
    assert fits(table, call, name, box, None, "think", prompt="…assistant\n")
    assert fits(table, "<think>\n" + thought, name, box, None, "think", prompt="…assistant\n")
    assert not fits(table, "<think>\n" + thought, name, box, None, "think", prompt="…<think>\n\n</think>\n\n")
    parser = read(name, box, thought, "think", reasoning_open=True)
    assert parser.reasoning == f"Hm, {call}?"
    assert len(parser.tool_calls) == 1


def test_another_form_beside_calls_and_after_reasoning(table: Any) -> None:
    number = StructuredOutputs(json={"type": "integer"})
    for text, expected in ((CALLS["hermes"], True), ("42", True), ("Yes.", False), (CALLS["hermes"] + "42", False)):
        assert fits(table, text, "hermes", toolbox(), number) is expected
    assert form(None, None, number) == {"structural_tag": None, "disable_any_whitespace": False}
    for own, text in (
        (number, "42"), (StructuredOutputs(regex="[a-c]+"), "abc"), (StructuredOutputs(choice=["yes", "no"]), "no"),
        (StructuredOutputs(json_object=True), "{}"),
        (StructuredOutputs(structural_tag={"type": "structural_tag", "format": {"type": "const_string", "value": "x"}}),
         "x"),
    ):  # fmt: skip
        assert fits(table, f"Hm.</think>\n\n{text}", None, None, own, "think", prompt="<think>\n")
        assert not fits(table, text, None, None, own, "think", prompt="<think>\n")
    with pytest.raises(InvalidParameter, match="structured_outputs: tool_choice asks for calls"):
        form("hermes", toolbox("required"), number)
    lark = StructuredOutputs(grammar='start: "x"')
    for arguments, prompt in ((("hermes", toolbox(), lark), ""), ((None, None, lark, "think"), "<think>\n")):
        with pytest.raises(InvalidParameter, match="grammar: cannot stand beside tools or after reasoning"):
            form(*arguments, prompt=prompt)
    assert FormWriter(None, None, (), plain=False).form(lark, REASONING_FORMATS["think"], "assistant\n") is lark


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"a": 1, "a": 2}', "missing.json"])
def test_a_form_that_is_no_json_is_refused_where_it_becomes_part_of_another(text: str) -> None:
    """Once it left as a JSONDecodeError or a RecursionError: an error of the server."""
    for own in (StructuredOutputs(json=text), StructuredOutputs(structural_tag=text)):
        with pytest.raises(InvalidParameter, match="not valid JSON"):
            form("hermes", toolbox(), own)
        writer = FormWriter(None, None, (), plain=False)
        assert writer.form(own, None, "") is own


def test_tools_described_in_the_prompt_are_called_in_json(table: Any) -> None:
    text = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    assert fits(table, text, "qwen3_coder", toolbox("required"), plain=True)
    assert not fits(table, text, "qwen3_coder", toolbox("required"))


def test_many_tools_are_called_in_json(table: Any) -> None:
    properties = {f"property_{i}": {"type": "string", "enum": ["a", "b"]} for i in range(8)}
    tools = [
        {"type": "function", "function": {"name": f"f{i}", "parameters": {"type": "object", "properties": properties}}}
        for i in range(128)
    ]
    for name, begin, end in (
        ("qwen3_coder", "<tool_call>\n", "\n</tool_call>"),
        ("gemma4", "<|tool_call>", "<tool_call|>"),
    ):
        text = begin + '{"name": "f127", "arguments": {"property_7": "b"}}' + end
        assert fits(table, text, name, toolbox("required", tools=tools))


def test_what_a_schema_asks_for_and_a_grammar_cannot_do_is_refused_by_name(table: Any) -> None:
    def box(parameters: Any, **more: Any) -> Toolbox:
        return toolbox(
            "required", tools=[{"type": "function", "function": {"name": "f", "parameters": parameters, **more}}]
        )

    for parameters in (
        {"not": {}},
        {"properties": {"x": {"if": {}}}},
        {"properties": {"x": {"$ref": "https://x.y/z"}}},
    ):
        for name in FORMATS:
            with pytest.raises((UnsupportedParameter, InvalidParameter), match=r"tools\[0\].function.parameters"):
                grammar(table, **form(name, box(parameters)))
            assert grammar(table, **form(name, box(parameters, strict=False)))


def test_a_function_takes_the_arguments_that_it_declares() -> None:
    x: dict[str, Any] = {"properties": {"x": {}}}
    assert closed(x) == {**x, "type": "object", "additionalProperties": False}
    for same in ({**x, "additionalProperties": True}, {**x, "anyOf": [x]}, {**x, "required": ["y"]}, {"required": 3}):
        assert closed(same) == {**same, "type": "object"}
