"""Request: one sequence on its way from prompt to answer, as the scheduler and the engine see it."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pellucid.cache.prefix import BlockHashes
from pellucid.engine.answer import AnswerText
from pellucid.engine.outputs import PositionLogprobs
from pellucid.engine.readout import Readout
from pellucid.engine.sampler import RowSampler
from pellucid.sampling import SamplingParams
from pellucid.structured.compiler import NewMatcher

if TYPE_CHECKING:
    from pellucid.engine.contest import Contest

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass
class Times:
    """Seconds on the performance counter; 0 where it has not happened yet."""

    arrived: float = 0.0
    scheduled: float = 0.0
    first_token: float = 0.0
    finished: float = 0.0


@dataclass(eq=False)
class Request:
    """Answer `index` to a prompt; a call with n = 3 makes three of these under one `id`.

    `token_ids` is prompt and answer. `num_computed_tokens` of them have their keys and values in the cache; whatever
    the difference comes from (a new prompt, a chunk of it, the token just sampled, a preemption), a step only ever
    makes it smaller. Tokens never change once they are here.

    A smaller `priority` is served earlier; tenants get equal shares. `block_hashes` name its blocks in the prefix
    cache. `leader` is the first answer to the same prompt, whose prompt the others use. `draft_token_ids` are guesses
    of what follows `token_ids`, verified by the next step that has room for them. `grammar` makes the constraint that
    its tokens must follow; None when there is none, or as soon as the sampler has it. One with a `readout` generates
    nothing: it ends when that has all the rows it wants, and its sampler and text are never used. One that belongs to a
    `contest` is either one of its answers or one of its members, whose tokens may be lost: `num_lost_tokens`, counted
    with the first answer.
    """

    id: str
    index: int
    token_ids: list[int]
    num_prompt_tokens: int
    params: SamplingParams
    max_num_tokens: int  # of prompt and answer: where the answer ends with "length"
    sampler: RowSampler
    text: AnswerText
    priority: int = 0
    tenant: str = ""
    block_hashes: BlockHashes = field(default_factory=BlockHashes)
    leader: Request | None = None
    grammar: Future[NewMatcher] | None = None
    readout: Readout | None = None
    draft_token_ids: list[int] = field(default_factory=list)
    num_computed_tokens: int = 0
    num_preemptions: int = 0
    num_overtakings: int = 0  # later requests that were admitted while this one did not fit
    num_cached_tokens: int = 0
    logprobs: list[PositionLogprobs] = field(default_factory=list)
    prompt_logprobs: list[PositionLogprobs | None] = field(default_factory=lambda: [None])
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    error: str | None = None
    error_param: str | None = None  # the field at fault, where the request itself is
    times: Times = field(default_factory=Times)
    contest: Contest | None = None
    keeps_blocks: bool = False  # when it has ended well, until those it leads have begun
    num_lost_tokens: int = 0

    @property
    def key(self) -> tuple[str, int]:
        """What its blocks are held under."""
        return self.id, self.index

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_missing_tokens(self) -> int:
        """Tokens whose keys and values are still to be computed."""
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def has_prompt(self) -> bool:
        """Whether all of its prompt is computed."""
        return self.num_computed_tokens >= self.num_prompt_tokens

    @property
    def is_ready(self) -> bool:
        """False until the sampler has the constraint that is being compiled."""
        return self.grammar is None

    @property
    def wants_prompt_logits(self) -> bool:
        if self.readout is not None:
            return self.readout.reads == "logits"
        return self.params.prompt_logprobs is not None and len(self.prompt_logprobs) < self.num_prompt_tokens

    @property
    def first_logit_position(self) -> int:
        """Logits are wanted of the tokens from this position on; those of position p are about the token at p + 1.

        What a readout wants of them may also be hidden states.
        """
        if self.readout is not None:
            return self.readout.wanted.start
        return len(self.prompt_logprobs) - 1 if self.wants_prompt_logits else self.num_tokens - 1
