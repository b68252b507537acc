"""Token ids to text, a few ids at a time, never emitting half a character."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pellucid.text.tokenizer import Tokenizer


class Detokenizer:
    """Yields the text of a growing list of ids.

    The pieces returned by `add` and `finish` join to `tokenizer.decode(all ids, skip_special=…)`, however the ids were
    grouped. Bytes that begin a character wait for its end; bytes that cannot become one are U+FFFD as soon as that is
    certain.

    visible: control tokens that are text even where those are left out.
    continuation: the ids go on from a prompt. A SentencePiece tokenizer marks the space before a word on the word's own
    token, and takes it away at the start of a text; here the start is not the start of a text, so the space stays.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        skip_special_tokens: bool = True,
        visible: Iterable[int] = (),
        continuation: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        self._visible = frozenset(visible)
        self._skip_special = skip_special_tokens
        self._strip_space = tokenizer.strips_leading_space and not continuation
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, ids: Iterable[int]) -> str:
        """The text that these ids complete. Raises InvalidParameter for an id that does not exist."""
        tokenizer = self._tokenizer
        if self._skip_special:
            data = b"".join(
                [tokenizer.token_bytes(id) for id in ids if id in self._visible or not tokenizer.is_special(id)]
            )
        else:
            data = b"".join([tokenizer.token_bytes(id) for id in ids])
        if self._strip_space and data:
            self._strip_space = False
            data = data.removeprefix(b" ")
        return self._utf8.decode(data)

    def finish(self) -> str:
        """What was still waiting: U+FFFD for a character that never ended. No `add` may follow."""
        return self._utf8.decode(b"", final=True)
