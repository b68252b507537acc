"""The JSON schemas of Anthropic's request bodies as they are taken here. Source: Anthropic API reference, Messages."""

from __future__ import annotations

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
            {"role": {"enum": ["user", "assistant"]}, "content": {"anyOf": [{"type": "string"}, _BLOCKS]}},
            ("role", "content"),
        ),
    },
    "system": {"anyOf": [{"type": "string"}, _BLOCKS], "description": "what the model is told first"},
    "tools": {
        "type": "array",
        "maxItems": MAX_TOOLS,
        "items": {"type": "object", "required": ["name", "input_schema"]},
    },
    "tool_choice": {
        "type": "object",
        "properties": {
            "type": {"enum": ["auto", "any", "tool", "none"]},
            "name": {"type": "string"},
            "disable_parallel_tool_use": {"type": "boolean"},
        },
        "required": ["type"],
        "additionalProperties": False,
    },
    "thinking": {
        "type": "object",
        "properties": {"type": {"enum": ["disabled"]}},
        "required": ["type"],
        "additionalProperties": False,
        "description": "set what the model's template knows with chat_template_kwargs",
    },
}
COUNT_TOKENS_BODY = closed(_CONVERSATION, ("messages",))
MESSAGES_BODY = closed(
    {
        **_CONVERSATION,
        **SAMPLERS,
        "max_tokens": integer(1, MAX_TOKENS, "most tokens of the answer"),
        "stop_sequences": SAMPLING["stop"]["anyOf"][1],
        "stream": boolean("answer as server-sent events"),
        "metadata": closed({"user_id": text("has no effect")}),
        "service_tier": {"enum": ["auto", "standard_only"]},
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
