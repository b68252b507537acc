"""Sharing KV blocks on the CPU program changes no bit: prefix hits, forks, drafts, windows and preemption.

Cold is one request at a time in an engine that keeps nothing; everything else is compared with that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import count
from typing import Any

import numpy as np
import pytest
from support.fake_model import ByteTokenizer
from support.invariance import MAX_MODEL_LEN, VOCAB_SIZE, Answer, answer, quantised_graph

from pellucid.config import EngineConfig
from pellucid.engine.drafter import Drafter
from pellucid.engine.engine import Engine
from pellucid.engine.request import Request
from pellucid.executors.base import BLOCK_SIZE, Program
from pellucid.executors.cpu import KV_KINDS, CpuExecutor, available_isas
from pellucid.sampling import SamplingParams

WINDOW = 20  # of the graph's second layer

RANDOM = np.random.default_rng(11)
BASE = RANDOM.integers(0, VOCAB_SIZE, 200).tolist()
OTHER = RANDOM.integers(0, VOCAB_SIZE, 200).tolist()


@cache
def graph() -> Any:
    return quantised_graph()


# Every instruction set with the usual cache, and every other type of cache with the best one.
KINDS = [(isa, "float16") for isa in available_isas()]
KINDS += [(available_isas()[-1], kind) for kind in KV_KINDS if kind != "float16"]


def executor_of(isa: str, kv_cache_dtype: str, threads: int = 2) -> CpuExecutor:
    return CpuExecutor(threads=threads, isa=isa, kv_cache_dtype=kv_cache_dtype)


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def program(request: pytest.FixtureRequest) -> Iterator[Program]:
    program = executor_of(*request.param).compile(graph(), 60)
    yield program
    program.close()


def like(program: Program, num_blocks: list[int]) -> Program:
    """The same kind with another cache."""
    return executor_of(program.info.isa, program.info.kv_cache_dtype).compile(graph(), num_blocks)


@cache
def _cold_program(isa: str, kv_cache_dtype: str) -> Program:
    return executor_of(isa, kv_cache_dtype, threads=1).compile(graph(), 60)


def engine_on(program: Program, drafter: Drafter | None = None, **settings: Any) -> Engine:
    config = EngineConfig(model="test", **settings)
    tokenizer: Any = ByteTokenizer()
    return Engine(program, tokenizer, config, vocab_size=VOCAB_SIZE, max_model_len=MAX_MODEL_LEN, drafter=drafter)


def finish(engine: Engine) -> None:
    while engine.has_unfinished:
        engine.step()
        engine.cache.check()
    engine.cache.check(idle=True)


def params(seed: int = 0, **more: Any) -> SamplingParams:
    return SamplingParams(**{"seed": seed, "max_tokens": 6, "ignore_eos": True, "logprobs": 3, **more})


def cold(program: Program, prompt: Sequence[int], asked: SamplingParams) -> list[Answer]:
    engine = engine_on(
        _cold_program(program.info.isa, program.info.kv_cache_dtype), max_num_seqs=1, enable_prefix_caching=False
    )
    requests = engine.add_request(prompt, asked)
    finish(engine)
    assert [r.num_cached_tokens for r in requests[:1]] == [0]
    return [answer(r) for r in requests]


PREFIXES = [  # (prompt, tokens of it that the cache has by then)
    (BASE[:100], 0),
    (BASE[:100], 96),  # all full blocks
    (BASE[:96], 80),  # a whole prompt: its last token is computed again, and with it its block
    (BASE[:97], 96),
    (BASE[:150], 96),
    (BASE[:60] + OTHER[:40], 48),  # parts within a block
    (BASE[:10] + OTHER[:90], 0),
    (BASE[:150], 144),
    (OTHER[:15], 0),
    (BASE[:1], 0),
]


@pytest.mark.parametrize("chunk", [None, 7])
def test_warm_equals_cold(program: Program, chunk: int | None) -> None:
    engine = engine_on(program, prefill_chunk=chunk)
    for seed, (prompt, num_cached) in enumerate(PREFIXES):
        asked = params(seed, temperature=seed % 2)
        [request] = engine.add_request(prompt, asked)
        finish(engine)
        assert request.num_cached_tokens == num_cached, f"prompt {seed}"
        assert [answer(request)] == cold(program, prompt, asked), f"prompt {seed}"


def test_log_probabilities_of_a_cached_prompt_are_computed_all_the_same(program: Program) -> None:
    engine = engine_on(program)
    engine.add_request(BASE[:100], params())
    finish(engine)
    asked = params(prompt_logprobs=2)
    [request] = engine.add_request(BASE[:100], asked)
    finish(engine)
    assert len(request.prompt_logprobs) == 100
    assert [answer(request)] == cold(program, BASE[:100], asked)


def test_a_prompt_shares_what_another_is_still_being_answered_with(program: Program) -> None:
    engine = engine_on(program)
    requests = engine.add_request(BASE[:70], params(1, max_tokens=30))
    engine.step()
    requests += engine.add_request(BASE[:70], params(2, max_tokens=30))
    requests += engine.add_request(BASE[:64] + OTHER[:5], params(3, max_tokens=30), cache_salt="mine")
    finish(engine)
    assert [r.num_cached_tokens for r in requests] == [0, 64, 0]
    for r in requests:
        assert [answer(r)] == cold(program, r.token_ids[: r.num_prompt_tokens], r.params)


@pytest.mark.parametrize("length", [1, 16, 37, 64])
def test_answers_to_one_prompt(program: Program, length: int) -> None:
    """They share a block that is filled in part, and each copies it before it writes to it."""
    asked = params(5, n=4, temperature=1.0, max_tokens=20)
    engine = engine_on(program)
    requests = engine.add_request(BASE[:length], asked)
    finish(engine)
    assert [r.num_cached_tokens for r in requests] == [0] + [length - 1] * 3
    assert len({tuple(r.token_ids) for r in requests}) == 4
    assert [answer(r) for r in requests] == cold(program, BASE[:length], asked)


class Foreseeing:
    """Proposes what a request is known to answer, made wrong from the `right`-th token on."""

    def __init__(self, answers: dict[int, list[int]], right: int) -> None:
        self._answers, self._right = answers, right

    def propose(self, request: Request) -> list[int]:
        true = self._answers[request.sampler.seed][request.num_tokens :][:5]
        return [t if i < self._right else (t + 1) % VOCAB_SIZE for i, t in enumerate(true)]


@pytest.mark.parametrize("right", [0, 2, 5])
def test_drafts(program: Program, right: int) -> None:
    lengths = [3, 15, 16, 61, 100]
    asked = [params(seed, temperature=seed % 2, max_tokens=25, repetition_penalty=1.1) for seed in range(len(lengths))]
    expected = [cold(program, BASE[:length], p) for length, p in zip(lengths, asked, strict=True)]
    drafter = Foreseeing({seed: found[0][0] for seed, found in enumerate(expected)}, right)
    engine = engine_on(program, drafter)
    requests = [engine.add_request(BASE[:length], p)[0] for length, p in zip(lengths, asked, strict=True)]
    finish(engine)
    assert [[answer(r)] for r in requests] == expected
    stats = engine.stats()
    assert stats.generation_tokens_total == 25 * len(lengths)
    if right == 0:
        assert stats.accepted_tokens_total == 0
    if right == 5:
        assert stats.accepted_tokens_total == stats.drafted_tokens_total > 0
        assert stats.steps_total < 10


def test_blocks_behind_a_window_serve_others(program: Program) -> None:
    """A pool for windows that could not hold one whole sequence is enough for four."""
    small = like(program, [60, 13])
    engine = engine_on(small, prefill_chunk=16)
    requests = [engine.add_request(BASE[i : i + 100], params(i, max_tokens=100))[0] for i in range(4)]
    most_used, num_together = 0, 0
    while engine.has_unfinished:
        engine.step()
        engine.cache.check()
        most_used = max(most_used, engine.cache.stats().groups[1].num_used)
        num_together = max(num_together, len(engine.scheduler.running))
    assert num_together == 4
    assert most_used <= 13
    assert engine.cache.stats().groups[1].window == WINDOW
    assert [r.num_preemptions for r in requests] == [0] * 4
    for r in requests:
        assert [answer(r)] == cold(program, r.token_ids[:100], r.params)
    small.close()


def test_everything_together_in_a_small_cache(program: Program) -> None:
    """Shared prefixes, forks, drafts, windows and preemption at once, cached blocks being forgotten all the time."""
    small = like(program, [MAX_MODEL_LEN // BLOCK_SIZE + 6, 16])
    random = np.random.default_rng(5)
    asks = []
    for seed in range(24):
        prompt = (BASE if seed % 3 else OTHER)[: random.integers(1, 120)] + OTHER[: random.integers(1, 9)]
        asks.append(
            (prompt, params(seed, n=1 + seed % 3, temperature=seed % 2, max_tokens=int(random.integers(1, 60))))
        )
    expected = [cold(program, prompt, asked) for prompt, asked in asks]
    numbers = count()

    class Guessing:
        def propose(self, request: Request) -> list[int]:
            true = expected[request.sampler.seed][request.index][0][request.num_tokens :]
            return [*true[: next(numbers) % 5], 7, 8]

    engine = engine_on(small, Guessing(), max_num_seqs=6, max_num_batched_tokens=64, prefill_chunk=33)
    found = [engine.add_request(prompt, asked) for prompt, asked in asks]
    finish(engine)
    assert [[answer(r) for r in requests] for requests in found] == expected
    stats = engine.stats()
    assert stats.preemptions_total > 0
    assert 0 < stats.accepted_tokens_total < stats.drafted_tokens_total
    assert stats.prefix_cache_hits_total > 0
    small.close()
