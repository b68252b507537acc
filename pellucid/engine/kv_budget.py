"""How many KV blocks each group of layers gets out of the memory there is, and how long a context they hold.

A sequence of n blocks takes n of a group without a window, and of a group with one no more than the window and a step
cover. What that saves goes to all groups alike: they get as many blocks as sequences of any length could fill, so that
no group is full before the others. Where memory is too short for one sequence of the whole context, windows get no
more than that one sequence needs, and the context is as long as the others can hold.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable, Sequence

from pellucid.config import EngineConfig
from pellucid.errors import ResourceError
from pellucid.executors.base import BLOCK_SIZE

logger = logging.getLogger(__name__)

DEFAULT_KV_CACHE_MEMORY = 4 << 30

Groups = Sequence[tuple[int, int]]
"""Of each KV group its window (0: none) and the bytes of a block."""


def size_kv_cache(config: EngineConfig, context_length: int, groups: Groups, available: int) -> tuple[int, list[int]]:
    """(max_model_len, blocks of each group) for a model of `context_length` with `available` bytes of free memory.

    A max_model_len that was asked for stays; the cache may be smaller if `kv_cache_memory` says so. Raises
    ResourceError when it does not fit the memory, or a single block does not.
    """
    wanted = config.max_model_len or context_length
    whole = _blocks(wanted)
    needed = _nbytes(groups, [_least(config, window, whole) for window, _ in groups])
    if isinstance(config.kv_cache_memory, int):
        budget = config.kv_cache_memory
    else:
        budget = min(DEFAULT_KV_CACHE_MEMORY, available // 4)
        if config.max_model_len is not None:  # asked for: worth more than the default's caution
            budget = max(budget, min(needed, available * 9 // 10))
    longest = _most(whole, budget, lambda n: _nbytes(groups, [_least(config, window, n) for window, _ in groups]))
    both_given = config.max_model_len is not None and config.kv_cache_memory is not None
    if longest < (whole if config.max_model_len is not None and not both_given else 1):
        raise ResourceError(
            f"the KV cache of one sequence of {wanted} tokens takes {_mib(needed)}, "
            f"but it may take {_mib(budget)}; lower max_model_len or raise kv_cache_memory"
        )
    if longest < whole and not both_given:
        wanted = longest * BLOCK_SIZE
        logger.warning(
            "max_model_len is %d, not the model's %d: the KV cache may take %s", wanted, context_length, _mib(budget)
        )
    return wanted, _share_out(config, groups, longest, budget, whole * config.max_num_seqs)


def _share_out(config: EngineConfig, groups: Groups, longest: int, budget: int, most: int) -> list[int]:
    """Blocks of each group: `longest` or more, at most `most`, of those without a window."""
    ample = _most(most, budget, lambda n: _nbytes(groups, [_ample(config, window, n) for window, _ in groups]))
    if ample >= longest:
        return [_ample(config, window, ample) for window, _ in groups]
    least = [_least(config, window, longest) for window, _ in groups]
    more = (budget - _nbytes(groups, least)) // sum(nbytes for window, nbytes in groups if window)
    return [
        min(_ample(config, window, longest), blocks + more) for blocks, (window, _) in zip(least, groups, strict=True)
    ]


def _ample(config: EngineConfig, window: int, num_blocks: int) -> int:
    """Of a group with this window, blocks that cannot run out before the `num_blocks` of one without.

    Enough for the windows of `max_num_seqs` sequences, each with a block begun at both ends, and for a step's tokens.
    """
    if not window:
        return num_blocks
    windows = config.max_num_seqs * (_blocks(window) + 2)
    return min(num_blocks, windows + _blocks(config.max_num_batched_tokens))


def _least(config: EngineConfig, window: int, num_blocks: int) -> int:
    """Of a group with this window, blocks for one sequence of `num_blocks`."""
    if not window:
        return num_blocks
    chunk = min(config.prefill_chunk or config.max_num_batched_tokens, config.max_num_batched_tokens)
    return min(num_blocks, _blocks(window + chunk) + 1)


def _most(most: int, budget: int, nbytes: Callable[[int], int]) -> int:
    """The largest n up to `most` with nbytes(n) <= budget, or 0."""
    return max(0, bisect_right(range(most + 1), budget, key=nbytes) - 1)


def _nbytes(groups: Groups, num_blocks: Sequence[int]) -> int:
    return sum(n * nbytes for n, (_, nbytes) in zip(num_blocks, groups, strict=True))


def _blocks(num_tokens: int) -> int:
    return -(-num_tokens // BLOCK_SIZE)


def _mib(nbytes: int) -> str:
    return f"{nbytes / 2**20:,.1f} MiB"
