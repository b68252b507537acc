"""The JSON schema of every field of SamplingParams, with its limits: what /openapi.json says of them.

A test holds it against SamplingParams: the same names and defaults, and both sides of every limit.
"""

from __future__ import annotations

from typing import Any

from pellucid.sampling import MAX_BEAM_WIDTH, MAX_LOGPROBS, MAX_N, MAX_STOP_LENGTH, MAX_STOP_STRINGS, MAX_WORDS
from pellucid.sampling_fields import (
    MAX_ALLOWED_IDS,
    MAX_BREAKER_LENGTH,
    MAX_BREAKERS,
    MAX_LOGIT_BIAS,
    MAX_STOP_EXPRESSIONS,
    MAX_STOP_TOKENS,
    MAX_TOKEN_ID,
    MAX_TOKENS,
    MIN_TEMPERATURE,
    SAMPLERS,
)
from pellucid.stop_regex import MAX_EXPRESSION
from pellucid.structured_outputs import MAX_CHOICES, MAX_NBYTES

Schema = dict[str, Any]


def number(low: float, high: float, description: str, *, above: bool = False, **more: Any) -> Schema:
    return {
        "type": "number",
        "exclusiveMinimum" if above else "minimum": low,
        "maximum": high,
        "description": description,
        **more,
    }


def integer(low: int, high: int, description: str, **more: Any) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high, "description": description, **more}


def boolean(description: str, default: bool = False) -> Schema:
    return {"type": "boolean", "default": default, "description": description}


def text(description: str, **more: Any) -> Schema:
    return {"type": "string", "description": description, **more}


def texts(most: int, longest: int, description: str) -> Schema:
    item = {"type": "string", "minLength": 1, "maxLength": longest}
    return {"type": "array", "items": item, "maxItems": most, "description": description}


def token_ids(most: int, description: str, least: int = 0) -> Schema:
    item = {"type": "integer", "minimum": 0, "maximum": MAX_TOKEN_ID}
    return {"type": "array", "items": item, "minItems": least, "maxItems": most, "description": description}


