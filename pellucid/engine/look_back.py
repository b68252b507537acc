"""What dry and bad_words need from the tokenizer: where sequence breakers end, and the tokens of forbidden words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pellucid.errors import InvalidParameter
from pellucid.text.tokenizer import Tokenizer


class SequenceBreakers:
    """Finds the tokens in which a breaker ends, on the bytes of the text, across token boundaries."""

    def __init__(self, breakers: Sequence[str], tokenizer: Tokenizer) -> None:
        self._breakers = [breaker.encode() for breaker in breakers]
        self._tokenizer = tokenizer
        self._tail = b""  # the end of the text so far, one byte shorter than the longest breaker
        self._keep = max(map(len, self._breakers), default=1) - 1

    def add(self, token: int) -> bool:
        """Go past a token; whether a breaker ends in it."""
        try:
            piece = self._tokenizer.token_bytes(token)
        except InvalidParameter:  # an id that only pads the logits
            piece = b""
        text = self._tail + piece
        self._tail = text[len(text) - self._keep :] if self._keep else b""
        begun = len(text) - len(piece)
        return any(text.find(b, max(0, begun + 1 - len(b))) >= 0 for b in self._breakers)

    def of_prompt(self, token_ids: Sequence[int]) -> npt.NDArray[np.uint8]:
        return np.fromiter((self.add(token) for token in token_ids), np.uint8, len(token_ids))


def bad_word_ids(words: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    """The token sequences of `words`: as they are, and after a space where that gives other tokens, as many.

    vLLM's rule: a word is met in the middle of a sentence as well as at its beginning.
    """
    sequences = []
    for word in words:
        plain = tokenizer.encode(word.lstrip(), add_special=False)
        spaced = tokenizer.encode(" " + word.lstrip(), add_special=False)
        if not plain:
            raise InvalidParameter("bad_words", f"{word!r} has no tokens and can never be matched")
        sequences.append(plain)
        if spaced[0] != plain[0] and len(spaced) == len(plain):
            sequences.append(spaced)
    return sequences
