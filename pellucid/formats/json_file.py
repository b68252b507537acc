"""JSON from a model folder: bounded in size and depth, every key once, every number finite."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from pellucid.errors import FormatError
from pellucid.formats.mapped import map_file

MAX_DEPTH = 32

# A string, or what begins one and never ends. Possessive, so that no input makes the matcher go back.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)


def read_json_object(path: Path, most: int) -> dict[str, Any]:
    """The object in a JSON file of at most `most` bytes. Raises FormatError (ModelNotFound if there is no file)."""
    buffer = map_file(path)
    if len(buffer) > most:
        raise FormatError(f"{path.name!r} has {len(buffer)} bytes; the limit for this file is {most}")
    return parse_json_object(buffer[:], f"{path.name!r}")


def parse_json_object(data: bytes, what: str) -> dict[str, Any]:
    """The object in `data`, which must be UTF-8 JSON of at most MAX_DEPTH levels with distinct keys and finite numbers.

    `what` names the source in messages. Raises FormatError.
    """
    _check_depth(data, what)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        object = dict(pairs)
        if len(object) != len(pairs):
            [(repeated, _)] = Counter(name for name, _ in pairs).most_common(1)
            raise FormatError(f"{what} has the key {repeated[:80]!r} more than once in one object")
        return object

    def finite(text: str) -> float:
        number = float(text)
        if not math.isfinite(number):
            raise FormatError(f"{what} has the number {text[:40]}, which is not finite")
        return number

    try:
        value = json.loads(data.decode(), object_pairs_hook=unique, parse_float=finite, parse_constant=finite)
    except UnicodeDecodeError as error:
        raise FormatError(f"{what} is not UTF-8: {error.reason} at byte {error.start}") from None
    except ValueError as error:  # also an integer of thousands of digits
        raise FormatError(f"{what} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise FormatError(f"{what} holds a JSON {type(value).__name__}, expected an object")
    return value


def _check_depth(data: bytes, what: str) -> None:
    """Before parsing, because the parser recurses."""
    code = np.frombuffer(_STRING.sub(b"", data), np.uint8)
    steps = np.isin(code, (ord("["), ord("{"))).astype(np.int8) - np.isin(code, (ord("]"), ord("}")))
    if np.cumsum(steps, dtype=np.int32).max(initial=0) > MAX_DEPTH:
        raise FormatError(f"{what} nests more than {MAX_DEPTH} levels deep")
