"""Structural tags: what an answer may hold, token by token; what is refused, with its place."""

import json
import random
from typing import Any

import pytest
from support.fake_model import BOS, END_OF_TURN, ByteTokenizer
from support.structured import accepts, allowed, grammar, walk

from pellucid.errors import InvalidParameter
from pellucid.structured.vocabulary import build_tokenizer

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 5}},
    "required": ["city"],
    "additionalProperties": False,
}
OPEN, CLOSE = {"type": "token", "token": "<s>"}, {"type": "token", "token": "<end>"}
CALL = '<call>{"name": "weather", "arguments": {"city": "Bern"}}</call>'


@pytest.fixture(scope="module")
def table() -> Any:
    return build_tokenizer(ByteTokenizer(), 260)  # type: ignore[arg-type]


def form(element: dict[str, Any]) -> dict[str, Any]:
    return {"structural_tag": {"type": "structural_tag", "format": element}}


def call(name: str = "weather", schema: Any = CITY, begin: str = "<call>") -> dict[str, Any]:
    content = {"type": "json_schema", "json_schema": schema}
    return {"begin": begin + f'{{"name": "{name}", "arguments": ', "content": content, "end": "}</call>"}


def calls(**more: Any) -> dict[str, Any]:
    return {
        "type": "tags_with_separator",
        "tags": [call(), call("clock", {"type": "object"})],
        "separator": "\n",
        **more,
    }


def in_text(**more: Any) -> dict[str, Any]:
    return {"type": "triggered_tags", "triggers": ["<call>"], "tags": [call()], **more}


def const(text: str) -> dict[str, Any]:
    return {"type": "const_string", "value": text}


@pytest.mark.parametrize(
    ("element", "text", "expected"),
    [
        (calls(), CALL, True),
        (calls(), CALL + "\n" + CALL.replace("weather", "clock"), True),
        (calls(), "", True),
        (calls(), "text", False),
        (calls(at_least_one=True), "", False),
        (calls(at_least_one=True), CALL, True),
        (calls(stop_after_first=True), CALL, True),
        (calls(stop_after_first=True), CALL + "\n" + CALL, False),
        (calls(), CALL.replace("Bern", "Zurich"), False),
        (calls(), CALL.replace("city", "town"), False),
        (calls(), CALL.replace("weather", "whether"), False),
        (in_text(), f"Let me see < {CALL} and {CALL}.", True),
        (in_text(), "No call", True),
        (in_text(), "<call>", False),
        (in_text(), "<call>text", False),
        (in_text(at_least_one=True), "No call", False),
        (in_text(at_least_one=True), f"A{CALL}", True),
        (in_text(stop_after_first=True), f"A{CALL}", True),
        (in_text(stop_after_first=True), f"{CALL}A", False),
        (in_text(stop_after_first=True), "No call", True),
        (
            {"type": "sequence", "elements": [const("a"), const(""), {"type": "regex", "pattern": "[bc]+"}]},
            "abcb",
            True,
        ),
        ({"type": "or", "elements": [const("left"), const("right")]}, "right", True),
        ({"type": "or", "elements": [const("left"), const("right")]}, "leftright", False),
        ({"type": "tag", "begin": "", "content": {"type": "any_text"}, "end": "</think>"}, "Hm. <b></think>", True),
        ({"type": "tag", "begin": "", "content": {"type": "any_text"}, "end": "</think>"}, "</think></think>", False),
    ],
)
def test_answers_that_fit_and_answers_that_do_not(
    table: Any, element: dict[str, Any], text: str, expected: bool
) -> None:
    assert accepts(grammar(table, **form(element)).matcher(), text) is expected


@pytest.mark.parametrize("element", [calls(at_least_one=True), in_text(at_least_one=True, stop_after_first=True)])
def test_random_answers_hold_valid_calls(table: Any, element: dict[str, Any]) -> None:
    whole, ended = grammar(table, disable_any_whitespace=True, **form(element)), 0
    for seed in range(20):
        answer, complete = walk(whole.matcher(), ByteTokenizer(), random.Random(seed))
        ended += complete
        for part in answer.split("<call>")[1:] if complete else ():
            value = json.loads(part.partition("</call>")[0])
            assert value["name"] != "weather" or len(value["arguments"]["city"]) <= 5
    assert ended >= 5 or element["type"] == "triggered_tags"


