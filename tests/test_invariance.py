"""Batch invariance: what a request gets does not depend on its company, its chunks or the threads, bit for bit.

And the control: the same comparison finds a reduction whose order depends on the batch, small as the difference is.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
from support.invariance import Answer, Ask, answer, answers, compiled, differences, forty, quantised_graph, served

from pellucid.executors.base import Batch, BlockCopy, Program, StepResult
from pellucid.executors.cpu import KV_KINDS, CpuExecutor, available_isas
from pellucid.executors.reference import ReferenceExecutor
from pellucid.formats.checkpoint import open_checkpoint
from pellucid.graph.ir import Graph
from pellucid.graph.passes.fuse import fuse
from pellucid.graph.passes.tap import tap
from pellucid.models.registry import build_model

TOGETHER = [1, 2, 7, 40]
CHUNKS = [None, 1, 16, 33]
THREADS = [1, 2, 3]


@cache
def alone(isa: str, kv_cache_dtype: str = "auto", activations: str = "auto") -> list[Answer]:
    """The 40 requests one after the other, each prompt in one piece, on one thread."""
    executor = CpuExecutor(threads=1, isa=isa, kv_cache_dtype=kv_cache_dtype, activations=activations)
    program = compiled(executor, quantised_graph())
    found = answers(program, forty(), together=1)
    program.close()
    return found


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("isa", available_isas())
def test_quantised_model(isa: str, threads: int) -> None:
    program = compiled(CpuExecutor(threads=threads, isa=isa), quantised_graph())
    for together, chunk in product(TOGETHER, CHUNKS):
        changed = differences(alone(isa), answers(program, forty(), together=together, chunk=chunk))
        assert changed == [], f"answers changed with {together} together, chunks of {chunk}, {threads} threads on {isa}"
    program.close()


@pytest.mark.parametrize("kv_cache_dtype", KV_KINDS)
@pytest.mark.parametrize("isa", available_isas())
def test_types_of_kv_cache(isa: str, kv_cache_dtype: str) -> None:
    program = compiled(CpuExecutor(threads=2, isa=isa, kv_cache_dtype=kv_cache_dtype), quantised_graph())
    for together, chunk in [(7, 33), (40, 16)]:
        found = answers(program, forty(), together=together, chunk=chunk)
        assert differences(alone(isa, kv_cache_dtype), found) == []
    program.close()


@pytest.mark.parametrize("activations", ["int8", "bfloat16"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("isa", available_isas())
def test_other_activations(isa: str, threads: int, activations: str) -> None:
    expected = alone(isa, activations=activations)
    program = compiled(CpuExecutor(threads=threads, isa=isa, activations=activations), quantised_graph())
    for together, chunk in [(1, 1), (7, 33), (40, None)]:
        assert differences(expected, answers(program, forty(), together=together, chunk=chunk)) == []
    program.close()
    assert len(differences(expected, alone(isa))) > 30, "the profile asked for is the one used"


def test_types_of_kv_cache_are_different() -> None:
    """Or the one asked for would not be the one used."""
    every = [alone(available_isas()[-1], kind) for kind in KV_KINDS]
    for a, b in combinations(every, 2):
        assert len(differences(a, b)) > 30


@pytest.mark.parametrize("isa", available_isas())
def test_preempted_requests_get_the_same_answers(isa: str) -> None:
    """Too few KV blocks for all: requests lose theirs on the way and are computed again, in other company."""
    asks = forty(max_tokens=24)
    plenty = compiled(CpuExecutor(threads=1, isa=isa), quantised_graph())
    expected = served(plenty, asks, together=40)
    plenty.close()
    scarce = compiled(CpuExecutor(threads=2, isa=isa), quantised_graph(), sequences=2)
    found = served(scarce, asks, together=40)
    scarce.close()
    assert sum(r.num_preemptions for r in expected) == 0
    assert sum(r.num_preemptions for r in found) > 5
    assert differences([answer(r) for r in expected], [answer(r) for r in found]) == []


def test_the_answers_are_those_of_the_model() -> None:
    """Equal garbage would be invariant too: nearly all tokens must be the reference's (rounding may turn a few)."""
    # Float16 keys and values would turn many roundings of activations, each by much more than they differ.
    ways = [("auto", "auto", 36), ("int8", "float32", 34), ("bfloat16", "float32", 34)]
    for activations, kv_cache_dtype, least in ways:
        reference = compiled(ReferenceExecutor(activations=activations), quantised_graph())
        expected = answers(reference, forty(), together=40)
        for isa in available_isas():
            found = alone(isa, kv_cache_dtype, activations)
            same = sum(a[0] == b[0] for a, b in zip(expected, found, strict=True))
            assert same >= least, (isa, activations)
            assert len({tuple(a[0]) for a in found}) == 40


