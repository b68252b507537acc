"""The input of /v1/responses as messages in the form that `LLM.chat` takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.api.parts import Part, parts, texts
from pellucid.errors import InvalidParameter, UnsupportedParameter
from pellucid.fields import show

_TEXT = ("input_text", "output_text")


def input_messages(given: Any) -> list[dict[str, Any]]:
    """Messages of text, or of a list of items. Raises InvalidParameter and UnsupportedParameter, which name the item.

    What the assistant thought, said and called in items that follow each other is one message.
    """
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        raise InvalidParameter("input", f"expected text or a list of items, got {show(given)}")
    messages: list[dict[str, Any]] = []
    for i, value in enumerate(given):
        item = Part(f"input[{i}]", _given(value))
        kind = item.text("type", "message")
        if kind not in _READ:
            raise UnsupportedParameter(
                f"{item.place}.type", f"{show(kind)} is not supported; known are {', '.join(_READ)}"
            )
        item.without("id", "status")
        _add(messages, _READ[kind](item))
        item.done()
    return messages


def input_items(given: Any) -> list[dict[str, Any]]:
    """The items of an input that `input_messages` has taken, in the form in which they are given back."""
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    return [_given_back(_given(value)) for value in given]


def _given_back(item: dict[str, Any]) -> dict[str, Any]:
    item = {"type": "message", **item}
    if isinstance(item.get("content"), str):
        assistant = item["role"] == "assistant"
        part = {"type": "output_text" if assistant else "input_text", "text": item["content"]}
        item["content"] = [{**part, "annotations": []} if assistant else part]
    return item if item["type"] == "reasoning" else {**item, "status": "completed"}


def with_ids(items: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """`items` with ids of this request, `key`: those that were given may name other responses' items."""
    return [{**item, "id": f"{_PREFIX[item['type']]}_{key}_in{i}"} for i, item in enumerate(items)]


def _given(value: Any) -> Any:
    """`value` without fields that are null."""
    return {name: v for name, v in value.items() if v is not None} if isinstance(value, Mapping) else value


def _add(messages: list[dict[str, Any]], message: dict[str, Any]) -> None:
    last: dict[str, Any] = messages[-1] if messages else {"role": ""}
    calls = last.get("tool_calls", [])
    if message["role"] != "assistant" or last["role"] != "assistant":
        messages.append(message)
    elif "tool_calls" in message:
        last["tool_calls"] = [*calls, *message["tool_calls"]]
    elif calls or last["content"]:
        messages.append(message)
    elif "reasoning_content" in message:
        last["reasoning_content"] = last.get("reasoning_content", "") + message["reasoning_content"]
    else:
        last["content"] = message["content"]


def _message(item: Part) -> dict[str, Any]:
    role = item.one_of("role", ("user", "assistant", "system", "developer"))
    item.without("phase")
    return {
        "role": "system" if role == "developer" else role,
        "content": texts(f"{item.place}.content", item.value("content"), _text),
    }


def _function_call(item: Part) -> dict[str, Any]:
    function = {"name": item.text("name"), "arguments": item.text("arguments")}
    return _assistant(tool_calls=[{"id": item.text("call_id"), "type": "function", "function": function}])


def _function_call_output(item: Part) -> dict[str, Any]:
    output = texts(f"{item.place}.output", item.value("output"), _text)
    return {"role": "tool", "tool_call_id": item.text("call_id"), "content": output}


def _reasoning(item: Part) -> dict[str, Any]:
    if item.value("summary"):
        raise UnsupportedParameter(f"{item.place}.summary", "is not supported; give the reasoning itself as content")
    thought = []
    for part in parts(f"{item.place}.content", item.value("content") or []):
        part.one_of("type", ("reasoning_text",))
        thought.append(part.text("text"))
        part.done()
    return _assistant(reasoning_content="".join(thought))


def _assistant(**more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": "", **more}


def _text(part: Part, kind: str) -> str:
    if kind not in _TEXT:
        raise UnsupportedParameter(f"{part.place}.type", f"{show(kind)} is not supported; known are {', '.join(_TEXT)}")
    text = part.text("text")
    part.without("annotations", "logprobs")
    part.done()
    return text


_PREFIX = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}
_READ = {
    "message": _message,
    "function_call": _function_call,
    "function_call_output": _function_call_output,
    "reasoning": _reasoning,
}