def test_control_tokens_stand_where_they_are_named_and_their_text_nowhere(table: Any) -> None:
    tag = {"begin": OPEN, "content": const("x"), "end": CLOSE}
    forced = grammar(table, **form({"type": "tag", **tag})).matcher()
    assert list(allowed(forced.mask())) == [BOS]
    for token in (BOS, ord("x"), END_OF_TURN):
        forced.accept(token)
    assert forced.is_finished
    free = grammar(table, **form({"type": "triggered_tags", "triggers": [OPEN], "tags": [tag]}))
    assert not accepts(free.matcher(), "a<s>")
    state = free.matcher()
    for token in (ord("a"), BOS):
        assert token in allowed(state.mask())
        state.accept(token)
    assert list(allowed(state.mask())) == [ord("x")]


@pytest.mark.parametrize(
    ("element", "named"),
    [
        ({"type": "json_schema", "json_schema": {"not": {}}}, "structural_tag: #/format/json_schema.*'not'"),
        ({"type": "json_schema", "json_schema": {"not": {}}, "name": "tools[3].parameters"}, r"^tools\[3\].*'not'"),
        ({"type": "regex", "pattern": "(?=a)"}, "look-ahead"),
        ({"type": "qwen_xml_parameter", "json_schema": {}}, "qwen_xml_parameter"),
        ({"type": "any_text"}, "any_text"),
        ({**in_text(), "excludes": ["x"]}, "excludes"),
        (
            {"type": "tag", "begin": OPEN, "content": const("x"), "end": {"type": "token", "token": "</s>"}},
            "ends the ans",
        ),
        ({"type": "token", "token": "<none>"}, "no token '<none>'"),
        ({"type": "token", "token": 3}, "expected text"),
        ({"type": "const_string"}, "needs value"),
        ({"type": "const_string", "value": None}, "#/format/value: expected text"),
        ({"type": "sequence", "elements": []}, "#/format/elements"),
        ({"type": "sequence", "elements": [3]}, "#/format/elements/0"),
        ({"type": "tags_with_separator", "tags": [const("x")], "separator": ""}, "#/format/tags/0"),
        ({**calls(), "at_least_one": 1}, "#/format/at_least_one"),
        ({**in_text(), "triggers": ["<call>", "<c"]}, "one trigger is the beginning"),
        ({**in_text(), "triggers": ["<other>"]}, "#/format/tags/0/begin"),
        ({**in_text(), "triggers": ["<call>", "<other>"]}, "#/format/triggers/1"),
        ({**in_text(), "triggers": [""]}, "#/format"),
        ({"type": "tag", "begin": "", "content": {"type": "any_text"}, "end": ""}, "#/format/end"),
        ([], "#/format"),
    ],
)
def test_what_is_refused_is_named(table: Any, element: Any, named: str) -> None:
    with pytest.raises(InvalidParameter, match=named):
        grammar(table, **form(element))


def test_the_outermost_object_is_checked(table: Any) -> None:
    for given in ({}, {"type": "structural_tag"}, {"structures": [], "triggers": []}, "[", "[]"):
        with pytest.raises(InvalidParameter, match="structural_tag"):
            grammar(table, structural_tag=given)


def test_schemas_that_grow_by_their_references_are_limited(table: Any) -> None:
    nested: Any = {"enum": ["x" * 3_000]}
    for _ in range(20):
        nested = {"items": nested}
    nested["prefixItems"] = [{"$ref": "#" + "/items" * depth} for depth in range(1, 20)]
    elements = [{"type": "json_schema", "json_schema": nested}] * 30
    with pytest.raises(InvalidParameter, match="with all references"):
        grammar(table, **form({"type": "sequence", "elements": elements}))
