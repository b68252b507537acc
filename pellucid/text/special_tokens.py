"""Finds special tokens in text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pellucid.errors import FormatError
from pellucid.text.vocabulary import SpecialToken, rust_errors

if TYPE_CHECKING:
    import tokenizers


class SpecialTokenFinder:
    """Leftmost-longest matching of all special tokens at once, in linear time (the `tokenizers` library's own matcher,
    with a model that knows nothing else)."""

    def __init__(self, special_tokens: list[SpecialToken]) -> None:
        self._tokens = special_tokens
        self._matcher: tokenizers.Tokenizer | None = None
        used = set().union(*(token.text for token in special_tokens))
        self._cover = next(char for char in map(chr, range(0xE000, 0x110000)) if char not in used)
        self._covered = re.compile(r"(?s:.)" if any(map(str.isspace, used)) else r"\S")

    def find(self, text: str) -> list[tuple[int, int, int]]:
        """(start, end, id) of each special token in `text`, in order."""
        if not self._tokens:
            return []
        if self._matcher is None:
            self._matcher = _matcher(self._tokens)
        with rust_errors(FormatError, "special tokens"):
            encoding = self._matcher.encode(text, add_special_tokens=False)
        return [
            (start, end, self._tokens[index - 1].id)
            for index, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
            if index
        ]

    def find_trusted(self, text: str, trusted: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
        """As `find`, for tokens that lie in `trusted` parts, ascending and disjoint (start, end), entirely.

        The rest is covered with a character of no special token. White space is left where no token contains any,
        because a token with lstrip or rstrip also swallows white space that is not trusted.
        """
        pieces = []
        position = 0
        for start, end in trusted:
            pieces += [self._covered.sub(self._cover, text[position:start]), text[start:end]]
            position = end
        pieces.append(self._covered.sub(self._cover, text[position:]))
        return self.find("".join(pieces))


def _matcher(special_tokens: list[SpecialToken]) -> tokenizers.Tokenizer:
    from tokenizers import AddedToken, Tokenizer, models

    with rust_errors(FormatError, "special tokens"):
        matcher = Tokenizer(models.WordLevel(vocab={"": 0}, unk_token=""))  # id 0: any text; id i + 1: token i
        matcher.add_special_tokens(
            [
                AddedToken(
                    token.text,
                    lstrip=token.lstrip,
                    rstrip=token.rstrip,
                    single_word=token.single_word,
                    normalized=False,
                )
                for token in special_tokens
            ]
        )
    return matcher
