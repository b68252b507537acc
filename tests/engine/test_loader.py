"""How much KV cache an engine gets, and for how long a context."""

import logging
from typing import Any

import pytest

from pellucid.config import EngineConfig
from pellucid.engine.loader import available_memory, size_kv_cache
from pellucid.errors import ResourceError

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def size(context: int, block_nbytes: int, available: int, **settings: Any) -> tuple[int, int]:
    return size_kv_cache(EngineConfig(model="m", **settings), context, block_nbytes, available)


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
    ],
)
def test_sizes(context: int, block_nbytes: int, available: int, settings: Any, expected: tuple[int, int]) -> None:
    assert size(context, block_nbytes, available, **settings) == expected


@pytest.mark.parametrize(
    ("available", "settings", "message"),
    [
        (400 * MIB, {"max_model_len": 8192}, r"8192 tokens takes 512\.0 MiB, but it may take 360\.0 MiB"),
        (64 * GIB, {"max_model_len": 8192, "kv_cache_memory": "511MiB"}, r"512\.0 MiB.*511\.0 MiB"),
        (64 * GIB, {"kv_cache_memory": 1000}, "kv_cache_memory"),
        (0, {}, "kv_cache_memory"),
    ],
)
def test_what_does_not_fit_is_refused_with_both_numbers(available: int, settings: Any, message: str) -> None:
    with pytest.raises(ResourceError, match=message):
        size(8192, MIB, available, **settings)


def test_a_shorter_context_than_the_models_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        size(8192, MIB, 400 * MIB)
    assert "max_model_len is 1600, not the model's 8192" in caplog.text


def test_available_memory_is_plausible() -> None:
    assert 16 * MIB < available_memory() < 2**50
