"""The JSON schema of a body for /v1/responses as it is taken here. Source: OpenAI API reference, Responses."""

from __future__ import annotations

from pellucid.api.answer_schemas import POSITION, RECEIPT, Events, constant, count, listed, optional
from pellucid.api.openai_schemas import COMMON, MAX_TOP_LOGPROBS
from pellucid.api.sampling_schema import SAMPLING, Schema, boolean, closed, integer, text
from pellucid.chat.tools import MAX_TOOLS
from pellucid.sampling_fields import MAX_TOKENS

RESPONSES = "/v1/responses"
LOGPROBS = "message.output_text.logprobs"
MAX_PAGE, DEFAULT_PAGE = 100, 20  # input items
MAX_METADATA, MAX_METADATA_NAME, MAX_METADATA_VALUE = 16, 64, 512

# OpenAI's names that are not honoured: refused, never ignored.
REFUSED = frozenset({
    "context_management", "conversation", "max_tool_calls", "moderation", "prompt", "prompt_cache_options",
    "prompt_cache_retention", "reasoning", "stream_options",
})  # fmt: skip

# There is one answer, which `max_output_tokens` ends; log-probabilities are asked for with `include`.
_NOT_HERE = {"n", "best_of", "beam_width", "length_penalty", "max_tokens", "logprobs", "prompt_logprobs"}
SAMPLERS = {name: schema for name, schema in SAMPLING.items() if name not in _NOT_HERE}

_TYPED: Schema = {"type": "object", "required": ["type"]}
_FORMAT: Schema = {
    "anyOf": [
        closed({"type": {"const": "text", "description": "which form"}}, ("type",)),
        closed({"type": {"const": "json_object"}}, ("type",)),
        {
            "type": "object",
            "properties": {
                "type": {"const": "json_schema"},
                "schema": {
                    "type": "object",
                    "description": "the JSON schema; name, description, strict: for the caller",
                },
            },
            "required": ["type", "schema"],
        },
        {"type": "null"},
    ],
    "description": "text, any JSON object, or JSON that follows a schema",
}
RESPONSES_BODY = closed(
    {
        **SAMPLERS,
        **{
            name: COMMON[name]
            for name in (
                "model", "stream", "priority", "cache_salt", "receipt", "user", "safety_identifier",
                "prompt_cache_key", "service_tier",
            )
        },
        "input": {
            "anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": {"type": "object"}}],
            "description": "text of the user's, or items: messages, function_call, function_call_output, reasoning",
        },
        "instructions": text("what the model is told first; not taken over from the previous response"),
        "previous_response_id": text("go on after this response, which the server still has"),
        "store": boolean("keep the response in memory, for previous_response_id and GET", True),
        "background": boolean("answer at once, before there is anything; ask for the response with GET"),
        "include": {
            "type": "array",
            "items": {"enum": [LOGPROBS]},
            "description": "what the response holds beside the rest: log-probabilities of its text",
        },
        "top_logprobs": integer(0, MAX_TOP_LOGPROBS, "and of so many of the most likely tokens at each position"),
        "max_output_tokens": integer(1, MAX_TOKENS, "most tokens of the answer"),
        "text": closed({"format": _FORMAT}, description="the form that the answer must have"),
        "tools": {
            "type": "array",
            "maxItems": MAX_TOOLS,
            "items": _TYPED,
            "description": "functions that the model may call: {type, name, description, parameters, strict}",
        },
        "tool_choice": {
            "anyOf": [
                {"enum": ["none", "auto", "required"]},
                closed(
                    {"type": {"const": "function", "description": "the only kind"}, "name": text("its name")},
                    ("type", "name"),
                ),
            ],
            "default": "auto",
            "description": "call none, as the model likes, at least one (required), or this one",
        },
        "parallel_tool_calls": boolean("one answer may hold several calls", True),
        "metadata": {
            "type": "object",
            "maxProperties": MAX_METADATA,
            "propertyNames": {"maxLength": MAX_METADATA_NAME},
            "additionalProperties": {"type": "string", "maxLength": MAX_METADATA_VALUE},
            "description": "given back with the response",
        },
        "truncation": {"enum": ["disabled"], "description": "a conversation that does not fit is refused"},
        "tool_parser": text("how the model writes calls, where its template does not show it"),
        "tool_prompt": boolean("describe tools in a system message rather than through the template"),
        "reasoning_parser": text("how reasoning is marked; none: leave it in the text"),
        "chat_template_kwargs": {"type": "object", "description": "variables for the chat template"},
    },
    ("input",),
)  # fmt: skip

