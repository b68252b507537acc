"""Beam search: the sequences of highest probability, looked for a token at a time among the best so far.

    live ← the empty sequence
    repeat: of all live sequences and next tokens, rank the pairs by cumulative log-probability
            those that end, if they are among the `width` best pairs, are finished
            the `width` best of those that do not end are live
    until nothing is live, or `width` are finished and no live one scores more than the worst of them, or max_tokens

The score of a sequence is its cumulative log-probability / its number of tokens ^ length_penalty (Wu et al. 2016,
"Google's Neural Machine Translation System", in the simpler form of fairseq and transformers). Of equals, the pair of
the better sequence and then of the smaller token id comes first. At max_tokens live sequences count as finished.

Each live sequence is computed by a request of its own that reads one row of logits, a new one for each token. They
share the KV blocks of what they have in common, and like every request they give the same rows in any company.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from pellucid.engine.contest import Contest
from pellucid.engine.readout import Rows
from pellucid.engine.request import Request
from pellucid.engine.sampler import RankedToken, ranked_logprobs
from pellucid.engine.token_text import add_text, position_logprobs
from pellucid.text.tokenizer import Tokenizer


class BestTokens:
    """A readout: the `count` most likely tokens after a sequence of `num_tokens`, most likely first."""

    reads: Literal["hidden", "logits"] = "logits"

    def __init__(self, num_tokens: int, count: int) -> None:
        self.wanted = range(num_tokens - 1, num_tokens)
        self.found: list[RankedToken] = []
        self._count = count

    def take(self, rows: Rows) -> None:
        for row in rows:
            ranked = ranked_logprobs(row, 0, min(self._count, len(row)))
            self.found = sorted(ranked, key=lambda token: token.rank)[: self._count]
            self.wanted = self.wanted[1:]


@dataclass(frozen=True)
class Beam:
    """A sequence after the prompt: its tokens, each with the likely ones it was chosen from, and their cumulative
    log-probability. It continues the sequence that was at place `parent` a step before.
    """

    token_ids: tuple[int, ...] = ()
    logprob: float = 0.0
    parent: int = 0
    choices: tuple[tuple[RankedToken, Sequence[RankedToken]], ...] = ()

    def score(self, length_penalty: float) -> float:
        return float(self.logprob / len(self.token_ids) ** length_penalty)


def grow(
    live: Sequence[Beam], found: Sequence[Sequence[RankedToken]], width: int, end_token_ids: frozenset[int]
) -> tuple[list[Beam], list[Beam]]:
    """One step: the `width` best continuations that go on, and those that have ended among the `width` best.

    `found` has for each beam its most likely next tokens, `width` and as many more as there are end tokens.
    """
    pairs = [
        (beam.logprob + token.logprob, i, token)
        for i, (beam, tokens) in enumerate(zip(live, found, strict=True))
        for token in tokens
    ]
    pairs.sort(key=lambda pair: -pair[0])  # stable: of equals the better beam and the likelier token stay first

    def beam_of(logprob: float, parent: int, token: RankedToken) -> Beam:
        before = live[parent]
        return Beam((*before.token_ids, token.token_id), logprob, parent, (*before.choices, (token, found[parent])))

    ended = [beam_of(*pair) for pair in pairs[:width] if pair[2].token_id in end_token_ids]
    going_on = [pair for pair in pairs if pair[2].token_id not in end_token_ids]
    return [beam_of(*pair) for pair in going_on[:width]], ended


class BeamSearch(Contest):
    """`make_member(index, token_ids, readout)` makes the request that computes one sequence. Its leader is the one that
    computed all but the last token: the KV blocks are shared, and one token is left to compute.
    """

    def __init__(
        self,
        answers: Sequence[Request],
        end_token_ids: frozenset[int],
        tokenizer: Tokenizer,
        make_member: Callable[[int, list[int], BestTokens], Request],
    ) -> None:
        super().__init__(answers)
        first = answers[0]
        self._prompt = first.token_ids.copy()
        self._params = first.params
        self._most = first.max_num_tokens - first.num_prompt_tokens
        self._end_token_ids = end_token_ids
        self._tokenizer = tokenizer
        self._make_member = make_member
        self._num_members = 0
        self._finished: list[Beam] = []
        self._live = [Beam()]
        self.members = self._members()

    def _next_round(self) -> Sequence[Request]:
        for member in self.members:
            if member.error is not None:
                for answer in self.answers:
                    self.end(answer, "error", member.error)
                return ()
        width, penalty = self._params.beam_width, self._params.length_penalty
        times, first = self.answers[0].times, self.members[0]
        if not times.scheduled:
            times.scheduled, times.first_token = first.times.scheduled, first.times.finished
            self.answers[0].num_cached_tokens = first.num_cached_tokens
        found = [member.readout.found for member in self.members if isinstance(member.readout, BestTokens)]
        self._live, ended = grow(self._live, found, width, self._end_token_ids)
        by_score = sorted([*self._finished, *ended], key=lambda beam: -beam.score(penalty))
        self._finished = by_score[:width]
        if self._live and len(self._live[0].token_ids) < self._most:
            best = max(beam.score(penalty) for beam in self._live)
            if len(self._finished) < width or best > self._finished[-1].score(penalty):
                return self._members()
        elif self._live:
            self._finished = sorted([*self._finished, *self._live], key=lambda beam: -beam.score(penalty))
        self._decide()
        return ()

    def _members(self) -> list[Request]:
        count = max(self._params.beam_width + len(self._end_token_ids), self._params.logprobs or 0)
        members = []
        for beam in self._live:
            token_ids = [*self._prompt, *beam.token_ids]
            member = self._make_member(self._num_members, token_ids, BestTokens(len(token_ids), count))
            member.contest, member.keeps_blocks = self, True
            member.leader = self.members[beam.parent] if self.members else None
            members.append(member)
            self._num_members += 1
        return members

    def _decide(self) -> None:
        for i, answer in enumerate(self.answers):
            if i >= len(self._finished):
                self.end(answer, "error", f"beam search found {len(self._finished)} sequences and no more")
            elif answer.finish_reason is None:
                self._write(answer, self._finished[i])
        self.answers[0].num_lost_tokens = max(
            0, self._num_members - sum(answer.num_output_tokens for answer in self.answers)
        )

    def _write(self, answer: Request, beam: Beam) -> None:
        reason = None
        for token, others in beam.choices:
            answer.token_ids.append(token.token_id)
            if answer.params.logprobs is not None:
                likely = [other for other in others[: answer.params.logprobs] if other.token_id != token.token_id]
                answer.logprobs.append(position_logprobs([token, *likely], self._tokenizer))
            reason = add_text(answer, token.token_id, self._tokenizer)
        self.end(answer, reason or "length")
