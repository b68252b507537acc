"""How much KV cache an engine gets, and for how long a context."""

import logging
from typing import Any

import pytest

from pellucid.cache.manager import CacheManager
from pellucid.config import EngineConfig
from pellucid.engine.kv_budget import size_kv_cache
from pellucid.errors import ResourceError
from pellucid.executors.base import KVGroup

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def size(context: int, block_nbytes: int, available: int, **settings: Any) -> tuple[int, int]:
    max_model_len, [num_blocks] = size_kv_cache(
        EngineConfig(model="m", **settings), context, [(0, block_nbytes)], available
    )
    return max_model_len, num_blocks


@pytest.mark.parametrize(
    ("context", "block_nbytes", "available", "settings", "expected"),
    [
        (100, KIB, 64 * GIB, {"max_num_seqs": 3}, (100, 21)),  # what three sequences of 7 blocks can use
        (8192, MIB, 64 * GIB, {}, (8192, 4096)),  # the default limit of 4 GiB
        (8192, MIB, 8 * GIB, {}, (8192, 2048)),  # a quarter of what is free
        (8192, MIB, 400 * MIB, {}, (1600, 100)),  # less than the model's context, which nobody asked for
        (8192, MIB, 400 * MIB, {"max_model_len": 1600}, (1600, 100)),
        (8192, MIB, 400 * MIB, {"max_model_len": 3200}, (3200, 200)),  # asked for: more than a quarter
        (8192, MIB, 0, {"kv_cache_memory": "600MiB"}, (8192, 600)),  # said by the user: not second-guessed
        (8192, MIB, 0, {"kv_cache_memory": "10MiB"}, (160, 10)),
        (8192, MIB, 0, {"kv_cache_memory": "10MiB", "max_model_len": 8192}, (8192, 10)),  # both said: no long answers
    ],
)
def test_sizes(context: int, block_nbytes: int, available: int, settings: Any, expected: tuple[int, int]) -> None:
    assert size(context, block_nbytes, available, **settings) == expected


@pytest.mark.parametrize(
    ("available", "settings", "message"),
    [
        (400 * MIB, {"max_model_len": 8192}, r"8192 tokens takes 512\.0 MiB, but it may take 360\.0 MiB"),
        (64 * GIB, {"kv_cache_memory": 1000}, "kv_cache_memory"),
        (0, {}, "kv_cache_memory"),
    ],
)
def test_what_does_not_fit_is_refused_with_both_numbers(available: int, settings: Any, message: str) -> None:
    with pytest.raises(ResourceError, match=message):
        size(8192, MIB, available, **settings)


WINDOW_BLOCKS = 512 // 16 + 512 // 16 + 1  # of one sequence: the window, a step's tokens, and one begun at both ends


@pytest.mark.parametrize(
    ("budget", "max_num_seqs", "max_model_len", "num_blocks"),
    [
        (20_000, 2, 32768, [2 * 2048, 2 * 34 + 32]),  # more is of no use to two sequences
        (40_000, 64, 32768, [2293, 64 * 34 + 32]),  # no more windows than sequences: the rest is for whole contexts
        (20_000, 64, 32768, [2048, 923]),  # one sequence fits, and what is left is for windows
        (6_000, 64, 26800, [1675, WINDOW_BLOCKS]),  # the longest context that fits: without windows it were 5328
        (200, 64, 176, [11, 11]),
    ],
)
def test_what_windows_save_goes_to_the_layers_without(
    budget: int, max_num_seqs: int, max_model_len: int, num_blocks: list[int]
) -> None:
    """The shape of Gemma 3 270M: 3 layers without a window and 15 with one of 512 tokens, 1 MiB a block and layer."""
    config = EngineConfig(model="m", max_num_seqs=max_num_seqs, kv_cache_memory=budget * MIB)
    assert size_kv_cache(config, 32768, [(0, 3 * MIB), (512, 15 * MIB)], 0) == (max_model_len, num_blocks)
    assert 3 * num_blocks[0] + 15 * num_blocks[1] <= budget
    groups = [KVGroup(window, n) for window, n in zip((0, 512), num_blocks, strict=True)]
    assert (CacheManager(groups).capacity(config.max_num_batched_tokens) or 0) >= max_model_len


def test_with_windows_everywhere_the_context_needs_no_more_than_one() -> None:
    config = EngineConfig(model="m", kv_cache_memory=1000 * MIB)
    assert size_kv_cache(config, 32768, [(512, 15 * MIB)], 0) == (32768, [66])
    assert CacheManager([KVGroup(512, 66)]).capacity(config.max_num_batched_tokens) is None


def test_a_shorter_context_than_the_models_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        size(8192, MIB, 400 * MIB)
    assert "max_model_len is 1600, not the model's 8192" in caplog.text
