"""Messages with tool calls, made into what a chat template expects."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pellucid.chat.formats import ToolFormat
from pellucid.chat.scan import Malformed, Scanner, parse_json
from pellucid.chat.tools import MAX_DEPTH, MAX_NBYTES, Tool
from pellucid.errors import InvalidParameter
from pellucid.fields import show

_SHORT_ID_LENGTH = 9


def template_messages(messages: Sequence[Any], *, short_ids: bool, arguments_as_text: bool = False) -> list[Any]:
    """A copy of `messages` in which the arguments of calls are objects (or text, where a template wants that).

    A message with calls has content, if only "". A tool's message has the name of the function it answers for. With
    `short_ids`, ids that are not 9 letters and digits are replaced by ones that are, the same for the same id.
    What is no message at all stays, for `checked_messages` to refuse. Raises InvalidParameter.
    """
    names: dict[str, str] = {}
    copied: list[Any] = []
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            copied.append(message)
            continue
        message = dict(message)
        if message.get("tool_calls"):
            calls = _calls(message["tool_calls"], f"messages[{index}].tool_calls", arguments_as_text)
            names |= {call["id"]: call["function"]["name"] for call in calls if "id" in call}
            message["tool_calls"] = [_with_short_id(call, "id") for call in calls] if short_ids else calls
            if message.get("content") is None:
                message["content"] = ""
        if isinstance(message.get("tool_call_id"), str):
            if message.get("role") == "tool" and message["tool_call_id"] in names:
                message.setdefault("name", names[message["tool_call_id"]])
            message = _with_short_id(message, "tool_call_id") if short_ids else message
        copied.append(message)
    return copied


def plain_messages(messages: Sequence[Any], tools: Sequence[Tool], format: ToolFormat) -> list[Any]:
    """`messages` for a template that knows nothing of tools: the tools in the system message, calls and their results
    as text. Consecutive results become one user message."""
    plain: list[Any] = []
    for message in template_messages(messages, short_ids=False):
        if isinstance(message, dict) and message.get("tool_calls"):
            calls = [(call["function"]["name"], call["function"]["arguments"]) for call in message.pop("tool_calls")]
            message["content"] = "\n".join(filter(None, [message["content"], write_calls(format, calls)]))
        if isinstance(message, dict) and message.get("role") == "tool" and isinstance(message.get("content"), str):
            content = f"<tool_response>\n{message['content']}\n</tool_response>"
            if plain and isinstance(plain[-1], dict) and plain[-1].get("content", "").endswith("</tool_response>"):
                plain[-1]["content"] += "\n" + content
                continue
            message = {"role": "user", "content": content}
        plain.append(message)
    if tools:
        first = plain[0] if plain and isinstance(plain[0], dict) and plain[0].get("role") == "system" else None
        own = first.get("content") if first is not None else None
        text = "\n\n".join([*([own] if isinstance(own, str) and own else []), tool_prompt(tools, format)])
        plain = [{"role": "system", "content": text}, *plain[0 if first is None else 1 :]]
    return plain


def tool_prompt(tools: Sequence[Tool], format: ToolFormat) -> str:
    """What a system message says of the tools."""
    functions = "\n".join(json.dumps(tool.definition["function"], ensure_ascii=False) for tool in tools)
    example = write_calls(format, [("FUNCTION_NAME", {"ARGUMENT_NAME": "VALUE"})])
    return (
        f"You can call these functions, given with the JSON schema of their arguments:\n{functions}\n\n"
        f"To call one, answer with its name and arguments in exactly this form:\n{example}\n"
        "You will get the result and can answer then. Answer without a call if none is needed."
    )


def write_calls(format: ToolFormat, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """The text of calls as the readers of `format` understand it."""
    texts = []
    for name, arguments in calls:
        before, after = format.frame(name)
        texts.append("".join((*before, json.dumps(arguments, ensure_ascii=False), *after)))
    return "".join((*format.begin, format.between.join(texts), *format.end))


def _calls(calls: Any, name: str, arguments_as_text: bool) -> list[dict[str, Any]]:
    if not isinstance(calls, list | tuple):
        raise InvalidParameter(name, f"expected a list of calls, got {show(calls)}")
    return [_call(call, f"{name}[{index}]", arguments_as_text) for index, call in enumerate(calls)]


def _call(call: Any, name: str, arguments_as_text: bool) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InvalidParameter(
            name,
            f'expected {{"id": …, "type": "function", "function": {{"name": …, "arguments": …}}}}, got {show(call)}',
        )
    if call.get("id") is not None and not isinstance(call["id"], str):
        raise InvalidParameter(f"{name}.id", f"expected text, got {show(call['id'])}")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = _object(arguments, f"{name}.function.arguments")
    elif arguments is None:
        arguments = {}
    elif not isinstance(arguments, Mapping):
        raise InvalidParameter(f"{name}.function.arguments", f"expected a JSON object, got {show(arguments)}")
    given = json.dumps(arguments, ensure_ascii=False) if arguments_as_text else arguments
    copied = {**call, "type": "function", "function": {**function, "arguments": given}}
    return {key: value for key, value in copied.items() if value is not None}


def _object(text: str, name: str) -> dict[str, Any]:
    """The object of a JSON text. Its brackets are counted before it is parsed."""
    if len(text) > MAX_NBYTES:
        raise InvalidParameter(name, f"has {len(text):,} characters; the limit is {MAX_NBYTES:,}")
    try:
        Scanner(0, ('"',), escapes=True).find_end(text.strip())
        value = parse_json(text)
    except Malformed as error:
        raise InvalidParameter(name, f"expected a JSON object, at most {MAX_DEPTH} deep: {str(error)[:100]}") from None
    if not isinstance(value, dict):
        raise InvalidParameter(name, f"expected a JSON object, got {show(text)}")
    return value


def _with_short_id(message: dict[str, Any], key: str) -> dict[str, Any]:
    id = message.get(key)
    if id is None or (len(id) == _SHORT_ID_LENGTH and id.isascii() and id.isalnum()):
        return message
    return {**message, key: hashlib.sha256(id.encode("utf-8", "replace")).hexdigest()[:_SHORT_ID_LENGTH]}
