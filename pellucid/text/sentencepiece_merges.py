"""The merges of a SentencePiece BPE model, found from its pieces and scores.

SentencePiece repeatedly joins the adjacent pair whose joined piece has the highest score; the `tokenizers` library
wants the same thing as a ranked list of pairs. Every split of every piece into two pieces is a merge; its rank is the
joined piece's score, and within one piece the pair with the shorter left part goes first.

262,144 pieces have 1.2 million splits. Substrings are compared by 64-bit polynomial hashes computed for all splits at
once in NumPy; a collision (probability below 1e-7 for such a vocabulary) could only add a pair that joins to no piece,
which the library refuses, or one that a hostile file could have listed anyway.
"""

from __future__ import annotations

from typing import Any

import numpy as np

HashArray = np.ndarray[Any, np.dtype[np.uint64]]
IntArray = np.ndarray[Any, np.dtype[np.int64]]
FloatArray = np.ndarray[Any, np.dtype[np.float32]]

_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that it has an inverse modulo 2^64
_BASE_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))
_MIX = np.uint64(0xD1B54A32D192ED03)  # spreads a single character's hash, which is its code, over the high bits


def merges_from_scores(pieces: list[str], scores: FloatArray) -> list[tuple[str, str]]:
    """Pairs in the order they are to be applied. `pieces`: P distinct texts; `scores`: [P], higher is joined first."""
    by_score = np.argsort(-scores, kind="stable")
    pieces = [pieces[index] for index in by_score.tolist()]
    lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))  # [P]
    ends = np.cumsum(lengths)
    starts = ends - lengths
    chars = np.frombuffer("".join(pieces).encode("utf-32-le", "surrogatepass"), np.uint32)  # [C]

    powers = _powers(_BASE, len(chars))
    inverse_powers = _powers(_BASE_INVERSE, len(chars))
    sums = np.zeros(len(chars) + 1, np.uint64)  # sums[k] = Σ_{i<k} (chars[i] + 1)·base^i
    np.cumsum((chars.astype(np.uint64) + np.uint64(1)) * powers[:-1], out=sums[1:])

    def hashes(begin: IntArray, end: IntArray) -> HashArray:
        return (sums[end] - sums[begin]) * inverse_powers[begin] * _MIX

    table = _HashTable(hashes(starts, ends))
    owner = np.repeat(np.arange(len(pieces)), np.maximum(lengths - 1, 0))  # the piece that each split is of
    inside = np.ones(len(chars), bool)
    inside[starts[lengths > 0]] = False
    middle = np.flatnonzero(inside)  # where each split is, in ascending order, so in order of rank
    left = table.find(hashes(starts[owner], middle))
    found = left >= 0
    left, middle, owner = left[found], middle[found], owner[found]
    right = table.find(hashes(middle, ends[owner]))
    found = right >= 0
    piece_at = pieces.__getitem__
    return list(zip(map(piece_at, left[found].tolist()), map(piece_at, right[found].tolist()), strict=True))


def _powers(base: np.uint64, count: int) -> HashArray:
    """base^0 … base^count modulo 2^64, [count + 1]."""
    factors = np.full(count + 1, base, np.uint64)
    factors[0] = 1
    return np.cumprod(factors)


class _HashTable:
    """Finds the index of a hash among P: one gather for most, a binary search for the few that share a slot."""

    def __init__(self, hashes: HashArray) -> None:
        self._shift = np.uint64(60 - len(hashes).bit_length())  # 16 to 32 slots for each hash
        slots = hashes >> self._shift
        own = np.arange(len(hashes), dtype=np.int32)
        self._index = np.full(1 << (64 - int(self._shift)), -1, np.int32)
        self._index[slots] = own
        self._is_shared = np.zeros(len(self._index), bool)
        self._is_shared[slots[self._index[slots] != own]] = True
        self._hashes = hashes
        self._by_hash = np.argsort(hashes)
        self._sorted = hashes[self._by_hash]

    def find(self, wanted: HashArray) -> IntArray:
        """Index of each wanted hash, -1 where there is none."""
        slots = wanted >> self._shift
        index: IntArray = self._index[slots].astype(np.int64)
        index[self._hashes[index] != wanted] = -1
        missed = np.flatnonzero((index < 0) & self._is_shared[slots])
        at = np.searchsorted(self._sorted, wanted[missed])
        at[at == len(self._sorted)] = 0
        index[missed] = np.where(self._sorted[at] == wanted[missed], self._by_hash[at], -1)
        return index
