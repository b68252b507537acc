"""Contest: several sequences of which the best become the answers. `best_of` is here, beam search in beams.py."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from time import perf_counter

from pellucid.engine.request import FinishReason, Request

logger = logging.getLogger(__name__)


class Contest(ABC):
    """`answers` are the Requests that the caller has. They are never scheduled; when the contest is decided they get
    what they hold, all at once. The `members` are scheduled in their place, round after round.
    """

    def __init__(self, answers: Sequence[Request]) -> None:
        self.answers = answers
        self.members: Sequence[Request] = ()
        for answer in answers:
            answer.contest = self

    @property
    def is_over(self) -> bool:
        return all(answer.finish_reason is not None for answer in self.answers)

    def member_ended(self) -> Sequence[Request]:
        """To be called when a member has ended, well or not; the members of the next round, to be queued.

        If there are none and no member is left, the contest is over.
        """
        if any(member.finish_reason is None for member in self.members):
            return ()
        try:
            self.members = self._next_round()
        except Exception as error:  # one request cannot hurt another
            logger.exception("the contest of %s failed", self.answers[0].id)
            self.members = ()
            for answer in self.answers:
                self.end(answer, "error", f"internal error ({type(error).__name__}); the log has the details")
        return self.members

    def end(self, answer: Request, reason: FinishReason, error: str | None = None) -> None:
        """End an answer, unless it has ended before."""
        if answer.finish_reason is None:
            answer.times.finished = perf_counter()
            answer.error = error
            answer.finish_reason = reason

    @abstractmethod
    def _next_round(self) -> Sequence[Request]:
        """Every member has ended: the next ones, or none, with every answer ended."""


class BestOf(Contest):
    """The n answers of highest cumulative log-probability (the sum over their tokens) of `best_of`, best first.

    OpenAI's and vLLM's definition. Of equals the one of smaller index comes first, and those that failed come last.
    The members must have been asked for log-probabilities.
    """

    def __init__(self, answers: Sequence[Request], members: Sequence[Request]) -> None:
        super().__init__(answers)
        self.members = members
        for member in members:
            member.contest = self

    def _next_round(self) -> Sequence[Request]:
        ranked = sorted(self.members, key=lambda r: (r.error is not None, -cumulative_logprob(r), r.index))
        for answer, winner in zip(self.answers, ranked, strict=False):
            answer.token_ids, answer.text, answer.stop_reason = winner.token_ids, winner.text, winner.stop_reason
            if answer.params.logprobs is not None:
                answer.logprobs = winner.logprobs
            answer.times.scheduled, answer.times.first_token = winner.times.scheduled, winner.times.first_token
            answer.num_preemptions = winner.num_preemptions
            self.end(answer, winner.finish_reason or "error", winner.error)
        first, beginner = self.answers[0], self.members[0]
        first.prompt_logprobs, first.num_cached_tokens = beginner.prompt_logprobs, beginner.num_cached_tokens
        first.num_lost_tokens = sum(r.num_output_tokens for r in ranked[len(self.answers) :])
        return ()


class Contests:
    """The contests of an engine that are not over."""

    def __init__(self) -> None:
        self._contests: dict[Contest, None] = {}

    def add(self, contest: Contest) -> None:
        self._contests[contest] = None

    def leave(self, request: Request, contest: Contest) -> Sequence[Request]:
        """End an answer, or every answer with one of the members; the members that this leaves without a purpose."""
        for answer in [request] if request in contest.answers else contest.answers:
            contest.end(answer, "abort")
        if not contest.is_over:
            return ()
        self._contests.pop(contest, None)
        members, contest.members = contest.members, ()
        return members

    def settle(self, changed: Sequence[Request]) -> tuple[list[Request], list[Request]]:
        """`changed` after a step, with answers that are decided in place of members; and the members to be queued."""
        known = [request for request in changed if request.contest is None]
        upcoming: list[Request] = []
        for member in changed:
            contest = member.contest
            if contest is None or contest not in self._contests or member.finish_reason is None:
                continue
            upcoming += contest.member_ended()
            if contest.is_over:
                del self._contests[contest]
                known += contest.answers
        return known, upcoming

    def fail(self, error: str) -> None:
        """End all of them and their members, which may be anywhere between two rounds."""
        for contest in self._contests:
            for answer in contest.answers:
                contest.end(answer, "error", error)
            for member in contest.members:
                member.finish_reason = member.finish_reason or "abort"
        self._contests.clear()


def cumulative_logprob(request: Request) -> float:
    """Of its answer so far, as far as log-probabilities were asked for."""
    return sum(next(iter(position.values())).logprob for position in request.logprobs)
