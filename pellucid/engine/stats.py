"""EngineStats: how an engine is getting on, for metrics. Cheap enough to be taken after each step."""

from __future__ import annotations

from dataclasses import dataclass

from pellucid.cache.manager import CacheStats
from pellucid.engine.scheduler import Scheduler


@dataclass(frozen=True)
class EngineStats:
    """Requests and blocks (over all KV groups) are of now; what ends in _total counts from the start.

    Each of n answers is a request. `blocks_used` belong to running ones, `blocks_cached` to nobody: they are kept for
    prompts that begin alike. `kv_cache_usage` is the used share of the fullest group, 0 to 1. Prompt tokens are those
    of accepted requests (once for n answers), prefix cache queries and hits are tokens of admitted ones. Generation
    tokens are all that were computed: those that lose a contest (best_of, beams), too.
    """

    num_running: int
    num_waiting: int
    blocks_free: int
    blocks_used: int
    blocks_cached: int
    kv_cache_usage: float
    steps_total: int
    prompt_tokens_total: int
    generation_tokens_total: int
    preemptions_total: int
    prefix_cache_queries_total: int
    prefix_cache_hits_total: int
    drafted_tokens_total: int
    accepted_tokens_total: int
    """Drafted tokens that were right."""


@dataclass
class Counts:
    """The totals that the engine counts itself."""

    steps: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    preemptions: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0

    def stats(self, scheduler: Scheduler, cache: CacheStats) -> EngineStats:
        return EngineStats(
            num_running=len(scheduler.running),
            num_waiting=scheduler.num_waiting,
            blocks_free=cache.num_blocks_free,
            blocks_used=cache.num_blocks_used,
            blocks_cached=cache.num_blocks_cached,
            kv_cache_usage=cache.usage,
            prefix_cache_queries_total=cache.num_queried_tokens,
            prefix_cache_hits_total=cache.num_hit_tokens,
            **{f"{name}_total": value for name, value in vars(self).items()},
        )
