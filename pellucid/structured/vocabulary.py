"""The vocabulary as llguidance wants it: the bytes of every token, once a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pellucid.errors import InvalidParameter, InvalidRequest
from pellucid.structured.letters import Letters

if TYPE_CHECKING:
    from pellucid.text.tokenizer import Tokenizer


class _TokenBytes:
    """What LLTokenizer reads of a tokenizer. It is never asked to tokenize: our grammars leave that to the model."""

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self.bos_token_id = None
        self.tokens: list[bytes] = []
        self.special_token_ids: list[int] = []
        for token in range(vocab_size):
            try:
                data = tokenizer.token_bytes(token)
            except InvalidParameter:  # it only pads the logits, or is a hole in the vocabulary: never allowed
                self.tokens.append(b"")
                continue
            self.tokens.append(data)
            if tokenizer.is_special(token):
                self.special_token_ids.append(token)
        self.end_token_ids = sorted(token for token in tokenizer.eos_token_ids if token < vocab_size)
        self.eos_token_id = self.end_token_ids[0] if self.end_token_ids else None

    def __call__(self, text: bytes | str) -> list[int]:
        raise AssertionError("grammars are compiled with no_forcing, which asks for no tokens")


def build_table(tokenizer: Tokenizer, vocab_size: int) -> tuple[Any, Letters]:
    """llguidance's LLTokenizer for logits of width `vocab_size`, and what the vocabulary can spell.

    CPU seconds and memory: 0.15 s and 20 MB for SmolLM2 (49,152 tokens), 1.3 s and 90 MB for Gemma 3 (262,144).
    Raises InvalidRequest for a model without an end token, whose answers could not end where the grammar does.
    """
    from llguidance import LLTokenizer

    source: Any = _TokenBytes(tokenizer, vocab_size)
    if not source.end_token_ids:
        raise InvalidRequest("this model has no end token, so it cannot give structured output")
    table = LLTokenizer(source, eos_token=source.end_token_ids)
    return table, Letters(source.tokens, source.special_token_ids)


def build_tokenizer(tokenizer: Tokenizer, vocab_size: int) -> Any:
    """The first of `build_table`."""
    return build_table(tokenizer, vocab_size)[0]


def token_finder(tokenizer: Tokenizer, vocab_size: int) -> Callable[[str], int | None]:
    """What structural tags ask for their tokens (structural_tag.FindToken)."""

    def find(text: str) -> int | None:
        token = next((token.id for token in tokenizer.special_tokens if token.text == text), None)
        if token is None or token >= vocab_size:
            raise ValueError(f"the vocabulary has no token {text[:40]!r} apart from ordinary text; give it as text")
        if token in tokenizer.eos_token_ids:
            raise ValueError(f"{text[:40]!r} ends the answer; leave it away")
        return token if tokenizer.is_special(token) else None

    return find
