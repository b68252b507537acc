"""The work of `compare_many.py`: many requests that share a system prompt, alike for every engine.

Importable without Pellucid, because a peer's worker runs in the peer's own environment.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

SHARED_TOKENS = 256
USER_TOKENS = (32, 512)
NEW_TOKENS = (64, 256)
MAX_RUNNING = 32


@dataclass(frozen=True)
class Job:
    """One request: its prompt, and how many tokens it generates (end tokens do not end it)."""

    prompt: list[int]
    num_new: int


def jobs(count: int, vocab_size: int, seed: int = 0) -> list[Job]:
    """`count` requests of uniformly drawn lengths, with random token ids after a common beginning."""
    rng = random.Random(seed)

    def ids(length: int) -> list[int]:
        return [rng.randrange(3, vocab_size) for _ in range(length)]

    shared = ids(SHARED_TOKENS)
    return [Job(shared + ids(rng.randint(*USER_TOKENS)), rng.randint(*NEW_TOKENS)) for _ in range(count)]
