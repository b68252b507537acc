"""Bodies for /v1/responses as what the engine understands. Strict: a field that would be ignored is refused by name.

Source: OpenAI API reference, "Create a model response". A field that is null is not given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pellucid.api.body import Body, checked_salt
from pellucid.api.openai_requests import sampling_fields
from pellucid.api.openai_schemas import MAX_PRIORITY, MAX_TOP_LOGPROBS
from pellucid.api.parts import Part, parts
from pellucid.api.responses_input import input_items, input_messages
from pellucid.api.responses_schemas import (
    LOGPROBS,
    MAX_METADATA,
    MAX_METADATA_NAME,
    MAX_METADATA_VALUE,
    REFUSED,
    RESPONSES_BODY,
    SAMPLERS,
)
from pellucid.errors import InvalidParameter, UnsupportedParameter
from pellucid.fields import show
from pellucid.sampling import SamplingParams
from pellucid.structured_outputs import StructuredOutputs


@dataclass(frozen=True)
class ResponsesRequest:
    """One body, checked. `messages` are those of its input. `chat` has the rest of what `LLM.chat` takes.

    `items` are those of its input. `echo` has the fields that the response repeats.
    """

    model: str | None
    messages: list[dict[str, Any]]
    items: list[dict[str, Any]]
    instructions: str | None
    previous_response_id: str | None
    params: SamplingParams
    stream: bool
    store: bool
    background: bool
    priority: int | None
    cache_salt: str
    receipt: bool
    chat: Mapping[str, Any]
    echo: Mapping[str, Any]

    def conversation(self, previous: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What is put to the model after `previous`."""
        told = [] if self.instructions is None else [{"role": "system", "content": self.instructions}]
        return [*told, *previous, *self.messages]


def parse_responses(given: Mapping[str, Any]) -> ResponsesRequest:
    """The request in a body for /v1/responses. Raises InvalidParameter and UnsupportedParameter."""
    body = Body(given, RESPONSES_BODY["properties"].keys(), REFUSED)
    for name in ("user", "safety_identifier", "prompt_cache_key"):
        body.optional_text(name)
    body.one_of("service_tier", ("auto", "default"), "auto")
    body.one_of("truncation", ("disabled",), "disabled")
    fields = {name: body.value(name) for name in SAMPLERS if name in body}
    if form := _form(body):
        if "structured_outputs" in fields:
            raise InvalidParameter("text.format", "and structured_outputs are both given; give one of them")
        fields["structured_outputs"] = form
    if "max_output_tokens" in body:
        fields["max_tokens"] = body.value("max_output_tokens")
    if (logprobs := _logprobs(body)) is not None:
        fields["logprobs"] = logprobs
    tools, choice = _tools(body), _tool_choice(body)
    chat: dict[str, Any] = {
        "tools": [{"type": "function", "function": function} for function in tools] if "tools" in body else None,
        "tool_choice": {"type": "function", "function": choice} if isinstance(choice, dict) else choice,
        "parallel_tool_calls": body.boolean("parallel_tool_calls", True),
        "tool_parser": body.optional_text("tool_parser"),
        "tool_prompt": body.boolean("tool_prompt", False),
        "reasoning_parser": body.optional_text("reasoning_parser"),
        "chat_template_kwargs": body.value("chat_template_kwargs"),
    }
    if not isinstance(chat["chat_template_kwargs"], dict | None):
        raise InvalidParameter("chat_template_kwargs", "expected an object")
    params = _params(fields)
    store, stream, background = body.boolean("store", True), body.boolean("stream", False), _background(body)
    echo = {
        "background": background,
        "instructions": body.optional_text("instructions"),
        "max_output_tokens": params.max_tokens,
        "metadata": _metadata(body),
        "parallel_tool_calls": chat["parallel_tool_calls"],
        "previous_response_id": body.optional_text("previous_response_id"),
        "store": store,
        "temperature": params.temperature,
        "text": body.value("text", {"format": {"type": "text"}}),
        "tool_choice": {"type": "function", **choice} if isinstance(choice, dict) else choice,
        "tools": [
            {"type": "function", "description": None, "parameters": None, "strict": False, **function}
            for function in tools
        ],
        "top_logprobs": params.logprobs or 0,
        "top_p": params.top_p,
    }
    return ResponsesRequest(
        body.optional_text("model"),
        input_messages(body.required("input")),
        input_items(body.required("input")),
        echo["instructions"],
        echo["previous_response_id"],
        params,
        stream=stream,
        store=store,
        background=background,
        priority=body.integer("priority", -MAX_PRIORITY, MAX_PRIORITY),
        cache_salt=checked_salt(body.value("cache_salt", "")),
        receipt=body.boolean("receipt", False),
        chat=chat,
        echo=echo,
    )