def real_graph(path: Path) -> tuple[Graph, int]:
    with open_checkpoint(path) as checkpoint:
        config, graph = build_model(checkpoint)
        return fuse(graph), config.vocab_size


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("isa", available_isas())
def test_story(story_path: Path, isa: str, threads: int) -> None:
    graph, vocab_size = real_graph(story_path)
    asks = forty(vocab_size)
    program = compiled(CpuExecutor(threads=threads, isa=isa), graph)
    expected = answers(program, asks, together=1, vocab_size=vocab_size)
    for together, chunk in [(7, 33), (40, None)]:
        assert (
            differences(expected, answers(program, asks, together=together, chunk=chunk, vocab_size=vocab_size)) == []
        )
    program.close()


def test_smollm2(smollm2_path: Path) -> None:
    graph, vocab_size = real_graph(smollm2_path)
    asks = [Ask(a.prompt, a.params) for a in forty(vocab_size, max_tokens=5)[2:8]]
    runs = []
    for threads, together, chunk in [(1, 1, None), (2, 6, None), (2, 3, 9)]:
        program = compiled(CpuExecutor(threads=threads), graph, sequences=6)
        runs.append(answers(program, asks, together=together, chunk=chunk, vocab_size=vocab_size))
        program.close()
    assert differences(runs[0], runs[1]) == []
    assert differences(runs[0], runs[2]) == []


class OrderDependent:
    """The control: a program whose head sums its products in as many parts as the step has sequences (at most 4).

    Each row is multiplied on its own, so nothing but the order of the float32 additions changes with the batch.
    """

    def __init__(self, graph: Graph) -> None:
        head = graph.nodes[-1]
        assert head.op == "linear"
        self._source = head.inputs[0].name
        self._weight = head.weights["weight"].dequantize()  # [V, E]
        self._norm = head.weights["norm"].dequantize()
        self._eps = float(head.attrs["eps"])
        self._program = compiled(CpuExecutor(threads=1), tap(graph, [self._source]))
        self.info = self._program.info

    def copy_blocks(self, copies: Sequence[BlockCopy]) -> None:
        self._program.copy_blocks(copies)

    def run(self, batch: Batch) -> StepResult:
        parts = min(4, len(batch.seq_lens))
        x = self._program.run(batch).taps[self._source]  # [R, E]
        x = (x / np.sqrt(np.mean(x * x, axis=1, keepdims=True) + np.float32(self._eps))) * self._norm
        logits = np.zeros((len(x), len(self._weight)), np.float32)
        for row, out in zip(x, logits, strict=True):
            for columns in np.array_split(np.arange(len(row)), parts):
                out += (self._weight[:, columns] * row[columns]).sum(axis=1)
        return StepResult(logits)

    def close(self) -> None:
        self._program.close()


def test_control_an_order_dependent_reduction_is_caught() -> None:
    program: Program = OrderDependent(quantised_graph())
    asks = forty()
    expected = answers(program, asks, together=1)
    assert differences(expected, answers(program, asks, together=1, chunk=16)) == [], "the order is the same here"
    found = answers(program, asks, together=7)
    changed = differences(expected, found)
    assert len(changed) == 40, "an answer with six tokens and their log-probabilities cannot come out the same"
    same_tokens = [i for i in changed if expected[i][0] == found[i][0]]
    assert len(same_tokens) > 20, "the control must be subtle: most answers keep their tokens"
    largest = max(
        abs(entry[token].logprob - other[token].logprob)
        for i in same_tokens
        for entry, other in zip(expected[i][1], found[i][1], strict=True)
        for token in entry.keys() & other.keys()
    )
    assert 0 < largest < 1e-4
    program.close()


def test_one_wrong_bit_is_a_difference() -> None:
    expected = alone(available_isas()[-1])
    found = [(list(tokens), logprobs, prompt) for tokens, logprobs, prompt in expected]
    assert differences(expected, found) == []
    token, entry = next(iter(expected[5][1][3].items()))
    nudged = {**expected[5][1][3], token: type(entry)(np.nextafter(entry.logprob, 0), entry.rank, entry.decoded_token)}
    found[5] = (found[5][0], [*expected[5][1][:3], nudged, *expected[5][1][4:]], found[5][2])
    found[9][0][-1] ^= 1
    assert differences(expected, found) == [5, 9]


def test_the_forty_cover_greedy_and_seeded_sampling() -> None:
    kinds = [ask.params for ask in forty()]
    assert len(kinds) == 40
    assert {p.temperature == 0 for p in kinds} == {True, False}
    assert all(p.seed is not None for p in kinds)
