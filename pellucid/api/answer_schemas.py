"""The JSON schemas of answers to OpenAI's requests, and what their streams consist of."""

from __future__ import annotations

from pellucid.api.sampling_schema import Schema, closed, text

Events = dict[str, str]
"""Name of an event → when it comes and what it holds."""


def count(description: str) -> Schema:
    return {"type": "integer", "minimum": 0, "description": description}


def listed(item: Schema, description: str) -> Schema:
    return {"type": "array", "items": item, "description": description}


def constant(value: str) -> Schema:
    return {"const": value, "description": "always this"}


def optional(schema: Schema) -> Schema:
    """Or null."""
    description = {"description": schema["description"]} if "description" in schema else {}
    return {"anyOf": [schema, {"type": "null"}], **description}


NULL: Schema = {"type": "null", "description": "always null"}
CREATED = count("Unix time")
MODEL = text("the model that answered")
_SECONDS: Schema = {"type": "number", "description": "seconds"}
_RATE: Schema = {"type": "number", "description": "tokens a second"}

RECEIPT = closed(
    {
        "version": text("Pellucid's"),
        "model": text("the model's file or folder"),
        "architecture": text("its family"),
        "quantization": text("how its weights are stored"),
        "executor": text("what computed it"),
        "isa": text("the instruction set used"),
        "threads": count("the threads used"),
        "kv_cache_dtype": text("how keys and values are stored"),
        "activations": text("what inputs of quantised weights are rounded to"),
        "max_model_len": count("tokens of context"),
        "prompt": optional(text("the prompt as the model saw it; null for one of token ids")),
        "sampling_params": {"type": "object", "description": "every parameter as it was in effect"},
        "seed": count("with it, the same request gives the same answer"),
        "cached_tokens": count("tokens of the prompt that were found in the prefix cache"),
        "prompt_token_ids": listed(count("a token id"), "the prompt's"),
        "prompt_logprobs": optional(
            listed(
                {"type": ["object", "null"]},
                "for each token of the prompt, token id → {logprob, rank, decoded_token}; the first is null",
            )
        ),
        "outputs": listed(
            closed({"index": count("which answer"), "token_ids": listed(count("a token id"), "its tokens")}),
            "the tokens of each answer",
        ),
        "metrics": closed(
            {
                "queue_time": {**_SECONDS, "description": "seconds up to the first step"},
                "time_to_first_token": optional({**_SECONDS, "description": "seconds up to the first token"}),
                "total_time": {**_SECONDS, "description": "seconds in all"},
                "prefill_tokens_per_second": optional({**_RATE, "description": "tokens a second of the prompt"}),
                "decode_tokens_per_second": optional({**_RATE, "description": "tokens a second after the first"}),
                "num_preemptions": count("how often it had to make room for others"),
            },
            description="times",
        ),
    },
    description="with `receipt`: how the answer came about",
)
_RECEIPTS: Schema = {"anyOf": [RECEIPT, {"type": "array", "items": RECEIPT}], "description": RECEIPT["description"]}

_TOKEN = {
    "token": text("its text"),
    "logprob": {"type": ["number", "null"], "description": "natural logarithm of its probability; null for 0"},
    "bytes": listed(count("a byte"), "its text in UTF-8"),
}
TOKEN = closed(_TOKEN, tuple(_TOKEN))
POSITION = closed(
    {**_TOKEN, "top_logprobs": listed(TOKEN, "the most likely tokens here, likeliest first")},
    (*_TOKEN, "top_logprobs"),
)
TOOL_CALL = closed(
    {
        "id": text("to be given back with the tool's result"),
        "type": constant("function"),
        "function": closed(
            {"name": text("which tool"), "arguments": text("JSON text")}, ("name", "arguments"), description="the call"
        ),
    },
    ("id", "type", "function"),
)
USAGE = closed(
    {
        "prompt_tokens": count("tokens of the prompts"),
        "completion_tokens": count("tokens of the answers"),
        "total_tokens": count("both"),
        "prompt_tokens_details": closed(
            {"cached_tokens": count("of the prompts' tokens, found in the prefix cache")}, description="of which"
        ),
    },
    ("prompt_tokens", "completion_tokens", "total_tokens"),
    description="what was read and written",
)

