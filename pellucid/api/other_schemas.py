"""The JSON schemas of the request bodies that OpenAI's chat and completions do not cover.

Embeddings are OpenAI's; rerank is Jina's and Cohere's; score, classify and tokenize are vLLM's, with labels of the
caller's own; apply-template and `content` are llama.cpp's.
"""

from __future__ import annotations

from pellucid.api.body import MAX_ITEMS
from pellucid.api.openai_schemas import COMMON, MESSAGE, TOOL, TOOL_CHOICE
from pellucid.api.sampling_schema import Schema, boolean, closed, integer, text
from pellucid.chat.tools import MAX_TOOLS
from pellucid.sampling_fields import MAX_TOKEN_ID

POOLINGS = ("mean", "last", "cls")

_TOKENS: Schema = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": MAX_TOKEN_ID}, "minItems": 1}
_TEXTS: Schema = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "maxItems": MAX_ITEMS},
    ]
}
_PROMPTS: Schema = {
    "anyOf": [*_TEXTS["anyOf"], _TOKENS, {"type": "array", "items": _TOKENS, "minItems": 1, "maxItems": MAX_ITEMS}]
}
_MODEL = COMMON["model"]
_POOLING: Schema = {"enum": list(POOLINGS), "default": "mean", "description": "how hidden states become one vector"}

EMBEDDINGS = closed(
    {
        "model": _MODEL,
        "input": _PROMPTS,
        "encoding_format": {"enum": ["float", "base64"], "default": "float"},
        "dimensions": integer(1, 2**20, "keep the first ones"),
        "pooling": _POOLING,
        "normalize": boolean("vectors of length 1", True),
        "user": COMMON["user"],
    },
    ("input",),
)
SCORE = closed(
    {
        "model": _MODEL,
        "text_1": text("what the others are compared with", minLength=1),
        "text_2": _TEXTS,
        "pooling": _POOLING,
    },
    ("text_1", "text_2"),
)
RERANK = closed(
    {
        "model": _MODEL,
        "query": {"type": "string", "minLength": 1},
        "documents": {
            "type": "array",
            "items": {
                "anyOf": [
                    {"type": "string", "minLength": 1},
                    closed({"text": {"type": "string", "minLength": 1}}, ("text",)),
                ]
            },
            "minItems": 1,
            "maxItems": MAX_ITEMS,
        },
        "top_n": integer(1, MAX_ITEMS, "only so many of the best"),
        "return_documents": boolean("with the text of each document", True),
        "pooling": _POOLING,
    },
    ("query", "documents"),
)
CLASSIFY = closed(
    {
        "model": _MODEL,
        "input": _TEXTS,
        "labels": {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 2, "maxItems": 1000},
        "template": text("the prompt, with {text} where the text goes; a label follows it after a space"),
        "calibrate": {
            "anyOf": [
                {"type": "boolean"},
                {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_ITEMS},
            ],
            "default": True,
            "description": "take away what the model says of texts without content, or of these",
        },
        "explain": boolean("with what each sentence contributed"),
    },
    ("input", "labels"),
)
_CHAT_PARTS: dict[str, Schema] = {
    "messages": {"type": "array", "items": MESSAGE, "minItems": 1},
    "tools": {"type": "array", "items": TOOL, "maxItems": MAX_TOOLS},
    "tool_choice": TOOL_CHOICE,
    "add_generation_prompt": boolean("end the prompt where the model's turn begins", True),
    "chat_template_kwargs": {"type": "object", "description": "variables for the chat template"},
}
TOKENIZE = closed(
    {
        "model": _MODEL,
        "prompt": text("text; or give content or messages"),
        "content": text("the same as prompt, without the begin token unless asked for"),
        **_CHAT_PARTS,
        "add_special_tokens": boolean("with the model's begin token", True),
        "add_special": boolean("another name for it"),
        "parse_special": boolean("read control tokens in the text as such"),
    }
)
DETOKENIZE = closed(
    {
        "model": _MODEL,
        "tokens": {**_TOKENS, "minItems": 0},
        "skip_special_tokens": boolean("leave control tokens out"),
    },
    ("tokens",),
)
APPLY_TEMPLATE = closed({"model": _MODEL, **_CHAT_PARTS}, ("messages",))
