"""What an executor is: it compiles a Graph into a Program, and a Program runs one step over a Batch.

Nothing about requests, scheduling or sampling may enter this folder; nothing about tensors may leave it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pellucid.graph.ir import Graph

BLOCK_SIZE = 16
"""Tokens in one KV block (S). Attention sums over keys in chunks at fixed multiples of it."""


@dataclass(frozen=True)
class Batch:
    """One step's work as flat arrays: T tokens of B sequences, and the R rows whose logits are wanted.

    The tokens of sequence b are rows query_start[b]:query_start[b+1]; they are its newest ones, at positions
    seq_lens[b] - count … seq_lens[b] - 1. A token's key and value go to cache slot block_id * S + position % S.
    """

    token_ids: npt.NDArray[np.int32]  # [T]
    positions: npt.NDArray[np.int32]  # [T]
    slot_mapping: npt.NDArray[np.int64]  # [T]
    block_tables: npt.NDArray[np.int32]  # [B, max blocks of a sequence]; unused entries are 0
    query_start: npt.NDArray[np.int32]  # [B + 1], starts with 0 and ends with T
    seq_lens: npt.NDArray[np.int32]  # [B], tokens in the cache after this step
    logit_rows: npt.NDArray[np.int32]  # [R], indices into T


@dataclass(frozen=True)
class StepResult:
    """`logits` is [R, V]; `taps` holds the graph's other outputs. Both are owned by the caller."""

    logits: npt.NDArray[np.float32]
    taps: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True)
class ProgramInfo:
    """What was chosen at compile time, for receipts, `doctor` and benchmarks."""

    executor: str
    isa: str
    threads: int
    kv_cache_dtype: str
    num_blocks: int
    weight_nbytes: int


class Program(Protocol):
    """A graph made ready to run, with its own KV cache of `num_blocks` blocks. Not thread-safe: one step at a time."""

    info: ProgramInfo

    def run(self, batch: Batch) -> StepResult:
        """Run one step. Writes the keys and values of the batch's tokens into their slots and reads, for each sequence,
        the slots of all its earlier tokens, which must have been written by earlier steps (or earlier rows of this one).

        Raises ExecutorError when the step cannot be run; the KV slots of the batch's tokens are then undefined.
        """
        ...

    def close(self) -> None:
        """Free weights, KV cache and threads. Calling `run` afterwards raises ExecutorError."""
        ...


class Executor(Protocol):
    name: str

    def kv_block_nbytes(self, graph: Graph) -> int:
        """Bytes that one KV block of this graph takes, over all its layers."""
        ...

    def compile(self, graph: Graph, num_blocks: int) -> Program:
        """Make `graph` ready to run. Takes the weights' data; the checkpoint may be closed afterwards.

        Raises UnsupportedModel for an operator or type the executor does not have, ResourceError without memory.
        """
        ...