CHAT_ANSWER = closed(
    {
        "id": text("names the answer"),
        "object": constant("chat.completion"),
        "created": CREATED,
        "model": MODEL,
        "choices": listed(
            closed(
                {
                    "index": count("which of the `n` answers"),
                    "message": closed(
                        {
                            "role": constant("assistant"),
                            "content": optional(text("the answer; null if there are only calls")),
                            "refusal": NULL,
                            "tool_calls": listed(TOOL_CALL, "calls that the model asks for"),
                            "reasoning_content": text("what it thought first, where the template marks it"),
                        },
                        ("role", "content", "refusal"),
                        description="to be put after the conversation when it goes on",
                    ),
                    "logprobs": optional(
                        closed(
                            {"content": listed(POSITION, "one for each token"), "refusal": NULL},
                            ("content", "refusal"),
                            description="with `logprobs`",
                        )
                    ),
                    "finish_reason": {
                        "enum": ["stop", "length", "tool_calls"],
                        "description": "the model or a stop ended it, max_tokens or the context did, or it calls tools",
                    },
                },
                ("index", "message", "logprobs", "finish_reason"),
            ),
            "the answers",
        ),
        "usage": USAGE,
        "receipt": RECEIPT,
    },
    ("id", "object", "created", "model", "choices", "usage"),
)
CHAT_EVENTS: Events = {
    "first of each answer": '`choices[0].delta` is `{"role": "assistant", "content": ""}`',
    "each piece": "`delta` has new `content`, `reasoning_content`, or pieces of `tool_calls` (the first of a call has "
    "`id` and `function.name`, all have more of `function.arguments`); with `logprobs`, those of its tokens",
    "last of each answer": "an empty `delta` and the `finish_reason`",
    "receipt": "with `receipt`: `choices` is empty, `receipt` as above",
    "usage": "with `stream_options.include_usage`: `choices` is empty, `usage` as above; it is null before",
    "`[DONE]`": "the end; not there when the stream failed, which ends with an error object",
}

COMPLETION_ANSWER = closed(
    {
        "id": text("names the answer"),
        "object": constant("text_completion"),
        "created": CREATED,
        "model": MODEL,
        "choices": listed(
            closed(
                {
                    "index": count("which answer: the `n` of the first prompt come first"),
                    "text": text("what the model wrote; with `echo`, after the prompt"),
                    "logprobs": optional(
                        closed(
                            {
                                "tokens": listed(text("a token's text"), "the tokens"),
                                "token_logprobs": listed(
                                    {"type": ["number", "null"]}, "their log-probabilities; null for a prompt's first"
                                ),
                                "top_logprobs": optional(
                                    listed(
                                        {
                                            "type": ["object", "null"],
                                            "additionalProperties": {"type": ["number", "null"]},
                                        },
                                        "at each position the most likely tokens and the one chosen: text → logprob",
                                    )
                                ),
                                "text_offset": listed(count("characters"), "where each begins in `text`"),
                            },
                            ("tokens", "token_logprobs", "top_logprobs", "text_offset"),
                            description="with `logprobs`",
                        )
                    ),
                    "finish_reason": {
                        "enum": ["stop", "length"],
                        "description": "the model or a stop ended it, or max_tokens or the context did",
                    },
                },
                ("index", "text", "logprobs", "finish_reason"),
            ),
            "the answers",
        ),
        "usage": USAGE,
        "receipt": {**_RECEIPTS, "description": "with `receipt`: one, or a list of them for several prompts"},
    },
    ("id", "object", "created", "model", "choices", "usage"),
)
COMPLETION_EVENTS: Events = {
    "each piece": "`choices[0]` has new `text` and, with `logprobs`, those of its tokens; with `echo`, the first "
    "begins with the prompt",
    "last of each answer": "has the `finish_reason`",
    **{name: CHAT_EVENTS[name] for name in ("receipt", "usage", "`[DONE]`")},
}

MODEL_INFO = closed(
    {
        "id": text("what requests call it"),
        "object": constant("model"),
        "created": count("Unix time at which the server was started"),
        "owned_by": constant("pellucid"),
        "state": {
            "enum": ["loading", "ready", "stalled", "restarting", "failed", "closed", "unloaded"],
            "description": "whether it can answer",
        },
        "max_model_len": count("tokens of context"),
        "quantization": text("how its weights are stored"),
        "kv_cache_dtype": text("how keys and values are stored"),
        "activations": text("what inputs of quantised weights are rounded to"),
        "has_chat_template": {"type": "boolean", "description": "it can be asked for chats"},
    },
    ("id", "object", "created", "owned_by", "state"),
)
MODEL_LIST = closed({"object": constant("list"), "data": listed(MODEL_INFO, "the models")}, ("object", "data"))
