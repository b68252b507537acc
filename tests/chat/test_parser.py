"""Answers to content and tool calls: every format, cut anywhere."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tools import TOOLS

from pellucid.chat.calls import Delta
from pellucid.chat.formats import FORMATS
from pellucid.chat.parser import AnswerParser
from pellucid.chat.reasoning import REASONING_FORMATS
from pellucid.chat.tools import checked_toolbox

WEATHER = ("get_weather", {"city": "Ulm"})
NOW: tuple[str, dict[str, Any]] = ("now", {})

# (format, answer, content, calls)
ANSWERS: list[tuple[str, str, str, list[tuple[str, dict[str, Any]]]]] = [
    ("hermes", '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Ulm"}}\n</tool_call>', "", [WEATHER]),
    ("hermes", '{"arguments": {"city": "Ulm"}, "name": "get_weather"}', "=", []),
    (
        "hermes",
        'Let me see.\n<tool_call>\n{"arguments": {"city": "Ulm"}, "name": "get_weather"}\n</tool_call>\n'
        '<tool_call>{"name": "now"}</tool_call>\n',
        "Let me see.",
        [WEATHER, NOW],
    ),
    ("hermes", '<tool_call>[{"name": "now"}, {"name": "get_weather", "arguments": {"city": "Ulm"}}]</tool_call>', "",
     [NOW, WEATHER]),
    ("hermes", '<tool_call>{"name": "get_weather", "arguments": "{\\"city\\": \\"Ulm\\"}"}</tool_call>', "", [WEATHER]),
    ("hermes", '<tool_call>{"type": "function", "function": {"name": "now", "arguments": {}}}</tool_call>', "", [NOW]),
    ("hermes", '<tool_call>{"name": "now", "arguments": null}', "", [NOW]),  # the end marker is missing
    ("hermes", '<tool_call>{"name": "now"}\n<tool_call>{"name": "now"}</tool_call>', "", [NOW, NOW]),
    ("hermes", '<tool_call>{"name": "get_weather", "arguments": {"city": "</tool_call>\\"}{"}}</tool_call>', "",
     [("get_weather", {"city": '</tool_call>"}{'})]),
    ("hermes", '<tool_call>{"name": "get_weather", "arguments": {"city": "a\nb"}}</tool_call>', "",
     [("get_weather", {"city": "a\nb"})]),  # a line break that should have been escaped
    ("hermes", 'First <tool_call>{"name": "now"}</tool_call>\nthen.', "First\nthen.", [NOW]),
    # Malformed in every way: text.
    ("hermes", '<tool_call>{"name": "launch", "arguments": {}}</tool_call>', "=", []),
    ("hermes", '<tool_call>{"name": "now", "arguments": [1]}</tool_call>', "=", []),
    ("hermes", '<tool_call>{"name": "now", "arguments": "x"}</tool_call>', "=", []),
    ("hermes", '<tool_call>{"name": ["now"]}</tool_call>', "=", []),
    ("hermes", '<tool_call>{"name": "now", "arguments": {"x": NaN}}</tool_call>', "=", []),
    ("hermes", "<tool_call>now()</tool_call>", "=", []),
    ("hermes", '<tool_call>{"name": "now", "arg', "=", []),
    ("hermes", "<tool_call>", "=", []),
    ("hermes", "<tool_c", "=", []),
    ("hermes", "a <tool_cup> b", "=", []),
    ("hermes", "  white space around \n", "=", []),
    ("hermes", " \n ", "=", []),
    ("hermes", '<tool_call>{"name": "now" <tool_call>{"name": "now"}</tool_call>', '<tool_call>{"name": "now"', [NOW]),
    ("hermes", '<tool_call>{"a":' + "[" * 100 + "</tool_call>", "=", []),
    ("hermes", '<tool_call>{"name": "now", "arguments": {"n": ' + "9" * 5000 + "}}</tool_call>", "=", []),
    (
        "qwen3_coder",
        "I call.\n<tool_call>\n<function=get_weather>\n<parameter=city>\nUlm\n</parameter>\n<parameter=days>\n3\n"
        "</parameter>\n</function>\n</tool_call>",
        "I call.",
        [("get_weather", {"city": "Ulm", "days": 3})],
    ),
    ("qwen3_coder", "<function=get_weather><parameter=city>Ulm</parameter></function>", "", [WEATHER]),
    ("qwen3_coder", "<tool_call><function=now></function></tool_call>\n<tool_call><function=now></function>",
     "", [NOW, NOW]),
    ("qwen3_coder",
     "<tool_call>\n<function=add>\n<parameter=numbers>\n[1, 2.5]\n</parameter>\n<parameter=label>\nNone\n</parameter>\n"
     "<parameter=exact>\nTrue\n</parameter>\n</function>\n</tool_call>",
     "", [("add", {"numbers": [1, 2.5], "label": None, "exact": True})]),
    ("qwen3_coder", "<function=get_weather><parameter=city>\n3\n</parameter>x</parameter>\n</function>", "",
     [("get_weather", {"city": "3\n</parameter>x"})]),
    ("qwen3_coder", "<function=launch></function>", "=", []),
    ("qwen3_coder", "<function=now><parameter=a>b</function>", "=", []),
    ("qwen3_coder", "<function=now>text</function>", "=", []),
    ("qwen3_coder", "<function=" + "n" * 300 + "></function>", "=", []),
    ("llama3", '{"name": "get_weather", "parameters": {"city": "Ulm"}}', "", [WEATHER]),
    ("llama3", ' {"type": "function", "name": "now", "parameters": {}}; {"name": "now"};', "", [NOW, NOW]),
    ("llama3", '<|python_tag|>{"name": "get_weather", "parameters": {"city": "Ulm"}}', "", [WEATHER]),
    ("llama3", '<|python_tag|>print("hello")', "=", []),
    ("llama3", '{"city": "Ulm"}', "=", []),
    ("llama3", 'It is {"name": "now", "parameters": {}}', "=", []),
    ("llama3", '{"name": "launch", "parameters": {}}', "=", []),
    ("llama3", "{", "=", []),
    ("mistral", '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Ulm"}}, {"name": "now"}]', "",
     [WEATHER, NOW]),
    ("mistral", '[TOOL_CALLS][{"name": "now", "arguments": {}, "id": "abcdefghi"}]', "", [NOW]),
    ("mistral", 'Yes.[TOOL_CALLS]get_weather[ARGS]{"city": "Ulm"}[TOOL_CALLS]now[CALL_ID]a1[ARGS]{}', "Yes.",
     [WEATHER, NOW]),
    ("mistral", '[TOOL_CALLS]get_weather{"city": "Ulm"}', "", [WEATHER]),
    ("mistral", "[TOOL_CALLS]launch[ARGS]{}", "=", []),
    ("mistral", "[TOOL_CALLS]get weather[ARGS]{}", "=", []),
    ("mistral", "[TOOL_CALLS]" + "n" * 300, "=", []),
    ("mistral", "[TOOL_CALLS] []", "=", []),
    ("mistral", "[TOOL_", "=", []),
    ("gemma3", '```tool_code\nget_weather(city="Ulm")\n```', "", [WEATHER]),
    ("gemma3", "```tool_code\nprint(get_weather('Ulm', days=3))\nnow()\n```", "",
     [("get_weather", {"city": "Ulm", "days": 3}), NOW]),
    ("gemma3", '[get_weather(city="Ulm"), now()]', "", [WEATHER, NOW]),
    ("gemma3", '[ get_weather (city="a]b)")]', "", [("get_weather", {"city": "a]b)"})]),
    ("gemma3", '```json\n{"name": "get_weather", "parameters": {"city": "Ulm"}}\n```', "", [WEATHER]),
    ("gemma3", '{"name": "get_weather", "parameters": {"city": "Ulm"}}', "", [WEATHER]),
    ("gemma3", '[{"name": "now"}]', "", [NOW]),
    ("gemma3", "```tool_code\nadd([1, -2.5], exact=true, label=null)\n```", "",
     [("add", {"numbers": [1, -2.5], "exact": True, "label": None})]),
    ("gemma3", '```tool_code\n__import__("os").system("x")\n```', "=", []),
    ("gemma3", "```tool_code\nnow(**{})\n```", "=", []),
    ("gemma3", "```tool_code\nadd(numbers=1+2)\n```", "=", []),
    ("gemma3", "```tool_code\nadd([1], numbers=[1])\n```", "=", []),
    ("gemma3", "```tool_code\nx = now()\n```", "=", []),
    ("gemma3", "```tool_code\n" + "-" * 20_000 + "1\n```", "=", []),
    ("gemma3", "```tool_code\n" + "now." * 10_000 + "x\n```", "=", []),
    ("gemma3", '```json\n{"answer": 42}\n``` is it', "=", []),
    ("gemma3", "[1, 2, 3]", "=", []),
    ("gemma3", "```python\nnow()\n```", "=", []),
    ("functiongemma", "<start_function_call>call:get_weather{city:<escape>Ulm<escape>}<end_function_call>", "",
     [WEATHER]),
    ("functiongemma", "<start_function_call>call:now{}<end_function_call><start_function_call>call:now{}", "",
     [NOW, NOW]),
    ("functiongemma",
     "<start_function_call>call:add{exact:true,label:<escape>}{:,<escape>,numbers:[1, 2.5]}<end_function_call>", "",
     [("add", {"exact": True, "label": "}{:,", "numbers": [1, 2.5]})]),
    ("functiongemma", "<start_function_call>call:launch{}<end_function_call>", "=", []),
    ("functiongemma", "<start_function_call>call:now{a}<end_function_call>", "=", []),
    ("functiongemma", "<start_function_call>call:now{a:}<end_function_call>", "=", []),
    ("functiongemma", "<start_function_call>call:now{a{b:1}}<end_function_call>", "=", []),
    ("functiongemma", "<start_function_call>call:now{a:[1}]<end_function_call>", "=", []),
    ("functiongemma", "<start_function_call>call:now{a:<escape>b<esc", "=", []),
    ("gemma4", 'So.<|tool_call>call:get_weather{city:<|"|>Ulm<|"|>}<tool_call|>', "So.", [WEATHER]),
    ("gemma4", '<|tool_call>call:add{numbers:[1],label:<|"|><|"|>,x:{y:<|"|>z<|"|>}}<tool_call|>', "",
     [("add", {"numbers": [1], "label": "", "x": {"y": "z"}})]),
    ("gemma4", '<|tool_call>{"name": "now", "arguments": {}}<tool_call|>', "", [NOW]),
]  # fmt: skip


def parser(format: str | None, choice: str = "auto", reasoning: str | None = None, **options: Any) -> AnswerParser:
    parallel = options.pop("parallel", True)
    return AnswerParser(
        b"key",
        format=FORMATS[format] if format else None,
        toolbox=checked_toolbox(TOOLS, choice, parallel)[1] if format else None,
        reasoning=REASONING_FORMATS[reasoning] if reasoning else None,
        **options,
    )


def parse(parser: AnswerParser, pieces: list[str]) -> tuple[AnswerParser, list[Delta]]:
    deltas = [parser.feed(piece) for piece in pieces]
    return parser, [*deltas, parser.feed("", final=True)]


def found(parser: AnswerParser) -> tuple[str, str, list[tuple[str, str, str]]]:
    return parser.content, parser.reasoning, [(call.id, call.name, call.arguments) for call in parser.tool_calls]


def joined(deltas: list[Delta]) -> tuple[str, str, list[tuple[str, str, str]]]:
    calls: list[tuple[str, str, str]] = []
    for delta in [call for d in deltas for call in d.tool_calls]:
        if delta.name is None:
            assert delta.id is None
            assert delta.index == len(calls) - 1
            assert delta.arguments
            calls[-1] = (*calls[-1][:2], calls[-1][2] + delta.arguments)
        else:
            assert delta.id is not None
            assert delta.index == len(calls)
            calls.append((delta.id, delta.name, delta.arguments))
    return "".join(d.content for d in deltas), "".join(d.reasoning for d in deltas), calls


@pytest.mark.parametrize(("format", "answer", "content", "calls"), ANSWERS)
def test_answers(format: str, answer: str, content: str, calls: list[tuple[str, dict[str, Any]]]) -> None:
    whole = parser(format)
    delta = whole.feed(answer, final=True)
    assert whole.content == (answer if content == "=" else content)
    assert [(call.name, json.loads(call.arguments)) for call in whole.tool_calls] == calls
    assert joined([delta]) == found(whole)
    by_character, deltas = parse(parser(format), list(answer))
    assert found(by_character) == found(whole)
    assert joined(deltas) == found(whole)


def test_arguments_are_the_text_that_the_model_wrote() -> None:
    answer = '<tool_call>{"name": "add", "arguments": {"numbers": [1.0,2e3],  "label": "\\u00e9"}}</tool_call>'
    whole, _ = parse(parser("hermes"), [answer])
    assert whole.tool_calls[0].arguments == '{"numbers": [1.0,2e3],  "label": "\\u00e9"}'


FRAGMENTS = [
    "<tool_call>", "</tool_call>", '{"name": "now"', ', "arguments": ', "{}", "}", '{"city": "Ulm"}', "get_weather",
    "now", "<function=now>", "<parameter=a>", "</parameter>", "</function>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "[",
    "]",
    "```tool_code\n", "```json", "```", "now()", "(", ")", ",", "<start_function_call>", "<end_function_call>",
    "<escape>", "call:now{", "a:", "<|tool_call>", "<tool_call|>", '<|"|>', "<|python_tag|>", ";", " ", "\n", '"',
    "\\", "x", "é",
    "<think>", "</think>", "<", "[T",
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(data=st.data(), format=st.sampled_from(list(FORMATS)), parallel=st.booleans())
def test_it_does_not_matter_how_an_answer_is_cut(data: st.DataObject, format: str, parallel: bool) -> None:
    own = [answer for name, answer, _, _ in ANSWERS if name == format and len(answer) < 200]
    answer = "".join(data.draw(st.lists(st.sampled_from(FRAGMENTS + own), max_size=12)))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(answer)), max_size=12)))
    pieces = [answer[a:b] for a, b in zip([0, *cuts], [*cuts, len(answer)], strict=True)]
    reasoning = data.draw(st.sampled_from([None, "think"]))
    open = data.draw(st.booleans())
    options = {"parallel": parallel, "reasoning": reasoning, "reasoning_open": open}
    whole = parser(format, **options)  # type: ignore[arg-type]
    whole.feed(answer, final=True)
    cut, deltas = parse(parser(format, **options), pieces)  # type: ignore[arg-type]
    assert found(cut) == found(whole)
    assert joined(deltas) == found(whole)
    assert parallel or len(whole.tool_calls) <= 1
    for call in whole.tool_calls:
        assert isinstance(json.loads(call.arguments), dict)
    if not whole.tool_calls and reasoning is None:
        assert whole.content == answer


@pytest.mark.parametrize(
    ("format", "answer"),
    [
        ("hermes", '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Ulm", "days": 3}}\n</tool_call>'),
        (
            "llama3",
            '{"name": "get_weather", "parameters": {"city": "Ulm", "days": 3}}; {"name": "now", "parameters": {}}',
        ),
        ("mistral_args", '[TOOL_CALLS]get_weather[ARGS]{"city": "Ulm", "days": 3}[TOOL_CALLS]now[ARGS]{}'),
        ("gemma4", '<|tool_call>{"name": "get_weather", "arguments": {"city": "Ulm", "days": 3}}<tool_call|>'),
        ("mistral", '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Ulm", "days": 3}}]'),
    ],
)
def test_forced_calls_are_reported_as_they_grow_and_when_they_are_cut_off(format: str, answer: str) -> None:
    whole, deltas = parse(parser(format, "required"), list(answer))
    assert whole.content == ""
    assert whole.tool_calls[0].arguments == '{"city": "Ulm", "days": 3}'
    assert joined(deltas) == found(whole)
    assert len([c for d in deltas for c in d.tool_calls]) > 15
    start = answer.index('{"city"')
    first_call = len(answer) if format in ("hermes", "gemma4", "mistral") else answer.index("}") + 1
    for end in range(1, start + 1):  # cut off before anything of it can be reported
        cut = parser(format, "required")
        cut.feed(answer[:end], final=True)
        assert (cut.content, [call.arguments for call in cut.tool_calls]) in (("", []), ("", [""]))
    for end in range(start + 1, first_call):
        cut = parser(format, "required")
        cut.feed(answer[:end], final=True)
        assert cut.content == ""
        assert cut.tool_calls[0].name == "get_weather"
        assert cut.tool_calls[0].arguments == whole.tool_calls[0].arguments[: end - start]
        assert found(parse(parser(format, "required"), list(answer[:end]))[0]) == found(cut)


def test_parameters_of_a_forced_call_are_reported_one_by_one() -> None:
    answer = (
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nUlm\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
        "</function>\n</tool_call>"
    )
    whole, deltas = parse(parser("qwen3_coder", "required"), list(answer))
    assert [c.arguments for d in deltas for c in d.tool_calls] == ["{", '"city": "Ulm"', ', "days": 3', "}"]
    assert joined(deltas) == found(whole)
    cut = parser("qwen3_coder", "required")
    cut.feed(answer[: answer.index("3\n")], final=True)
    assert (cut.content, cut.tool_calls[0].arguments) == ("", '{"city": "Ulm"')


def test_a_list_of_forced_calls_gives_arguments_as_they_were_written() -> None:
    answer = '[TOOL_CALLS][{"name": "add", "arguments": {"numbers":[1.0, 2e3]}}, {"name": "now", "arguments": { }}]'
    whole, deltas = parse(parser("mistral", "required"), list(answer))
    assert [call.arguments for call in whole.tool_calls] == ['{"numbers":[1.0, 2e3]}', "{ }"]
    assert joined(deltas) == found(whole)


def test_only_one_call_where_no_more_are_wanted() -> None:
    for answer, rest in (
        ('<tool_call>{"name": "now"}</tool_call>\n<tool_call>now', "<tool_call>now"),
        ('<tool_call>[{"name": "now"}, {"name": "now"}]</tool_call>', '{"name": "now", "arguments": {}}'),
    ):  # fmt: skip
        one, deltas = parse(parser("hermes", parallel=False), list(answer))
        assert [call.name for call in one.tool_calls] == ["now"]
        assert one.content == rest
        assert joined(deltas) == found(one)


def test_ids_are_those_of_the_answer() -> None:
    answer = '<tool_call>{"name": "now"}</tool_call><tool_call>{"name": "now"}</tool_call>'
    first, second = (parse(parser("hermes"), [answer])[0].tool_calls for _ in range(2))
    assert first == second
    assert len({call.id for call in first}) == 2
    for call in first:
        assert call.id.startswith("call_")
        assert len(call.id) == 29
    short = parse(parser("mistral"), ["[TOOL_CALLS]now[ARGS]{}"])[0].tool_calls[0].id
    assert len(short) == 9
    assert short.isalnum()


def test_without_tools_nothing_is_looked_for() -> None:
    answer = ' <tool_call>{"name": "now"}</tool_call> \n'
    plain, _ = parse(parser(None), list(answer))
    assert plain.content == answer
    assert not plain.tool_calls


@pytest.mark.parametrize(
    ("answer", "open", "reasoning", "content"),
    [
        ("<think>\nHm.\n</think>\n\nYes.", False, "Hm.", "Yes."),
        ("\n<think>Hm. </think>Yes.\n", False, "Hm.", "Yes.\n"),
        ("Hm.\n\nSo.</think>\n\nYes.", True, "Hm.\n\nSo.", "Yes."),
        ("\n\n</think>\n\nYes.", True, "", "Yes."),
        ("<think>Never ending ", False, "Never ending", ""),
        ("Never ending", True, "Never ending", ""),
        ("<think>a</thin", False, "a</thin", ""),
        ("Yes.", False, "", "Yes."),
        (" Yes.", False, "", " Yes."),
        ("<thin", False, "", "<thin"),
        ("", True, "", ""),
        ("Yes <think>no</think>", False, "", "Yes <think>no</think>"),
        ("<think>a</think>b</think>c", False, "a", "b</think>c"),
        ('<think>a <tool_call>{"name": "now"}</tool_call></think>b', False,
         'a <tool_call>{"name": "now"}</tool_call>', "b"),
    ],
)  # fmt: skip
def test_reasoning(answer: str, open: bool, reasoning: str, content: str) -> None:
    whole = parser("hermes", reasoning="think", reasoning_open=open)
    whole.feed(answer, final=True)
    assert (whole.reasoning, whole.content, whole.tool_calls) == (reasoning, content, [])
    cut, deltas = parse(parser("hermes", reasoning="think", reasoning_open=open), list(answer))
    assert found(cut) == found(whole) == joined(deltas)


def test_reasoning_and_then_a_call() -> None:
    answer = '<think>\nWhich tool?\n</think>\n\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    whole, deltas = parse(parser("hermes", reasoning="think"), list(answer))
    assert (whole.reasoning, whole.content) == ("Which tool?", "")
    assert [call.name for call in whole.tool_calls] == ["now"]
    assert joined(deltas) == found(whole)


@pytest.mark.parametrize("format", list(FORMATS))
def test_long_hostile_answers_take_linear_time(format: str) -> None:
    openers = [*FORMATS[format].openers, *FORMATS[format].edge_openers]
    for filler in ('{"', "{", '"', " ", "(", "[", "<function=now><parameter=a>", "call:now{", "\\"):
        for opener in openers:
            answer = (opener + filler) * (30_000 // len(opener + filler))
            whole = parser(format)
            for start in range(0, len(answer), 1000):
                whole.feed(answer[start : start + 1000])
            whole.feed("", final=True)
            assert whole.content == answer or whole.tool_calls
