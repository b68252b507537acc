"""Letters: whether a vocabulary that lacks some bytes can write any answer that a grammar allows.

Most vocabularies have a token for each byte and can write everything. Those of tiny models may have no "{", say: every
answer in JSON would end in the middle, at the first place where it must stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

TEXT_BYTES = frozenset([0x0A, *range(0x20, 0x7F), *range(0x80, 0xC0), *range(0xC2, 0xF5)])
"""Those that are seen in UTF-8 text."""

MAX_STATES = 128
MAX_BRANCHES = 8  # where more letters than these may follow, an answer is taken to be possible


class Letters:
    """The tokens of one byte and the special ones."""

    def __init__(self, tokens: Sequence[bytes], special_token_ids: Sequence[int]) -> None:
        """`tokens`: the bytes of each token, empty for those that write nothing."""
        special = set(special_token_ids)
        letters = {data[0]: token for token, data in enumerate(tokens) if len(data) == 1 and token not in special}
        self._ids = np.array(sorted([*letters.values(), *special]), np.int64)
        in_tokens = {byte for token, data in enumerate(tokens) if token not in special for byte in data}
        self.are_complete = letters.keys() >= TEXT_BYTES
        self._spell_all = letters.keys() >= in_tokens
        self._bytes = frozenset(letters)

    def obstacle(self, matcher: Any) -> str | None:
        """A character that no token writes and that answers to the grammar of an LLMatcher need, if all of them need
        such a one; "" if it is not known which.

        None: there is an answer, or there may be one. Bounded: states are tried letter by letter, MAX_STATES at most.
        """
        if self.are_complete or not self._spell_all:
            return None
        found, waiting = "", [matcher.deep_copy()]
        for _ in range(MAX_STATES):
            if not waiting:
                return found
            state = waiting.pop()
            if state.is_accepting() or (state.is_stopped() and not state.is_error()):
                return None
            wanted = _text(state.compute_ff_bytes(), self._bytes)
            mask = np.frombuffer(state.compute_bitmask(), np.uint32)
            if state.is_stopped():  # nothing can follow
                found = found or wanted
                continue
            allowed = self._ids[_has(mask, self._ids)]
            if len(allowed) > MAX_BRANCHES:
                return None
            for token in allowed.tolist():
                branch = state.deep_copy()
                branch.consume_token(token)
                waiting.append(branch)
            found = found or ("" if len(allowed) else wanted)
        return None


def _has(mask: npt.NDArray[np.uint32], ids: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    return (mask[ids // 32] >> (ids % 32).astype(np.uint32) & 1).astype(np.bool_)


def _text(forced: bytes, written: frozenset[int]) -> str:
    """The first character of text that must follow which cannot be written."""
    for character in forced.decode(errors="replace"):
        if not written.issuperset(character.encode()):
            return character
    return ""
