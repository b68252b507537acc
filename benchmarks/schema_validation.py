"""Whether an answer satisfies its schema, judged by the `jsonschema` library: exact numbers, formats checked."""

from __future__ import annotations

import datetime
import decimal
import json
import re
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import jsonschema

_FORMATS = jsonschema.FormatChecker()
_DURATION = re.compile(r"P(?=.)(\d+W|(\d+Y)?(\d+M)?(\d+D)?(T(?=.)(\d+H)?(\d+M)?(\d+S)?)?)", re.ASCII)
_LABEL = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")


@_FORMATS.checks("date-time", raises=ValueError)
def _date_time(text: object) -> bool:
    return not isinstance(text, str) or datetime.datetime.fromisoformat(_rounded(text)).tzinfo is not None


@_FORMATS.checks("time", raises=ValueError)
def _time(text: object) -> bool:
    return not isinstance(text, str) or datetime.time.fromisoformat(_rounded(text)).tzinfo is not None


@_FORMATS.checks("duration")
def _duration(text: object) -> bool:
    return not isinstance(text, str) or _DURATION.fullmatch(text) is not None


@_FORMATS.checks("hostname")
def _hostname(text: object) -> bool:
    return not isinstance(text, str) or (len(text) <= 253 and all(_LABEL.fullmatch(label) for label in text.split(".")))


@_FORMATS.checks("uri", raises=ValueError)
def _uri(text: object) -> bool:
    return not isinstance(text, str) or (text.isascii() and " " not in text and bool(urlsplit(text).scheme))


def _rounded(text: str) -> str:
    """With at most six digits of a second, which is what `fromisoformat` reads."""
    return re.sub(r"(\.\d{6})\d+", r"\1", text)


def problem(schema: Any, answer: str) -> str | None:
    """Why `answer` is no instance of `schema`; None if it is one."""
    exact = json.loads(json.dumps(schema), parse_float=Decimal)
    dialect = jsonschema.validators.validator_for(exact, default=jsonschema.Draft202012Validator)
    if isinstance(exact, dict) and "$schema" not in exact and _has_old_tuples(exact):
        dialect = jsonschema.Draft7Validator
    with decimal.localcontext(prec=400):
        try:
            value = json.loads(answer, parse_float=_number)
            dialect(exact, format_checker=_FORMATS).validate(value)
        except (ValueError, jsonschema.ValidationError) as error:
            return f"{type(error).__name__}: {getattr(error, 'message', error)}"
    return None


def _number(text: str) -> Decimal | float:
    try:
        return Decimal(text)
    except decimal.InvalidOperation:  # JSON allows exponents of any length
        return float(text)


def _has_old_tuples(schema: Any) -> bool:
    """`items` with a list: how drafts before 2020-12 write a tuple."""
    if isinstance(schema, dict):
        return isinstance(schema.get("items"), list) or any(map(_has_old_tuples, schema.values()))
    return isinstance(schema, list) and any(map(_has_old_tuples, schema))
