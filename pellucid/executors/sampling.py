"""The samplers' native half: tokens from rows of logits, without the GIL. The walk over the vocabulary is C++.

`engine/sampler.py` says what is sampled and why; here are only the calls.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pellucid.native import _native

Sampler = _native.Sampler
SamplerSettings = _native.SamplerSettings

Logits = npt.NDArray[np.float32]  # [V]
Mask = npt.NDArray[np.uint32]  # [ceil(V / 32)]

NativeRow = tuple[Sampler, Logits, Logits | None, Mask | None, int, int, int]
"""Sampler, the model's logits, others to sample from in their place, mask, num_output_tokens, position, and how many
log-probabilities are wanted (-1: none)."""

NativeChoice = tuple[int, float, int, list[tuple[int, float, int]]]
"""Token (-1: none could be chosen), its surprise in bits for mirostat, the number of logits that are no numbers, and
(token, logprob, rank)."""


def choose_rows(rows: Sequence[NativeRow], *, threads: int = 1, portable: bool = False) -> list[NativeChoice]:
    """A choice for each row. Neither `threads` nor the instruction set (`portable`: the plainest) changes a bit."""
    return _native.choose_rows(list(rows), threads, portable)


def rank_rows(
    logits: npt.NDArray[np.float32], tokens: Sequence[int], count: int, *, portable: bool = False
) -> list[list[tuple[int, float, int]]]:
    """(token, logprob, rank) of a token for each row [R, V], then of the `count` most likely ones without it.

    Empty for a row that holds NaN or infinity.
    """
    return _native.rank_rows(np.ascontiguousarray(logits), list(tokens), count, portable)


def uniform_pair(seed: int, index: int, position: int) -> tuple[float, float]:
    """The two random numbers in [0, 1) of a position: for the token, and for whether xtc acts."""
    return _native.sampler_uniform(seed, index, position)
