"""The JSON schemas of the requests and answers that OpenAI's chat and completions do not cover.

Embeddings are OpenAI's; rerank is Jina's and Cohere's; score, classify and tokenize are vLLM's, with labels of the
caller's own; apply-template and `content` are llama.cpp's.
"""

from __future__ import annotations

from pellucid.api.answer_schemas import CREATED, MODEL, constant, count, listed
from pellucid.api.body import MAX_ITEMS
from pellucid.api.openai_schemas import COMMON, MESSAGES, TOOL_CHOICE, TOOLS
from pellucid.api.sampling_schema import Schema, boolean, closed, integer, text
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
    "anyOf": [*_TEXTS["anyOf"], _TOKENS, {"type": "array", "items": _TOKENS, "minItems": 1, "maxItems": MAX_ITEMS}],
    "description": "what vectors are wanted of: a text, token ids, or a list of either",
}
_MODEL = COMMON["model"]
_POOLING: Schema = {"enum": list(POOLINGS), "default": "mean", "description": "how hidden states become one vector"}

EMBEDDINGS = closed(
    {
        "model": _MODEL,
        "input": _PROMPTS,
        "encoding_format": {
            "enum": ["float", "base64"],
            "default": "float",
            "description": "numbers, or the base64 of 32-bit floats in little-endian order",
        },
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
        "text_2": {**_TEXTS, "description": "the others"},
        "pooling": _POOLING,
    },
    ("text_1", "text_2"),
)
RERANK = closed(
    {
        "model": _MODEL,
        "query": text("what they are compared with", minLength=1),
        "documents": {
            "type": "array",
            "items": {
                "anyOf": [
                    {"type": "string", "minLength": 1},
                    closed({"text": text("the document", minLength=1)}, ("text",)),
                ]
            },
            "minItems": 1,
            "maxItems": MAX_ITEMS,
            "description": "what is put in order",
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
        "input": {**_TEXTS, "description": "what is classified"},
        "labels": {
            "type": "array",
            "items": {"type": "string", "minLength": 1},
            "minItems": 2,
            "maxItems": 1000,
            "description": "what a text may be",
        },
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
    "messages": MESSAGES,
    "tools": TOOLS,
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
        "tokens": {**_TOKENS, "minItems": 0, "description": "token ids"},
        "skip_special_tokens": boolean("leave control tokens out"),
    },
    ("tokens",),
)
APPLY_TEMPLATE = closed({"model": _MODEL, **_CHAT_PARTS}, ("messages",))

_SCORE: Schema = {"type": "number", "description": "how alike they are: cosine of their vectors"}
_INDEX = count("which one of the request")
_READ = closed(
    {"prompt_tokens": count("tokens read"), "total_tokens": count("the same")},
    ("prompt_tokens", "total_tokens"),
    description="what was read",
)


def _answer(data: Schema, **more: Schema) -> Schema:
    fields: dict[str, Schema] = {"object": constant("list"), "data": data, "model": MODEL, "usage": _READ, **more}
    return closed(fields, tuple(fields))


_NAMED = {"id": text("names the answer"), "created": CREATED}
EMBEDDINGS_ANSWER = _answer(
    listed(
        closed(
            {
                "object": constant("embedding"),
                "index": _INDEX,
                "embedding": {
                    "anyOf": [{"type": "array", "items": {"type": "number"}}, {"type": "string"}],
                    "description": "the vector, as `encoding_format` says",
                },
            },
            ("object", "index", "embedding"),
        ),
        "one for each text",
    )
)
SCORE_ANSWER = _answer(
    listed(
        closed({"index": _INDEX, "object": constant("score"), "score": _SCORE}, ("index", "object", "score")),
        "one for each text of text_2",
    ),
    **_NAMED,
)
RERANK_ANSWER = closed(
    {
        "id": _NAMED["id"],
        "model": MODEL,
        "results": listed(
            closed(
                {
                    "index": _INDEX,
                    "document": closed({"text": text("its text")}, ("text",), description="with `return_documents`"),
                    "relevance_score": _SCORE,
                },
                ("index", "relevance_score"),
            ),
            "the documents, those most like the query first",
        ),
        "usage": _READ,
    },
    ("id", "model", "results", "usage"),
)
_SHARE: Schema = {"type": "number", "description": "0 to 1"}
CLASSIFY_ANSWER = _answer(
    listed(
        closed(
            {
                "index": _INDEX,
                "label": text("the most likely label"),
                "probs": listed(_SHARE, "the probability of each label, in their order"),
                "probabilities": {
                    "type": "object",
                    "additionalProperties": _SHARE,
                    "description": "label → its probability",
                },
                "num_classes": count("how many labels there are"),
                "sentences": listed(
                    closed(
                        {
                            "text": text("the sentence"),
                            "contribution": {"type": "number", "description": "how far it speaks for the label"},
                        },
                        ("text", "contribution"),
                    ),
                    "with `explain`",
                ),
            },
            ("index", "label", "probs", "probabilities", "num_classes"),
        ),
        "one for each text",
    ),
    **_NAMED,
)
_IDS = listed(count("a token id"), "token ids")
TOKENIZE_ANSWER = closed(
    {"count": count("how many there are"), "max_model_len": count("tokens of context"), "tokens": _IDS},
    ("count", "max_model_len", "tokens"),
)
DETOKENIZE_ANSWER = closed({"prompt": text("the text"), "content": text("the same")}, ("prompt", "content"))
APPLY_TEMPLATE_ANSWER = closed({"prompt": text("the prompt"), "tokens": _IDS}, ("prompt", "tokens"))
HEALTH = closed(
    {"status": text("alive or ready; else draining, loading, restarting, stalled, failed or closed")}, ("status",)
)
