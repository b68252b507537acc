"""Tool definitions: what is accepted, and every way in which they are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.tools import NOW, TOOLS, WEATHER

from pellucid.chat.tools import MAX_TOOLS, checked_toolbox, checked_tools
from pellucid.errors import InvalidParameter, UnsupportedParameter


def function(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **fields}}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def shared(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value, value]
    return value


def test_tools_are_copied_as_plain_json() -> None:
    tools = checked_tools(TOOLS)
    assert [tool.name for tool in tools] == ["get_weather", "now", "add"]
    assert tools[0].definition == WEATHER
    assert tools[0].parameters is not WEATHER["function"]["parameters"]
    assert tools[1].parameters == {"type": "object", "properties": {}}
    assert checked_tools(None) == checked_tools([]) == ()
    assert checked_tools([function(description="\ud800")])[0].definition["function"]["description"] == "\ufffd"


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ("now", "expected a list"),
        ({"a": 1}, "expected a list"),
        (5, "expected a list"),
        ([5], r"tools\[0\]"),
        ([None], r"tools\[0\]"),
        ([{"name": "f", "parameters": {}}], r"tools\[0\]: expected"),
        ([{"type": "function"}], r"tools\[0\]: expected"),
        ([{"type": 5, "function": {"name": "f"}}], r"tools\[0\]: expected"),
        ([{"type": "function", "function": {"name": "f"}, "x": 1}], r"tools\[0\]: expected"),
        ([function(x=1)], "'x'.*none of name"),
        ([NOW, NOW], "two of them are named 'now'"),
        ([function(parameters=[])], "JSON schema"),
        ([function(parameters={"type": "string"})], 'with "type": "object"'),
        ([function(parameters={"properties": []})], "properties"),
        ([function(description=5)], "description: expected text"),
        ([function(strict="yes")], "strict: expected True or False"),
        ([function(parameters={"default": float("nan")})], "cannot be written as JSON"),
        ([function(parameters={"default": float("inf")})], "cannot be written as JSON"),
        ([function(parameters={"default": 10**5000})], "cannot be written as JSON"),
        ([function(parameters={"default": b"x"})], "is not a JSON value"),
        ([function(parameters={"default": object()})], "is not a JSON value"),
        ([function(parameters=nested(40))], "nested more than 64 deep"),
        ([function(parameters=nested(100_000))], "nested too deep"),
        ([function(parameters={"enum": shared(60)})], "more than 262,144 bytes"),
        ([function(description="x" * 300_000)], "more than 262,144 bytes"),
        ([function(parameters={"enum": list(range(10**6))})], "more than 262,144 bytes"),
        ([function(name=f"f{i}") | {} for i in range(10_000)], "at most 128 tools, got 10,000"),
    ],
)  # fmt: skip
def test_tools_that_are_refused(tools: Any, message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        checked_tools(tools)


@pytest.mark.parametrize(
    "name", ["", "a b", "a.b", "é", "x" * 65, "a\n", "\x00", "\x1b[31m", "<|im_end|>", '"', "a{", None, 5, ["f"]]
)
def test_names_that_are_refused(name: Any) -> None:
    with pytest.raises(InvalidParameter, match=r"tools\[0\].function.name") as caught:
        checked_tools([{"type": "function", "function": {"name": name}}])
    assert str(caught.value).isprintable()


def test_a_circle_is_refused() -> None:
    circle: dict[str, Any] = {}
    circle["a"] = circle
    with pytest.raises(InvalidParameter, match="JSON"):
        checked_tools([function(parameters=circle)])


def test_other_kinds_of_tools_are_not_supported() -> None:
    with pytest.raises(UnsupportedParameter, match="'web_search'"):
        checked_tools([{"type": "web_search"}])


def test_as_many_as_there_may_be() -> None:
    assert len(checked_tools([function() | {"function": {"name": f"f{i}"}} for i in range(MAX_TOOLS)])) == MAX_TOOLS


def test_the_choice() -> None:
    assert checked_toolbox(TOOLS, "none") == ((), None)
    assert checked_toolbox(None) == ((), None)
    tools, box = checked_toolbox(TOOLS, "required", False)
    assert box is not None
    assert (len(tools), box.choice, box.parallel, box.forced, list(box.by_name)) == (
        3, "required", False, True, ["get_weather", "now", "add"]
    )  # fmt: skip
    tools, box = checked_toolbox(TOOLS, {"type": "function", "function": {"name": "now"}})
    assert box is not None
    assert (len(tools), box.choice, box.parallel, list(box.by_name)) == (3, "named", False, ["now"])
    assert json.loads(json.dumps([tool.definition for tool in tools]))[1]["function"]["name"] == "now"


@pytest.mark.parametrize(
    ("tools", "choice", "message"),
    [
        (TOOLS, "any", "expected 'auto'"),
        (TOOLS, None, "expected 'auto'"),
        (TOOLS, 5, "expected 'auto'"),
        (TOOLS, {"type": "function"}, "tool_choice: expected"),
        (TOOLS, {"type": "tool", "function": {"name": "now"}}, "tool_choice: expected"),
        (TOOLS, {"type": "function", "function": {"name": "launch"}}, "no tool named 'launch'"),
        (None, "required", "no tools are given"),
        ([], {"type": "function", "function": {"name": "now"}}, "no tools are given"),
    ],
)
def test_choices_that_are_refused(tools: Any, choice: Any, message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        checked_toolbox(tools, choice)
    with pytest.raises(InvalidParameter, match="parallel_tool_calls: expected True or False"):
        checked_toolbox(TOOLS, "auto", 1)  # type: ignore[arg-type]