def closed(properties: dict[str, Schema], required: tuple[str, ...] = (), **more: Any) -> Schema:
    """An object that may have these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        **({"required": list(required)} if required else {}),
        "additionalProperties": False,
        **more,
    }


STRUCTURED_OUTPUTS = closed(
    {
        "json": {
            "anyOf": [{"type": "object"}, {"type": "string", "minLength": 1, "maxLength": MAX_NBYTES}],
            "description": "a JSON schema",
        },
        "json_object": boolean("any JSON object"),
        "regex": text("a regular expression that the whole answer matches", minLength=1, maxLength=MAX_NBYTES),
        "choice": {
            "type": "array",
            "items": {"type": "string", "minLength": 1},
            "minItems": 1,
            "maxItems": MAX_CHOICES,
            "description": "texts, one of which is the answer",
        },
        "grammar": text("a Lark grammar with a rule start", minLength=1, maxLength=MAX_NBYTES),
        "gbnf": text("a grammar in GBNF with a rule root", minLength=1, maxLength=MAX_NBYTES),
        "structural_tag": {
            "anyOf": [{"type": "object"}, {"type": "string", "minLength": 1, "maxLength": MAX_NBYTES}],
            "description": "text and JSON in an order, in XGrammar's format",
        },
        "disable_any_whitespace": boolean("no white space between the parts of JSON text"),
    },
    description="the form that the answer must have; one of them, and disable_any_whitespace",
)

SAMPLING: dict[str, Schema] = {
    "temperature": {
        "anyOf": [{"const": 0}, {"type": "number", "minimum": MIN_TEMPERATURE, "maximum": 100}],
        "default": 1.0,
        "description": "0 takes the most likely token every time",
    },
    "top_k": integer(-1, MAX_TOKEN_ID, "keep the k most likely tokens; 0 or -1: all", default=0),
    "top_p": number(0, 1, "keep the most likely tokens up to this probability", above=True, default=1.0),
    "min_p": number(0, 1, "keep tokens at least min_p times as likely as the likeliest", default=0.0),
    "typical_p": number(0, 1, "locally typical sampling; 1: off", above=True, default=1.0),
    "top_n_sigma": number(0, 100, "keep logits within n standard deviations of the largest; 0: off", default=0.0),
    "xtc_probability": number(0, 1, "with this probability, exclude the top choices; 0: off", default=0.0),
    "xtc_threshold": number(0, 0.5, "which choices XTC counts as top", above=True, default=0.1),
    "dynatemp_range": number(0, 100, "let the temperature follow the entropy; 0: off", default=0.0),
    "dynatemp_exponent": number(0.01, 100, "how it follows", default=1.0),
    "mirostat": integer(0, 2, "keep the surprise of the answer near mirostat_tau; 0: off", default=0),
    "mirostat_tau": number(0, 100, "target surprise in bits a token", above=True, default=5.0),
    "mirostat_eta": number(0, 1, "how fast mirostat adapts", above=True, default=0.1),
    "samplers": {
        "type": "array",
        "items": {"enum": list(SAMPLERS)},
        "uniqueItems": True,
        "default": list(SAMPLERS),
        "description": "the samplers in the order wanted",
    },
    "repetition_penalty": number(0.01, 100, "for tokens of prompt and answer so far; 1: off", default=1.0),
    "presence_penalty": number(-2, 2, "subtracted once from logits of tokens in the answer so far", default=0.0),
    "frequency_penalty": number(-2, 2, "subtracted for each time the answer has the token", default=0.0),
    "repeat_last_n": {
        "anyOf": [{"const": -1}, {"type": "integer", "minimum": 1, "maximum": MAX_TOKENS}],
        "default": -1,
        "description": "how many of the last tokens the penalties look at; -1: all",
    },
    "dry_multiplier": number(0, 100, "for tokens that would go on with a repetition (DRY); 0: off", default=0.0),
    "dry_base": number(1, 100, "growth of DRY's penalty with the repetition's length", default=1.75),
    "dry_allowed_length": integer(1, MAX_TOKENS, "longest repetition without a penalty", default=2),
    "dry_sequence_breakers": {
        **texts(MAX_BREAKERS, MAX_BREAKER_LENGTH, "no repetition goes across these"),
        "default": ["\n", ":", '"', "*"],
    },
    "no_repeat_ngram_size": integer(0, MAX_TOKENS, "forbid repeated runs of so many tokens; 0: off", default=0),
    "allowed_token_ids": token_ids(MAX_ALLOWED_IDS, "forbid all other tokens", least=1),
    "bad_words": texts(MAX_WORDS, MAX_STOP_LENGTH, "texts that the answer must not hold"),
    "logit_bias": {
        "type": "object",
        "propertyNames": {"pattern": "^[0-9]{1,10}$"},
        "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
        "maxProperties": MAX_LOGIT_BIAS,
        "description": "token id → number added to its logit",
    },
    "seed": integer(0, 2**64 - 1, "the same request with the same seed gives the same answer"),
    "n": integer(1, MAX_N, "independent answers", default=1),
    "best_of": integer(1, MAX_N, "answers to make, of which the n most probable are returned"),
    "beam_width": integer(0, MAX_BEAM_WIDTH, "beam search in place of sampling; 0: off", default=0),
    "length_penalty": number(-10, 10, "the larger, the better are long answers of beam search", default=1.0),
    "stop": {
        "anyOf": [
            {"type": "string", "minLength": 1, "maxLength": MAX_STOP_LENGTH},
            texts(MAX_STOP_STRINGS, MAX_STOP_LENGTH, "several"),
        ],
        "description": "text that ends the answer",
    },
    "stop_regex": {
        "anyOf": [
            {"type": "string", "minLength": 1, "maxLength": MAX_EXPRESSION},
            texts(MAX_STOP_EXPRESSIONS, MAX_EXPRESSION, "several"),
        ],
        "description": "expression that ends the answer where it matches",
    },
    "stop_token_ids": token_ids(MAX_STOP_TOKENS, "token ids that end the answer"),
    "visible_token_ids": token_ids(MAX_STOP_TOKENS, "control tokens that stay in the text"),
    "min_tokens": integer(0, MAX_TOKENS, "the answer does not end before", default=0),
    "max_tokens": integer(1, MAX_TOKENS, "the answer ends after so many tokens"),
    "ignore_eos": boolean("the model's own end tokens do not end the answer"),
    "logprobs": integer(0, MAX_LOGPROBS, "how many of the most likely tokens to report at each position"),
    "prompt_logprobs": integer(0, MAX_LOGPROBS, "the same for the prompt's tokens; they are in the receipt"),
    "skip_special_tokens": boolean("leave control tokens out of the text", True),
    "include_stop_str_in_output": boolean("keep the stop string at the end of the text"),
    "structured_outputs": STRUCTURED_OUTPUTS,
}
