"""The checks of SamplingParams' fields: each takes what a caller gave and returns it in its one form, or raises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pellucid.errors import InvalidParameter
from pellucid.fields import integer, real, show
from pellucid.stop_regex import MAX_EXPRESSION, compile_stop_regex

MAX_TOKENS = 2**31 - 1
MAX_TOKEN_ID = 2**31 - 1
MAX_LOGIT_BIAS = 65_536
MAX_STOP_TOKENS = 1_024
MAX_STOP_EXPRESSIONS = 8
MIN_TEMPERATURE = 1e-3
MAX_ALLOWED_IDS = 65_536
MAX_BREAKERS = 64
MAX_PROCESSORS = 64
MAX_BREAKER_LENGTH = 40

SAMPLERS = (
    "penalties", "dry", "temperature", "top_n_sigma", "top_k", "typical_p", "top_p", "min_p", "xtc",
)  # fmt: skip
"""The samplers that `samplers` puts in order, in the order that they have without it."""


def temperature(value: object) -> float:
    value = real("temperature", value, 0.0, 100.0)
    if 0 < value < MIN_TEMPERATURE:
        raise InvalidParameter(
            "temperature",
            f"{value:g} is too close to 0; use 0 for the most likely token, or at least {MIN_TEMPERATURE:g}",
        )
    return value


def logit_bias(value: object) -> dict[int, float] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise InvalidParameter("logit_bias", f"expected a mapping from token id to number, got {show(value)}")
    if len(value) > MAX_LOGIT_BIAS:
        raise InvalidParameter("logit_bias", f"expected at most {MAX_LOGIT_BIAS} entries, got {len(value)}")
    return {
        integer("logit_bias", key, 0, MAX_TOKEN_ID): real("logit_bias", number, -100.0, 100.0)
        for key, number in value.items()
    }


def texts(name: str, value: object, most: int, longest: int) -> tuple[str, ...]:
    given = (value,) if isinstance(value, str) else () if value is None else value
    if not isinstance(given, Sequence):
        raise InvalidParameter(name, f"expected a string or a list of strings, got {show(value)}")
    if len(given) > most:
        raise InvalidParameter(name, f"expected at most {most} strings, got {len(given)}")
    for text in given:
        if not isinstance(text, str):
            raise InvalidParameter(name, f"expected strings, got {show(text)}")
        if not 1 <= len(text) <= longest:
            raise InvalidParameter(name, f"each string has 1 to {longest} characters, got {len(text)}")
        if any("\ud800" <= c <= "\udfff" for c in text):
            raise InvalidParameter(name, f"{text!r} holds half a character (a lone surrogate) and can never be matched")
    return tuple(given)


def breakers(value: object) -> tuple[str, ...]:
    return texts("dry_sequence_breakers", value, MAX_BREAKERS, MAX_BREAKER_LENGTH)


def repeat_last_n(value: object) -> int:
    number = integer("repeat_last_n", value, -1, MAX_TOKENS)
    if number == 0:
        raise InvalidParameter("repeat_last_n", "0 would switch the penalties off; leave them out instead (-1: all)")
    return number


def allowed_token_ids(value: object) -> tuple[int, ...] | None:
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Sequence) or not 1 <= len(value) <= MAX_ALLOWED_IDS:
        raise InvalidParameter(
            "allowed_token_ids", f"expected a list of 1 to {MAX_ALLOWED_IDS} token ids, got {show(value)}"
        )
    return tuple(integer("allowed_token_ids", token, 0, MAX_TOKEN_ID) for token in value)


def samplers(value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InvalidParameter("samplers", f"expected a list of names ({', '.join(SAMPLERS)}), got {show(value)}")
    for i, name in enumerate(value):
        if name not in SAMPLERS:
            raise InvalidParameter("samplers", f"there is no {show(name)}; expected some of {', '.join(SAMPLERS)}")
        if name in value[:i]:
            raise InvalidParameter("samplers", f"{name!r} is there twice")
    return tuple(value)


def token_ids(name: str, value: object) -> tuple[int, ...]:
    if value is None:
        return ()
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InvalidParameter(name, f"expected a list of token ids, got {show(value)}")
    if len(value) > MAX_STOP_TOKENS:
        raise InvalidParameter(name, f"expected at most {MAX_STOP_TOKENS} ids, got {len(value)}")
    return tuple(integer(name, token, 0, MAX_TOKEN_ID) for token in value)


def stop_regex(value: object) -> tuple[str, ...]:
    expressions = texts("stop_regex", value, MAX_STOP_EXPRESSIONS, MAX_EXPRESSION)
    for expression in expressions:
        compile_stop_regex(expression)
    return expressions


def processors(value: object) -> tuple[Any, ...]:
    if value is None:
        return ()
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(map(callable, value)):
        raise InvalidParameter(
            "logits_processors", f"expected a list of Python functions, which only the library takes, got {show(value)}"
        )
    if len(value) > MAX_PROCESSORS:
        raise InvalidParameter("logits_processors", f"expected at most {MAX_PROCESSORS}, got {len(value)}")
    return tuple(value)


def processor_name(processor: object) -> str:
    return str(getattr(processor, "__qualname__", type(processor).__qualname__))
