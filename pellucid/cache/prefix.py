"""BlockHashes: the names under which full blocks of a sequence can be found again.

A block's digest covers its own tokens and, through its predecessor's digest, all tokens before them, since keys and
values depend on every one of them. The chain begins with what else they depend on (the adapter) and with a salt that
keeps the blocks of one user from another's: whether a prompt was seen before shows in the time it takes.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import sha256

from pellucid.executors.base import BLOCK_SIZE


class BlockHashes:
    """SHA-256 digests of a growing token sequence's full blocks, each computed once."""

    def __init__(self, *, adapter: str = "", salt: str = "", block_size: int = BLOCK_SIZE) -> None:
        self._block_size = block_size
        # Lengths go first, so that no other pair of names gives the same bytes.
        names = (name.encode("utf-8", "surrogatepass") for name in (adapter, salt))
        self._root = sha256(b"".join(b"%d:%b" % (len(name), name) for name in names)).digest()
        self._digests: list[bytes] = []

    def first(self, num_blocks: int, token_ids: Sequence[int]) -> Sequence[bytes]:
        """The digests of the first `num_blocks` blocks or more; read only.

        `token_ids` holds at least their tokens, and begins with the tokens of earlier calls.
        """
        digests, size = self._digests, self._block_size
        last = digests[-1] if digests else self._root
        for start in range(len(digests) * size, num_blocks * size, size):
            last = sha256(last + array("I", token_ids[start : start + size]).tobytes()).digest()
            digests.append(last)
        return digests
