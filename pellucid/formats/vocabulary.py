"""A GGUF file's vocabulary must agree with itself before a tokenizer is made of it.

Source: the GGUF specification, section "Tokenizer", and llama.cpp's token types.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from pellucid.errors import FormatError, UnsupportedModel

_PREFIX = "tokenizer.ggml."
_BYTE = 6
_TOKEN_TYPES = (1, _BYTE)  # normal, unknown, control, user-defined, unused, byte
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
_FLAGS = ("add_bos_token", "add_eos_token", "add_sep_token", "add_space_prefix", "remove_extra_whitespaces")


def check_vocabulary(metadata: Mapping[str, Any]) -> None:
    """Checks the keys `tokenizer.ggml.*` against each other; a file without them passes. Raises FormatError, and
    UnsupportedModel for a separator token to be added, which nothing here does.

    Scores (float32, finite) and token_type (int32 or uint32, 1 to 6) have one entry for each of the tokens; tokens and
    merges are strings; every `*_token_id` is below the number of tokens; byte tokens read `<0xHH>`.
    """
    tokens = metadata.get(_PREFIX + "tokens")
    if tokens is None:
        return
    _check_strings("tokens", tokens)
    if not tokens:
        raise FormatError(f"{_PREFIX}tokens is empty; a vocabulary has at least one token")
    if "merges" in _names(metadata):
        _check_strings("merges", metadata[_PREFIX + "merges"])
    scores = _check_array(metadata, "scores", ("float32",), len(tokens))
    if scores is not None and not np.isfinite(scores).all():
        raise FormatError(f"{_PREFIX}scores holds NaN or infinity for token {int(np.isfinite(scores).argmin())}")
    types = _check_array(metadata, "token_type", ("int32", "uint32"), len(tokens))
    if types is not None:
        _check_types(types, tokens)
    _check_scalars(metadata, len(tokens))


def _names(metadata: Mapping[str, Any]) -> list[str]:
    return [key.removeprefix(_PREFIX) for key in metadata if key.startswith(_PREFIX)]


def _check_strings(name: str, value: Any) -> None:
    # Elements of a GGUF array have one type, so the first one tells.
    if not isinstance(value, list) or (value and not isinstance(value[0], str)):
        raise FormatError(f"{_PREFIX}{name} is {_describe(value)}, expected an array of strings")


def _check_array(metadata: Mapping[str, Any], name: str, dtypes: tuple[str, ...], length: int) -> Any:
    value = metadata.get(_PREFIX + name)
    if value is None:
        return None
    if not isinstance(value, np.ndarray) or value.dtype.name not in dtypes:
        raise FormatError(f"{_PREFIX}{name} is {_describe(value)}, expected an array of {' or '.join(dtypes)}")
    if len(value) != length:
        raise FormatError(f"{_PREFIX}{name} has {len(value)} entries for {length} tokens")
    return value


def _check_types(types: Any, tokens: list[str]) -> None:
    low, high = _TOKEN_TYPES
    if types.min() < low or types.max() > high:
        token = int(((types < low) | (types > high)).argmax())
        raise FormatError(f"{_PREFIX}token_type of token {token} is {types[token]}, expected {low} to {high}")
    for token in np.flatnonzero(types == _BYTE).tolist():
        if not _BYTE_TOKEN.fullmatch(tokens[token]):
            raise FormatError(
                f"token {token} is a byte token but reads {tokens[token]!r:.40}, expected '<0x00>' to '<0xFF>'"
            )


def _check_scalars(metadata: Mapping[str, Any], num_tokens: int) -> None:
    for name in _names(metadata):
        value = metadata[_PREFIX + name]
        if name.endswith("_token_id") and not (type(value) is int and 0 <= value < num_tokens):
            raise FormatError(f"{_PREFIX}{name} is {_describe(value)}, expected an integer from 0 to {num_tokens - 1}")
        if name in _FLAGS and not isinstance(value, bool):
            raise FormatError(f"{_PREFIX}{name} is {_describe(value)}, expected a bool")
    if metadata.get(_PREFIX + "add_sep_token"):
        raise UnsupportedModel(f"{_PREFIX}add_sep_token is True, supported: False; no text model in use needs it")


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype.name}"
    if isinstance(value, list):
        return "an array of strings" if value and isinstance(value[0], str) else "an array of arrays"
    return f"{value!r:.40}"
