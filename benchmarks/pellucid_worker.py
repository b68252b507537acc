"""Measure Pellucid in a fresh process: `python pellucid_worker.py MODEL …` prints rates in tokens a second as JSON.

Prefill and decode are timed as steps of a compiled program on batches made beforehand, so that neither tokenising nor
sampling counts, as in llama-bench. Token ids are random; they decide nothing about the speed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from workloads import (
    DECODE_TOKENS,
    PREFILL_TOKENS,
    STREAM_COUNTS,
    STREAM_DECODE_TOKENS,
    STREAM_PROMPT_TOKENS,
)

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.steps import TokenSequence, make_batch, new_sequences  # noqa: E402

from pellucid import LLM, SamplingParams  # noqa: E402
from pellucid.executors import get_executor  # noqa: E402
from pellucid.executors.base import BLOCK_SIZE, Batch, Program  # noqa: E402
from pellucid.formats.checkpoint import open_checkpoint  # noqa: E402
from pellucid.graph.ir import Graph  # noqa: E402
from pellucid.graph.passes.fuse import fuse  # noqa: E402
from pellucid.models.registry import build_model  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--isa")
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    with open_checkpoint(args.model) as checkpoint:
        config, graph = build_model(checkpoint)
        graph = fuse(graph)
        program = get_executor("cpu", threads=args.threads, isa=args.isa).compile(graph, _num_blocks())
    measuring = Measuring(program, config.vocab_size)
    measuring.prefill()  # warms caches, page tables and threads
    rates: dict[str, list[float]] = {"prefill": [], "decode_1": []}
    for _ in range(args.repeats):
        rates["prefill"].append(measuring.prefill())
        rates["decode_1"].append(measuring.decode_one())
    for count in STREAM_COUNTS:
        rates[f"decode_{count}"] = [measuring.decode_many(count) for _ in range(args.repeats)]
    info = program.info
    program.close()
    with LLM(str(args.model), threads=args.threads, isa=args.isa, max_model_len=2 * DECODE_TOKENS) as llm:
        rates["end_to_end"] = [through_llm(llm) for _ in range(args.repeats)]
    work = {"isa": info.isa, "threads": info.threads, "kv_cache_dtype": info.kv_cache_dtype, **work_of(graph)}
    print(json.dumps({"rates": rates, "program": work}))


class Measuring:
    """The workloads on one program."""

    def __init__(self, program: Program, vocab_size: int) -> None:
        self._program = program
        self._vocab_size = vocab_size
        self._rng = np.random.default_rng(0)

    def prefill(self) -> float:
        [sequence] = self._sequences(1, PREFILL_TOKENS)
        return self._rate([self._batch([(sequence, PREFILL_TOKENS)], [PREFILL_TOKENS - 1])])

    def decode_one(self) -> float:
        return self._rate(list(self._one_token_steps(self._sequences(1, DECODE_TOKENS))))

    def decode_many(self, count: int) -> float:
        """All streams together, after a prompt for each that is not timed."""
        sequences = self._sequences(count, STREAM_PROMPT_TOKENS + STREAM_DECODE_TOKENS)
        for sequence in sequences:
            self._program.run(self._batch([(sequence, STREAM_PROMPT_TOKENS)], [STREAM_PROMPT_TOKENS - 1]))
            sequence.num_computed = STREAM_PROMPT_TOKENS
        return self._rate(list(self._one_token_steps(sequences)))

    def _sequences(self, count: int, length: int) -> list[TokenSequence]:
        ids = self._rng.integers(0, self._vocab_size, (count, length))
        return new_sequences(self._program.info.kv_groups[0].num_blocks, ids.tolist())

    def _batch(self, work: list[tuple[TokenSequence, int]], logit_rows: list[int] | None = None) -> Batch:
        return make_batch(work, logit_rows, num_groups=len(self._program.info.kv_groups))

    def _one_token_steps(self, sequences: list[TokenSequence]) -> Iterator[Batch]:
        """Steps of one token of each sequence, until all are computed."""
        while sequences[0].num_computed < len(sequences[0].token_ids):
            yield self._batch([(sequence, 1) for sequence in sequences])
            for sequence in sequences:
                sequence.num_computed += 1

    def _rate(self, batches: list[Batch]) -> float:
        start = time.perf_counter()
        for batch in batches:
            self._program.run(batch)
        return sum(len(batch.token_ids) for batch in batches) / (time.perf_counter() - start)


def through_llm(llm: LLM) -> float:
    """Tokens a second after the first, text to text, greedy."""
    params = SamplingParams(max_tokens=DECODE_TOKENS, temperature=0, ignore_eos=True)
    [answer] = llm.generate("Once upon a time", params)
    assert answer.metrics.decode_tokens_per_second is not None
    return answer.metrics.decode_tokens_per_second


def work_of(graph: Graph) -> dict[str, int]:
    """Weight bytes that one decoded token reads, and operations of one prefilled token and of one row of logits.

    Counts the linear nodes; embedding rows, norms and attention are small beside them.
    """
    nbytes: dict[str, int] = {}
    flops = {"T": 0, "R": 0}
    for node in graph:
        for matrix in node.matrices() if node.op == "linear" else []:
            nbytes[matrix.name] = matrix.nbytes
            flops[node.output.rows] += 2 * matrix.shape[0] * matrix.shape[1]
    return {"weight_nbytes": sum(nbytes.values()), "flops_per_token": flops["T"], "flops_per_logit_row": flops["R"]}


def _num_blocks() -> int:
    stream_blocks = -(-(STREAM_PROMPT_TOKENS + STREAM_DECODE_TOKENS) // BLOCK_SIZE)
    return max(STREAM_COUNTS) * stream_blocks + PREFILL_TOKENS // BLOCK_SIZE


if __name__ == "__main__":
    main()
