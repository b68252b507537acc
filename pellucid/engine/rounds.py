"""Choosing tokens in rounds: one for every request that has caught up, then more where draft tokens were right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid.engine.request import Request
from pellucid.engine.sampler import Row, Sampled, sample_rows


@dataclass
class Turn:
    """A request that has caught up: the rows [1 + drafts, V] about its next token and about those after its drafts."""

    request: Request
    logits: npt.NDArray[np.float32]
    drafts: Sequence[int]
    num_right: int = 0  # of the drafts, so far

    def row(self) -> Row:
        return Row(
            self.request.sampler,
            self.logits[self.num_right],
            num_output_tokens=self.request.num_output_tokens,
            position=self.request.num_tokens,
            num_logprobs=self.request.params.logprobs,
        )

    def goes_on(self) -> bool:
        """Whether the token that was chosen is the draft that the next row was computed with."""
        right = (
            self.request.finish_reason is None
            and self.num_right < len(self.drafts)
            and self.request.token_ids[-1] == self.drafts[self.num_right]
        )
        self.num_right += right
        return right


def choose_tokens(turns: Sequence[Turn], *, threads: int) -> Iterator[tuple[Request, Sampled | Exception]]:
    """Tokens, or what went wrong, round by round: the caller gives each to its request before asking for the next."""
    while turns:
        chosen = sample_rows([turn.row() for turn in turns], threads=threads)
        yield from zip([turn.request for turn in turns], chosen, strict=True)
        turns = [turn for turn in turns if turn.goes_on()]