_STATUS = {"enum": ["in_progress", "completed", "incomplete"], "description": "whether it is whole"}
_ITEM: Schema = {
    "anyOf": [
        closed(
            {
                "type": {"const": "message", "description": "which kind"},
                "id": text("names it"),
                "role": constant("assistant"),
                "status": _STATUS,
                "content": listed(
                    closed(
                        {
                            "type": {"const": "output_text", "description": "which kind"},
                            "text": text("what the model says, or thought first"),
                            "annotations": listed({}, "always empty"),
                            "logprobs": listed(POSITION, "those of its tokens, with `include`"),
                        },
                        ("type", "text", "annotations", "logprobs"),
                    ),
                    "its text: one part",
                ),
            },
            ("type", "id", "role", "status", "content"),
        ),
        closed(
            {
                "type": {"const": "reasoning"},
                "id": text("names it"),
                "summary": listed({}, "always empty"),
                "content": listed(
                    closed({"type": {"const": "reasoning_text"}, "text": {"type": "string"}}, ("type", "text")),
                    "its text: one part",
                ),
            },
            ("type", "id", "summary", "content"),
        ),
        closed(
            {
                "type": {"const": "function_call"},
                "id": text("names it"),
                "call_id": text("to be given back with the tool's result"),
                "name": text("which tool"),
                "arguments": text("JSON text"),
                "status": _STATUS,
            },
            ("type", "id", "call_id", "name", "arguments", "status"),
        ),
    ]
}
RESPONSE = closed(
    {
        "id": text("for previous_response_id, GET and DELETE"),
        "object": constant("response"),
        "created_at": count("Unix time"),
        "status": {
            "enum": ["in_progress", "completed", "incomplete", "failed", "cancelled"],
            "description": "incomplete: max_output_tokens or the context ended it; the last two, and in_progress, only "
            "in the background or within a stream",
        },
        "background": {"type": "boolean", "description": "as it was given"},
        "error": optional({"type": "object", "description": "code and message, if it failed"}),
        "incomplete_details": optional(
            closed({"reason": constant("max_output_tokens")}, ("reason",), description="why it is incomplete")
        ),
        "model": text("the model that answered"),
        "output": listed(_ITEM, "the answer; may be put into the input of the next request as it is"),
        "reasoning": {"type": "object", "description": "effort and summary: always null"},
        "truncation": constant("disabled"),
        "usage": optional(
            closed(
                {
                    "input_tokens": count("tokens of the prompt"),
                    "input_tokens_details": closed(
                        {"cached_tokens": count("found in the prefix cache")}, description="of which"
                    ),
                    "output_tokens": count("tokens of the answer, with those of reasoning"),
                    "output_tokens_details": closed(
                        {"reasoning_tokens": count("always 0: they are not told apart")}, description="of which"
                    ),
                    "total_tokens": count("both"),
                },
                description="what was read and written",
            )
        ),
        "instructions": optional(text("as they were given")),
        "max_output_tokens": optional(count("as it was given")),
        "metadata": {"type": "object", "description": "as it was given"},
        "parallel_tool_calls": {"type": "boolean", "description": "as it was given"},
        "previous_response_id": optional(text("as it was given")),
        "store": {"type": "boolean", "description": "as it was given"},
        "temperature": {"type": "number", "description": "as it was in effect"},
        "text": {"type": "object", "description": "as it was given"},
        "tool_choice": {"description": "as it was given"},
        "tools": listed({"type": "object"}, "as they were given"),
        "top_logprobs": count("as it was given"),
        "top_p": {"type": "number", "description": "as it was in effect"},
        "receipt": RECEIPT,
    },
    (
        "id", "object", "created_at", "status", "background", "error", "incomplete_details", "model", "output",
        "reasoning", "truncation", "usage", "store", "text", "tools",
    ),
)  # fmt: skip
RESPONSES_EVENTS: Events = {
    "`response.created`, `response.in_progress`": "the `response`, nothing of which is there yet",
    "`response.output_item.added`, `response.output_item.done`": "`item` number `output_index`, empty and then whole",
    "`response.content_part.added`, `response.content_part.done`": "its `part`, empty and then whole",
    "`response.output_text.delta`, `response.output_text.done`": "a piece of a message's text, and all of it",
    "`response.reasoning_text.delta`, `response.reasoning_text.done`": "a piece of reasoning, and all of it",
    "`response.function_call_arguments.delta`, `response.function_call_arguments.done`": "of a call",
    "`response.completed`, `response.incomplete`": "the end, with the whole `response`",
    "`response.failed`": "the end of a stream that failed; `response.error` says why",
}
INPUT_ITEMS = closed(
    {
        "object": constant("list"),
        "data": listed(
            {"type": "object", "required": ["id", "type"]}, "messages, function_call, function_call_output, reasoning"
        ),
        "first_id": optional(text("of the first item here")),
        "last_id": optional(text("of the last, for `after`")),
        "has_more": {"type": "boolean", "description": "there are further ones"},
    },
    ("object", "data", "first_id", "last_id", "has_more"),
)
DELETED = closed(
    {
        "id": text("the response's"),
        "object": constant("response"),
        "deleted": {"const": True, "description": "always true"},
    },
    ("id", "object", "deleted"),
)