def _background(body: Body) -> bool:
    background = body.boolean("background", False)
    if background and not body.boolean("store", True):
        raise InvalidParameter("background", "needs store = true: there would be nothing to ask for")
    if background and body.boolean("stream", False):
        raise UnsupportedParameter("background", "is not supported together with stream; ask for the response with GET")
    return background


def _logprobs(body: Body) -> int | None:
    """As SamplingParams has them."""
    include = body.value("include", [])
    if not isinstance(include, list):
        raise InvalidParameter("include", f"expected a list, got {show(include)}")
    for i, name in enumerate(include):
        if name != LOGPROBS:
            raise UnsupportedParameter(f"include[{i}]", f"{show(name)} is not supported; only {LOGPROBS} is")
    top = body.integer("top_logprobs", 0, MAX_TOP_LOGPROBS)
    if top is not None and not include:
        raise InvalidParameter("top_logprobs", f'needs include = ["{LOGPROBS}"]')
    return (top or 0) if include else None


def _params(fields: Mapping[str, Any]) -> SamplingParams:
    try:
        return SamplingParams(**sampling_fields(fields))
    except InvalidParameter as error:
        if error.param == "max_tokens":
            raise InvalidParameter("max_output_tokens", str(error).removeprefix("max_tokens: ")) from None
        raise


def _form(body: Body) -> StructuredOutputs | None:
    if "text" not in body:
        return None
    outer = Part("text", body.value("text"))
    given = outer.value("format")
    outer.done()
    if given is None:
        return None
    format = Part("text.format", given)
    kind = format.one_of("type", ("text", "json_object", "json_schema"))
    form = StructuredOutputs(json_object=True) if kind == "json_object" else None
    if kind == "json_schema":
        form = StructuredOutputs(json=format.object("schema"))
        format.text("name", "")
        format.text("description", "")
        format.boolean("strict", False)
    format.done()
    return None if form is None else form.asked_by("text.format")


def _tools(body: Body) -> list[dict[str, Any]]:
    tools = []
    for part in parts("tools", body.value("tools", [])):
        if (kind := part.text("type")) != "function":
            raise UnsupportedParameter(f"{part.place}.type", f"{show(kind)} is not supported; only function is")
        function: dict[str, Any] = {"name": part.text("name")}
        if description := part.text("description", ""):
            function["description"] = description
        if (parameters := part.value("parameters")) is not None:
            function["parameters"] = parameters
        if part.boolean("strict", False):
            function["strict"] = True
        part.done()
        tools.append(function)
    return tools


def _tool_choice(body: Body) -> str | dict[str, str]:
    """A word, or {"name": …}."""
    given = body.value("tool_choice", "auto")
    if isinstance(given, str):
        return body.one_of("tool_choice", ("none", "auto", "required"), "auto")
    part = Part("tool_choice", given)
    part.one_of("type", ("function",))
    name = part.text("name")
    part.done()
    return {"name": name}


def _metadata(body: Body) -> dict[str, str]:
    given = body.value("metadata", {})
    if (
        not isinstance(given, dict)
        or len(given) > MAX_METADATA
        or any(len(name) > MAX_METADATA_NAME for name in given)
        or any(not isinstance(value, str) or len(value) > MAX_METADATA_VALUE for value in given.values())
    ):
        raise InvalidParameter(
            "metadata",
            f"expected an object of at most {MAX_METADATA} texts of {MAX_METADATA_VALUE} characters, under names of "
            f"{MAX_METADATA_NAME}",
        )
    return given
