"""The JSON schema of a body for /v1/responses as it is taken here. Source: OpenAI API reference, Responses."""

from __future__ import annotations

from pellucid.api.openai_schemas import COMMON
from pellucid.api.sampling_schema import SAMPLING, Schema, boolean, closed, integer, text
from pellucid.chat.tools import MAX_TOOLS
from pellucid.sampling_fields import MAX_TOKENS

RESPONSES = "/v1/responses"
MAX_METADATA, MAX_METADATA_NAME, MAX_METADATA_VALUE = 16, 64, 512

# OpenAI's names that are not honoured: refused, never ignored.
REFUSED = frozenset({
    "background", "context_management", "conversation", "include", "max_tool_calls", "moderation", "prompt",
    "prompt_cache_options", "prompt_cache_retention", "reasoning", "stream_options", "top_logprobs",
})  # fmt: skip

# There is one answer, which `max_output_tokens` ends, and no log-probabilities.
_NOT_HERE = {"n", "best_of", "beam_width", "length_penalty", "max_tokens", "logprobs", "prompt_logprobs"}
SAMPLERS = {name: schema for name, schema in SAMPLING.items() if name not in _NOT_HERE}

_TYPED: Schema = {"type": "object", "required": ["type"]}
_FORMAT: Schema = {
    "anyOf": [
        closed({"type": {"const": "text"}}, ("type",)),
        closed({"type": {"const": "json_object"}}, ("type",)),
        {
            "type": "object",
            "properties": {"type": {"const": "json_schema"}, "schema": {"type": "object"}},
            "required": ["type", "schema"],
        },
        {"type": "null"},
    ]
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
        "max_output_tokens": integer(1, MAX_TOKENS, "most tokens of the answer"),
        "text": closed({"format": _FORMAT}, description="the form that the answer must have"),
        "tools": {"type": "array", "maxItems": MAX_TOOLS, "items": _TYPED},
        "tool_choice": {
            "anyOf": [
                {"enum": ["none", "auto", "required"]},
                closed({"type": {"const": "function"}, "name": {"type": "string"}}, ("type", "name")),
            ],
            "default": "auto",
        },
        "parallel_tool_calls": boolean("one answer may hold several calls", True),
        "metadata": {
            "type": "object",
            "maxProperties": MAX_METADATA,
            "propertyNames": {"maxLength": MAX_METADATA_NAME},
            "additionalProperties": {"type": "string", "maxLength": MAX_METADATA_VALUE},
            "description": "given back with the response",
        },
        "truncation": {"enum": ["disabled"]},
        "tool_parser": text("how the model writes calls, where its template does not show it"),
        "tool_prompt": boolean("describe tools in a system message rather than through the template"),
        "reasoning_parser": text("how reasoning is marked; none: leave it in the text"),
        "chat_template_kwargs": {"type": "object", "description": "variables for the chat template"},
    },
    ("input",),
)  # fmt: skip
