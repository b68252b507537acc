"""JSON text to values, within limits: depth, number of values, no key twice, no number that would lose digits."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from pellucid.errors import InvalidParameter
from pellucid.structured.limits import MAX_JSON_DEPTH, MAX_JSON_NODES


class _DuplicateKey(ValueError):
    pass


def parse_json(text: str, *, param: str) -> Any:
    """The value of `text`; numbers with a fraction or an exponent are Decimals. Raises InvalidParameter."""
    try:
        value = json.loads(
            text, parse_float=Decimal, parse_constant=_no_constant, object_pairs_hook=_object_without_duplicates
        )
    except RecursionError:
        raise InvalidParameter(param, f"it is nested more than {MAX_JSON_DEPTH} deep") from None
    except _DuplicateKey as error:
        raise InvalidParameter(param, f"it has the key {str(error)[:80]} twice in one object") from None
    except ValueError as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "a number is out of range"
        place = f" at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else ""
        raise InvalidParameter(param, f"it is not valid JSON{place}: {reason}") from None
    _check_size(value, param)
    return value


def _no_constant(name: str) -> None:
    raise json.JSONDecodeError(f"{name} is no JSON value", name, 0)


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _DuplicateKey(repr(next(key for key in keys if keys.count(key) > 1)))
    return result


def _check_size(value: Any, param: str) -> None:
    """Depth and number of values, and lone surrogates, which no text of an answer could hold."""
    level, depth, count = [value], 0, 0
    while level:
        depth, count = depth + 1, count + len(level)
        if depth > MAX_JSON_DEPTH:
            raise InvalidParameter(param, f"it is nested more than {MAX_JSON_DEPTH} deep")
        if count > MAX_JSON_NODES:
            raise InvalidParameter(param, f"it has more than {MAX_JSON_NODES:,} values")
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += [*item, *item.values()]
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str) and any("\ud800" <= c <= "\udfff" for c in item):
                raise InvalidParameter(param, f"it holds half a character (a lone surrogate) in {item[:40]!a}")
        level = below
