"""Beam search as it is defined: every pair of sequence and token is written down and sorted, in NumPy float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Found = tuple[float, list[int]]
"""Score and tokens."""


def beam_search(
    logits: Callable[[list[int]], np.ndarray],
    prompt: Sequence[int],
    *,
    width: int,
    max_tokens: int,
    end_token_ids: set[int],
    length_penalty: float = 1.0,
) -> list[Found]:
    """The sequences after `prompt`, best first. `logits` gives the row [V] after a sequence."""

    def score(total: float, tokens: list[int]) -> float:
        return float(total / len(tokens) ** length_penalty)

    live: list[Found] = [(0.0, [])]
    finished: list[Found] = []
    for _ in range(max_tokens):
        pairs: list[Found] = []
        for total, tokens in live:
            row = logits([*prompt, *tokens]).astype(np.float64)
            logprobs = row - row.max() - np.log(np.exp(row - row.max()).sum())
            pairs += [(total + float(logprobs[token]), [*tokens, token]) for token in range(len(row))]
        pairs.sort(key=lambda pair: -pair[0])
        ended = [(score(*pair), pair[1]) for pair in pairs[:width] if pair[1][-1] in end_token_ids]
        finished = sorted([*finished, *ended], key=lambda found: -found[0])[:width]
        live = [pair for pair in pairs if pair[1][-1] not in end_token_ids][:width]
        if not live:
            return finished
        if len(finished) == width and max(score(*pair) for pair in live) <= finished[-1][0]:
            return finished
    return sorted([*finished, *((score(*pair), pair[1]) for pair in live)], key=lambda found: -found[0])
