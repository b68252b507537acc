"""StepPlan: what the scheduler decides, and all that it hands on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pellucid.engine.request import Request
from pellucid.executors.base import BlockCopy


@dataclass(frozen=True)
class ScheduledRequest:
    """Compute tokens [start, start + count) of `request` and its drafts. Its block tables, one a group, cover them.

    The tables are the cache's own: valid until the next call of the scheduler.
    """

    request: Request
    start: int
    count: int
    block_tables: Sequence[Sequence[int]]


@dataclass(frozen=True)
class StepPlan:
    """One step's work. `copies` come before anything is computed. `preempted` lost their blocks for it."""

    scheduled: tuple[ScheduledRequest, ...]
    preempted: tuple[Request, ...] = ()
    copies: tuple[BlockCopy, ...] = ()

    @property
    def num_tokens(self) -> int:
        return sum(s.count for s in self.scheduled)


@dataclass
class StepInMaking:
    """A plan in the making, and what is left to give away."""

    budget: int  # tokens
    logit_rows: int
    scheduled: dict[Request, ScheduledRequest] = field(default_factory=dict)
    preempted: list[Request] = field(default_factory=list)
    out_of_blocks: bool = False
