"""Anthropic's request bodies as what the engine understands. Strict: a field that would be ignored is refused by name.

Source: Anthropic API reference, "Create a Message" and "Count tokens in a Message". `cache_control` is taken
everywhere and changes nothing: every prompt is cached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pellucid.api.anthropic_schemas import COUNT_TOKENS_BODY, MESSAGES_BODY, REFUSED, SAMPLERS
from pellucid.api.body import Body, checked_salt
from pellucid.api.openai_requests import sampling_fields
from pellucid.api.openai_schemas import MAX_PRIORITY
from pellucid.api.parts import Part, parts, texts
from pellucid.api.sampling_schema import Schema
from pellucid.errors import InvalidParameter, UnsupportedParameter
from pellucid.fields import show
from pellucid.sampling import SamplingParams


@dataclass(frozen=True)
class Conversation:
    """What is put to the model: messages in OpenAI's form, and what `LLM.chat` takes about tools."""

    model: str | None
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    tool_choice: Any
    parallel_tool_calls: bool


@dataclass(frozen=True)
class MessagesRequest:
    """One body, checked. `chat` has the rest of what `LLM.chat` takes."""

    conversation: Conversation
    params: SamplingParams
    stream: bool
    priority: int | None
    cache_salt: str
    receipt: bool
    chat: Mapping[str, Any]


def parse_messages(given: Mapping[str, Any]) -> MessagesRequest:
    """The request in a body for /v1/messages. Raises InvalidParameter and UnsupportedParameter."""
    body = _body(given, MESSAGES_BODY)
    conversation = _conversation(body)
    fields = {name: body.value(name) for name in SAMPLERS if name in body}
    params = SamplingParams(
        **sampling_fields(fields),
        max_tokens=body.required("max_tokens"),
        stop=_stop_sequences(body),
    )
    if "metadata" in body:
        metadata = Part("metadata", body.value("metadata"))
        metadata.text("user_id", "")
        metadata.done()
    body.one_of("service_tier", ("auto", "standard_only"), "auto")
    chat: dict[str, Any] = {
        "tool_parser": body.optional_text("tool_parser"),
        "tool_prompt": body.boolean("tool_prompt", False) if "tool_prompt" in body else None,
        "reasoning_parser": body.optional_text("reasoning_parser"),
        "chat_template_kwargs": body.value("chat_template_kwargs"),
    }
    if not isinstance(chat["chat_template_kwargs"], dict | None):
        raise InvalidParameter("chat_template_kwargs", "expected an object")
    return MessagesRequest(
        conversation,
        params,
        stream=body.boolean("stream", False),
        priority=body.integer("priority", -MAX_PRIORITY, MAX_PRIORITY),
        cache_salt=checked_salt(body.value("cache_salt", "")),
        receipt=body.boolean("receipt", False),
        chat=chat,
    )


def parse_count_tokens(given: Mapping[str, Any]) -> Conversation:
    """The conversation in a body for /v1/messages/count_tokens. Raises InvalidParameter and UnsupportedParameter."""
    return _conversation(_body(given, COUNT_TOKENS_BODY))


def _body(given: Mapping[str, Any], schema: Schema) -> Body:
    return Body(given, schema["properties"].keys(), REFUSED)


def _stop_sequences(body: Body) -> list[str]:
    value = body.value("stop_sequences", [])
    if not isinstance(value, list):
        raise InvalidParameter("stop_sequences", f"expected a list of texts, got {show(value)}")
    return value


def _conversation(body: Body) -> Conversation:
    messages: list[dict[str, Any]] = []
    if "system" in body:
        messages.append({"role": "system", "content": texts("system", body.value("system"), _text)})
    given = body.required("messages")
    if not isinstance(given, list) or not given:
        raise InvalidParameter("messages", f"expected a list of messages, got {show(given)}")
    for i, value in enumerate(given):
        message = Part(f"messages[{i}]", value)
        role, content = message.one_of("role", ("user", "assistant")), message.value("content")
        message.done()
        place = f"{message.place}.content"
        messages += (_user if role == "user" else _assistant)(place, content)
    if messages[-1]["role"] == "assistant":
        raise UnsupportedParameter(
            "messages", "the last one is the assistant's: going on with an answer is not supported; end with the user's"
        )
    if "thinking" in body:
        thinking = Part("thinking", body.value("thinking"))
        thinking.one_of("type", ("disabled",))
        thinking.done()
    choice, parallel = _tool_choice(body)
    return Conversation(body.optional_text("model"), messages, _tools(body), choice, parallel)


def _user(place: str, content: Any) -> list[dict[str, Any]]:
    """Results of tools, each a message of its own, then what the user says."""
    if isinstance(content, str):
        return [{"role": "user", "content": content}]
    results: list[dict[str, Any]] = []
    said: list[str] = []
    for part in parts(place, content):
        kind = part.text("type")
        if kind != "tool_result":
            said.append(_text(part, kind))
            continue
        if said:
            raise InvalidParameter(part.place, "results of tools come before text; move it to the front")
        result = texts(f"{part.place}.content", part.value("content") or "", _text)
        if part.boolean("is_error", False):
            result = f"Error: {result}"
        results.append({"role": "tool", "tool_call_id": part.text("tool_use_id"), "content": result})
        part.without("cache_control")
        part.done()
    return [*results, {"role": "user", "content": "".join(said)}] if said or not results else results


def _assistant(place: str, content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"role": "assistant", "content": content}]
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    calls = []
    for part in parts(place, content):
        kind = part.text("type")
        if kind == "tool_use":
            function = {"name": part.text("name"), "arguments": part.object("input")}
            calls.append({"id": part.text("id"), "type": "function", "function": function})
            part.without("cache_control")
            part.done()
        elif kind == "thinking":
            message["reasoning_content"] = message.get("reasoning_content", "") + part.text("thinking")
            part.without("signature", "cache_control")
            part.done()
        else:
            message["content"] += _text(part, kind)
    return [message | {"tool_calls": calls} if calls else message]


def _text(part: Part, kind: str) -> str:
    if kind != "text":
        raise UnsupportedParameter(
            f"{part.place}.type",
            f"{show(kind)} is not supported; known are text, tool_use, tool_result, thinking",
        )
    text = part.text("text")
    part.without("cache_control", "citations")
    part.done()
    return text


def _tools(body: Body) -> list[dict[str, Any]] | None:
    if "tools" not in body:
        return None
    tools = []
    for part in parts("tools", body.value("tools")):
        if (kind := part.text("type", "custom")) != "custom":
            raise UnsupportedParameter(f"{part.place}.type", f"{show(kind)} is not supported; only custom tools are")
        function: dict[str, Any] = {"name": part.text("name"), "parameters": part.object("input_schema")}
        if description := part.text("description", ""):
            function["description"] = description
        if part.boolean("strict", False):
            function["strict"] = True
        part.without("cache_control")
        part.done()
        tools.append({"type": "function", "function": function})
    return tools


def _tool_choice(body: Body) -> tuple[Any, bool]:
    if "tool_choice" not in body:
        return "auto", True
    part = Part("tool_choice", body.value("tool_choice"))
    kind = part.one_of("type", ("auto", "any", "tool", "none"))
    parallel = not part.boolean("disable_parallel_tool_use", False)
    name = part.text("name") if kind == "tool" else ""
    if kind != "tool":
        part.text("name", "")
    part.done()
    if kind == "tool":
        return {"type": "function", "function": {"name": name}}, parallel
    return {"any": "required"}.get(kind, kind), parallel
