"""The JSON schemas of Anthropic's request bodies as they are taken here. Source: Anthropic API reference, Messages."""

from __future__ import annotations

from pellucid.api.answer_schemas import RECEIPT, Events, constant, count, listed, optional
from pellucid.api.openai_schemas import COMMON, TOOL_PROMPT
from pellucid.api.sampling_schema import SAMPLING, Schema, boolean, closed, integer, text
from pellucid.chat.tools import MAX_TOOLS
from pellucid.sampling_fields import MAX_TOKENS

MESSAGES, COUNT_TOKENS = "/v1/messages", "/v1/messages/count_tokens"

# Names of Anthropic's that are not honoured: refused, never ignored.
REFUSED = frozenset({"container", "context_management", "mcp_servers", "output_config", "output_format"})

# There is one answer, which `stop_sequences` and `max_tokens` end, and no place for log-probabilities in its shape.
_NOT_HERE = {
    "n", "best_of", "beam_width", "length_penalty", "stop", "max_tokens", "logprobs", "prompt_logprobs",
}  # fmt: skip
SAMPLERS = {name: schema for name, schema in SAMPLING.items() if name not in _NOT_HERE}

_BLOCKS: Schema = {"type": "array", "items": {"type": "object", "required": ["type"]}}
_CONVERSATION: dict[str, Schema] = {
    "model": COMMON["model"],
    "messages": {
        "type": "array",
        "minItems": 1,
        "items": closed(
            {
                "role": {"enum": ["user", "assistant"], "description": "who says it"},
                "content": {
                    "anyOf": [{"type": "string"}, _BLOCKS],
                    "description": "what is said: text, or blocks of the types text, tool_use, tool_result, thinking",
                },
            },
            ("role", "content"),
        ),
        "description": "the conversation so far, which ends with the user's turn",
    },
    "system": {"anyOf": [{"type": "string"}, _BLOCKS], "description": "what the model is told first"},
    "tools": {
        "type": "array",
        "maxItems": MAX_TOOLS,
        "items": {"type": "object", "required": ["name", "input_schema"]},
        "description": "what the model may call: {name, description, input_schema, strict}",
    },
    "tool_choice": {
        "type": "object",
        "properties": {
            "type": {
                "enum": ["auto", "any", "tool", "none"],
                "description": "as the model likes, at least one call, this one, none",
            },
            "name": text("which, with tool"),
            "disable_parallel_tool_use": boolean("at most one call"),
        },
        "required": ["type"],
        "additionalProperties": False,
        "description": "which calls there may be, and must",
    },
    "thinking": {
        "type": "object",
        "properties": {"type": {"enum": ["disabled"], "description": "the only one"}},
        "required": ["type"],
        "additionalProperties": False,
        "description": "cannot be switched on here; what the model's template knows is set with chat_template_kwargs",
    },
}
COUNT_TOKENS_BODY = closed(_CONVERSATION, ("messages",))
MESSAGES_BODY = closed(
    {
        **_CONVERSATION,
        **SAMPLERS,
        "max_tokens": integer(1, MAX_TOKENS, "most tokens of the answer"),
        "stop_sequences": {**SAMPLING["stop"]["anyOf"][1], "description": "texts that end the answer"},
        "stream": boolean("answer as server-sent events"),
        "metadata": closed({"user_id": text("has no effect")}, description="has no effect"),
        "service_tier": {"enum": ["auto", "standard_only"], "description": "has no effect"},
        "tool_parser": text("how the model writes calls, where its template does not show it"),
        "tool_prompt": TOOL_PROMPT,
        "reasoning_parser": text("how reasoning is marked; none: leave it in the text"),
        "chat_template_kwargs": {"type": "object", "description": "variables for the chat template"},
        "priority": COMMON["priority"],
        "cache_salt": COMMON["cache_salt"],
        "receipt": COMMON["receipt"],
    },
    ("messages", "max_tokens"),
)

_BLOCK: Schema = {
    "anyOf": [
        closed(
            {
                "type": {"const": "text", "description": "which kind"},
                "text": text("what it says"),
                "citations": {"type": "null", "description": "always null"},
            },
            ("type", "text", "citations"),
        ),
        closed(
            {
                "type": {"const": "thinking"},
                "thinking": text("what the model thought first"),
                "signature": text("always empty"),
            },
            ("type", "thinking", "signature"),
        ),
        closed(
            {
                "type": {"const": "tool_use"},
                "id": text("to be given back with the tool's result"),
                "name": text("which tool"),
                "input": {"type": "object", "description": "its arguments"},
            },
            ("type", "id", "name", "input"),
        ),
    ]
}
_COUNTS = {
    "input_tokens": count("tokens of the prompt that were not in the prefix cache"),
    "cache_creation_input_tokens": count("always 0: nothing is charged for"),
    "cache_read_input_tokens": count("tokens of the prompt that were in it"),
    "output_tokens": count("tokens of the answer"),
}
MESSAGES_ANSWER = closed(
    {
        "id": text("names the answer"),
        "type": constant("message"),
        "role": constant("assistant"),
        "model": text("the model that answered"),
        "content": listed(_BLOCK, "the answer; a call that max_tokens cut off is not in it"),
        "stop_reason": {
            "enum": ["end_turn", "max_tokens", "stop_sequence", "tool_use"],
            "description": "why it ended; max_tokens also for the end of the context",
        },
        "stop_sequence": optional(text("the stop sequence that ended it")),
        "usage": closed(_COUNTS, tuple(_COUNTS), description="what was read and written"),
        "receipt": RECEIPT,
    },
    ("id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"),
)
MESSAGES_EVENTS: Events = {
    "`message_start`": "the `message`, with empty `content` and its `usage`",
    "`content_block_start`": "`content_block` number `index` begins, empty",
    "`content_block_delta`": "`delta` is a piece of it: `text_delta`, `thinking_delta` or `input_json_delta`",
    "`content_block_stop`": "it is whole",
    "`message_delta`": "`stop_reason` and `stop_sequence`, and the `usage` of the answer",
    "`message_stop`": "the end",
    "`error`": "the last one in place of the end, if the stream failed: an error object",
}
COUNT_TOKENS_ANSWER = closed({"input_tokens": count("tokens of the prompt")}, ("input_tokens",))
