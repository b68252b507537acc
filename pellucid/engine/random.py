"""Counter-based random numbers: a number depends on its key and counter only, never on what was drawn before.

Philox4x32-10 of Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (SC11), tested with the authors' vectors.
"""

from __future__ import annotations

import hashlib
import os

_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_MASK = 0xFFFFFFFF


def philox4x32(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Four 32-bit words for a counter of four and a key of two 32-bit words, ten rounds."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & _MASK, (p0 >> 32) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _W0) & _MASK, (k1 + _W1) & _MASK
    return c0, c1, c2, c3


def uniform(seed: int, index: int, position: int) -> float:
    """The number in [0, 1), with 53 random bits, that belongs to answer `index` of a request at `position`."""
    high, low, _, _ = philox4x32((position & _MASK, position >> 32, index, 0), (seed & _MASK, seed >> 32))
    return ((high << 21) | (low >> 11)) * 2.0**-53


def fresh_seed() -> int:
    """A seed from the operating system's entropy."""
    return int.from_bytes(os.urandom(8), "little")


def derive_seed(seed: int, number: int) -> int:
    """The seed of the `number`-th request of an engine that was given `seed`."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:8], "little")
