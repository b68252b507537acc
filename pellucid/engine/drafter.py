"""Drafter: guesses the next tokens of an answer, so that one step can compute several of them.

A guess costs time when it is wrong and never changes an answer: the sampler chooses every token itself, and a draft
token only counts when it is the one that was chosen (Leviathan et al. 2023, "Fast Inference from Transformers via
Speculative Decoding", with the sampler's own random numbers in place of the rejection test).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pellucid.engine.request import Request


class Drafter(Protocol):
    def propose(self, request: Request) -> Sequence[int]:
        """Guesses for the tokens after `request.token_ids`, nearest first; empty for none.

        Called after each step for every request that got a token and goes on. What does not fit is cut off: the end
        of the answer, the step's budget, the free blocks. An exception ends the request.
        """
        ...
