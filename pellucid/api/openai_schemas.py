"""The JSON schemas of OpenAI's request bodies as they are taken here: one table for the check and for /openapi.json.

A name that is in no table is unknown and refused. Values that are null count as not given.
"""

from __future__ import annotations

from typing import Any

from pellucid.api.body import MAX_ITEMS, MAX_SALT_CHARS
from pellucid.api.sampling_schema import SAMPLING, Schema, boolean, closed, integer, text
from pellucid.chat.tools import MAX_NAME_LENGTH, MAX_TOOLS
from pellucid.sampling_fields import MAX_TOKEN_ID, MAX_TOKENS

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
COMPLETION_MAX_TOKENS = 16  # OpenAI's default for completions; a chat's answer may fill the context
MAX_TOP_LOGPROBS = 20
MAX_PRIORITY = 1_000

# OpenAI's names that are not honoured: refused, never ignored.
REFUSED = frozenset({
    "audio", "function_call", "functions", "prediction", "reasoning_effort", "suffix", "verbosity",
    "web_search_options",
})  # fmt: skip

_FUNCTION_NAME = text("its name", pattern=rf"^[A-Za-z0-9_-]{{1,{MAX_NAME_LENGTH}}}$")

_FUNCTION = {"const": "function", "description": "the only kind"}
TOOL = closed(
    {
        "type": _FUNCTION,
        "function": closed(
            {
                "name": _FUNCTION_NAME,
                "description": text("what it does"),
                "parameters": {"type": "object", "description": "JSON schema of its arguments"},
                "strict": boolean("the arguments follow the schema"),
                "return": {"description": "JSON schema of what it returns, for templates that show it"},
            },
            ("name",),
            description="what it is called, does and takes",
        ),
    },
    ("type", "function"),
)
TOOLS: Schema = {
    "type": "array",
    "items": TOOL,
    "maxItems": MAX_TOOLS,
    "description": "functions that the model may call",
}
TOOL_PROMPT: Schema = {
    "type": "boolean",
    "description": "describe tools in a system message; if left out, where the chat template has no place for them",
}
TOOL_CHOICE: Schema = {
    "anyOf": [
        {"enum": ["none", "auto", "required"]},
        closed(
            {
                "type": _FUNCTION,
                "function": closed({"name": _FUNCTION_NAME}, ("name",), description="which one must be called"),
            },
            ("type", "function"),
        ),
    ],
    "default": "auto",
    "description": "call none, as the model likes, at least one (required), or this one",
}
RESPONSE_FORMAT: Schema = {
    "anyOf": [
        closed({"type": {"const": "text", "description": "which form"}}, ("type",)),
        closed({"type": {"const": "json_object"}}, ("type",)),
        closed(
            {
                "type": {"const": "json_schema"},
                "json_schema": closed(
                    {
                        "name": text("for the caller"),
                        "description": text("for the caller"),
                        "schema": {"type": "object", "description": "the JSON schema"},
                        "strict": boolean("has no effect: the schema is always followed"),
                    },
                    ("schema",),
                    description="a schema that the answer follows",
                ),
            },
            ("type", "json_schema"),
        ),
        closed(
            {
                "type": {"const": "regex"},
                "regex": text("a regular expression that the whole answer matches", minLength=1),
            },
            ("type", "regex"),
        ),
        closed(
            {
                "type": {"const": "grammar"},
                "grammar": text("a grammar of the answer", minLength=1),
                "syntax": {"enum": ["gbnf", "lark"], "default": "gbnf", "description": "how it is written"},
            },
            ("type", "grammar"),
        ),
    ],
    "description": "the form that the answer must have",
}
MESSAGE: Schema = {
    "type": "object",
    "properties": {
        "role": text(
            "who says it: system, user, assistant, tool, or what the template knows", minLength=1, maxLength=64
        ),
        "content": {
            "anyOf": [
                {"type": "string"},
                {"type": "null"},
                {
                    "type": "array",
                    "items": closed(
                        {"type": {"const": "text", "description": "the only kind"}, "text": text("a piece of it")},
                        ("type", "text"),
                    ),
                },
            ],
            "description": "what is said",
        },
        "tool_calls": {
            "type": "array",
            "items": {"type": "object"},
            "description": "calls that the assistant made: {id, type, function: {name, arguments}}",
        },
        "tool_call_id": text("the call that this message of a tool answers"),
        "name": text("for templates that show it"),
    },
    "required": ["role"],
}
MESSAGES: Schema = {"type": "array", "items": MESSAGE, "minItems": 1, "description": "the conversation so far"}
_TOKENS: Schema = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0, "maximum": MAX_TOKEN_ID},
    "minItems": 1,
}

COMMON: dict[str, Schema] = {
    **SAMPLING,
    "model": text("name of a model served here; the only one need not be named"),
    "stream": boolean("answer as server-sent events"),
    "stream_options": closed(
        {"include_usage": boolean("a last chunk with the usage")}, description="only with stream = true"
    ),
    "priority": integer(-MAX_PRIORITY, MAX_PRIORITY, "smaller numbers are served earlier", default=0),
    "cache_salt": text("only requests with the same salt share cached prompts", maxLength=MAX_SALT_CHARS),
    "receipt": boolean("the answer carries an account of how it came about"),
    "response_format": RESPONSE_FORMAT,
    "user": text("has no effect"),
    "metadata": {"type": "object", "description": "has no effect"},
    "safety_identifier": text("has no effect"),
    "prompt_cache_key": text("has no effect: prompts are found in the cache by what they say"),
    "store": {"const": False, "description": "nothing is stored"},
    "service_tier": {"enum": ["auto", "default"], "description": "has no effect"},
}

CHAT_BODY = closed(
    {
        **COMMON,
        "messages": MESSAGES,
        "max_completion_tokens": integer(1, MAX_TOKENS, "the same as max_tokens"),
        "logprobs": boolean("report the log-probability of each token of the answer"),
        "top_logprobs": integer(0, MAX_TOP_LOGPROBS, "and of so many of the most likely ones"),
        "tools": TOOLS,
        "tool_choice": TOOL_CHOICE,
        "parallel_tool_calls": boolean("one answer may hold several calls", True),
        "tool_parser": text("how the model writes calls, where its template does not show it"),
        "tool_prompt": TOOL_PROMPT,
        "reasoning_parser": text("how reasoning is marked; none: leave it in the text"),
        "add_generation_prompt": boolean("end the prompt where the model's turn begins", True),
        "chat_template_kwargs": {"type": "object", "description": "variables for the chat template"},
        "modalities": {"const": ["text"], "description": "has no effect"},
    },
    ("messages",),
)
COMPLETION_BODY = closed(
    {
        **COMMON,
        "prompt": {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_ITEMS},
                _TOKENS,
                {"type": "array", "items": _TOKENS, "minItems": 1, "maxItems": MAX_ITEMS},
            ],
            "description": "what the model goes on with: text, token ids, or a list of either",
        },
        "max_tokens": {**SAMPLING["max_tokens"], "default": COMPLETION_MAX_TOKENS},
        "echo": boolean("put the prompt before the answer; logprobs are then of both"),
    },
    ("prompt",),
)
BODIES: dict[str, Schema] = {CHAT: CHAT_BODY, COMPLETIONS: COMPLETION_BODY}


def fields_of(endpoint: str) -> frozenset[str]:
    """The names that a body for this endpoint may have."""
    properties: dict[str, Any] = BODIES[endpoint]["properties"]
    return frozenset(properties)
