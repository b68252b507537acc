"""Timed steps of a compiled program: prefill, one stream, many streams, long contexts; no tokenizer, no sampling.

Batches are made beforehand, so that nothing but the program counts, as in llama-bench. Token ids are random; they
decide nothing about the speed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pellucid.executors.base import BLOCK_SIZE, Batch, Program
from pellucid.executors.kv_cache import kv_windows
from pellucid.graph.ir import Graph

CHUNK = 512  # tokens of one step, the default of EngineConfig.max_num_batched_tokens


@dataclass(frozen=True)
class Steps:
    """Steps that were run one after the other: tokens and seconds of each."""

    num_tokens: list[int]
    seconds: list[float]

    @property
    def rate(self) -> float:
        """Tokens a second of all together."""
        return sum(self.num_tokens) / sum(self.seconds)

    def until(self, num_tokens: int) -> Steps:
        """The first ones, as many as hold `num_tokens`."""
        count = next(n for n in range(1, len(self.seconds) + 1) if sum(self.num_tokens[:n]) >= num_tokens)
        return Steps(self.num_tokens[:count], self.seconds[:count])


class StepTimer:
    """Times steps of one program. Later work overwrites the cache of earlier work: of several streams
    each has blocks for `stream_length` tokens, and a single one may take all there are.
    """

    def __init__(self, program: Program, vocab_size: int, stream_length: int) -> None:
        self._program = program
        self._vocab_size = vocab_size
        self._stride = -(-stream_length // BLOCK_SIZE)  # blocks of a stream
        self._rng = np.random.default_rng(0)

    def prefill(self, num_tokens: int, num_streams: int = 1) -> Steps:
        """Prompts of `num_tokens` for each stream, in steps of up to CHUNK tokens; logits for each prompt's last."""
        return self._run(self._prompts(num_tokens, num_streams))

    def chunk(self, context: int, num_tokens: int) -> Steps:
        """One step of the `num_tokens` of a prompt that come after `context` tokens."""
        return self._run([self._batch(range(1), context, num_tokens, wants_logits=False)])

    def decode(self, num_streams: int, context: int, num_tokens: int) -> Steps:
        """The next `num_tokens` of each stream, all streams together, one token each a step."""
        batches = [self._batch(range(num_streams), context + i, 1) for i in range(num_tokens)]
        return self._run(batches)

    def _prompts(self, num_tokens: int, num_streams: int) -> list[Batch]:
        together = max(1, CHUNK // num_tokens)  # short prompts share a step
        groups = [range(s, min(s + together, num_streams)) for s in range(0, num_streams, together)]
        return [
            self._batch(group, start, min(CHUNK, num_tokens - start), wants_logits=start + CHUNK >= num_tokens)
            for group in groups
            for start in range(0, num_tokens, CHUNK)
        ]

    def _batch(self, streams: range, start: int, count: int, *, wants_logits: bool = True) -> Batch:
        """The tokens at positions [start, start + count) of each stream."""
        length, num_groups = start + count, len(self._program.info.kv_groups)
        tables = (np.array(streams)[:, None] * self._stride + np.arange(-(-length // BLOCK_SIZE))).astype(np.int32)
        positions = np.arange(start, length)
        slots = tables[:, positions // BLOCK_SIZE].astype(np.int64) * BLOCK_SIZE + positions % BLOCK_SIZE
        ends = np.arange(1, len(streams) + 1, dtype=np.int32) * count
        return Batch(
            token_ids=self._rng.integers(0, self._vocab_size, len(streams) * count).astype(np.int32),
            positions=np.tile(positions, len(streams)).astype(np.int32),
            slot_mapping=np.stack([slots.ravel()] * num_groups),
            block_tables=np.stack([tables] * num_groups),
            query_start=np.concatenate([[0], ends]).astype(np.int32),
            seq_lens=np.full(len(streams), length, np.int32),
            logit_rows=ends - 1 if wants_logits else np.empty(0, np.int32),
        )

    def _run(self, batches: Sequence[Batch]) -> Steps:
        clock = [time.perf_counter()]
        for batch in batches:
            self._program.run(batch)
            clock.append(time.perf_counter())
        return Steps([len(batch.token_ids) for batch in batches], [b - a for a, b in pairwise(clock)])


@dataclass(frozen=True)
class Work:
    """What a step must do at least: weight bytes that it reads, operations for a token and for a row of logits, and
    bytes of keys and values that a token at position p reads: for (window, bytes) in `kv`, min(p, window) * bytes.

    Counts the linear operators; embedding rows and norms are small beside them.
    """

    weight_nbytes: int
    flops_per_token: int
    flops_per_logit_row: int
    kv: tuple[tuple[int, int], ...]  # a window of 0 is none

    def kv_nbytes(self, context: int) -> int:
        return sum(min(context, window or context) * nbytes for window, nbytes in self.kv)


def work_of(graph: Graph, kv_block_nbytes: list[int]) -> Work:
    """`kv_block_nbytes` is the executor's, of each KV group."""
    nbytes: dict[str, int] = {}
    flops = {"T": 0, "R": 0, "P": 0}
    for node in graph:
        for matrix in node.matrices() if node.op == "linear" else []:
            nbytes[matrix.name] = matrix.nbytes
            flops[node.output.rows] += 2 * matrix.shape[0] * matrix.shape[1]
    kv = zip(kv_windows(graph), (block // BLOCK_SIZE for block in kv_block_nbytes), strict=True)
    return Work(sum(nbytes.values()), flops["T"], flops["R"], tuple(kv))
