"""Random answers to a grammar: a walk over what the masks allow, with weights that let long texts come to an end."""

from __future__ import annotations

import random
import re
from typing import Any

import numpy as np
from support.fake_model import ByteTokenizer

from pellucid.structured.grammar import lark_of
from pellucid.structured.matcher import Grammar, GrammarMatcher
from pellucid.structured.vocabulary import token_finder
from pellucid.structured_outputs import StructuredOutputs

_QUOTES = re.compile(rb'(?<!\\)(?:\\\\)*"')


def grammar(table: Any, **given: Any) -> Grammar:
    """With the control tokens of ByteTokenizer."""
    spec = StructuredOutputs(**given)
    find_token: Any = token_finder(ByteTokenizer(), 260)  # type: ignore[arg-type]
    return Grammar(table, lark_of(spec, find_token), param=spec.kind)


def allowed(mask: np.ndarray) -> np.ndarray:
    return np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))


def walk(start: GrammarMatcher, tokenizer: Any, rng: random.Random, *, max_tokens: int = 400) -> tuple[str, bool]:
    """A random answer and whether it ended. After 40 tokens it hurries: closes what is open, prefers null."""
    data = b""
    for i in range(max_tokens):
        if start.is_finished:
            return data.decode(), True
        tokens = [int(token) for token in allowed(start.mask())]
        token = rng.choice(_hurried(tokens, data, tokenizer) if i > 40 else tokens)
        start.accept(token)
        if token in tokenizer.eos_token_ids:
            return data.decode(), True
        data += tokenizer.token_bytes(token)
    return data.decode(errors="ignore"), False


def _hurried(tokens: list[int], data: bytes, tokenizer: Any) -> list[int]:
    """Those of `tokens` that bring an answer to its end, JSON above all."""

    def those(allowed_bytes: bytes) -> list[int]:
        texts = {bytes([byte]) for byte in allowed_bytes}
        return [token for token in tokens if tokenizer.token_bytes(token) in texts]

    if ends := [token for token in tokens if token in tokenizer.eos_token_ids]:
        return ends
    if len(_QUOTES.findall(data)) % 2:  # in a string: a few characters, among which a pattern is soon matched
        few = those(b"ab :/A0-")
        return those(b'"') or few * (len(tokens) // max(1, len(few))) + tokens
    if closing := those(b'"}]'):
        return closing
    if data[-1:].isdigit():
        return [token for token in tokens if not tokenizer.token_bytes(token).isdigit()] or tokens
    return (those(b"0n") if data.rstrip()[-1:] in (b":", b",", b"[") else []) or tokens


def accepts(start: GrammarMatcher, text: str) -> bool:
    """Whether `text`, one byte a token (ByteTokenizer), is an answer to the grammar."""
    for byte in text.encode():
        if start.is_finished or byte not in allowed(start.mask()):
            return False
        start.accept(byte)
    return start.is_finished or 257 in allowed(start.mask())
